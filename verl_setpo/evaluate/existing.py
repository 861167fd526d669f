"""Grade samples that exist: verl's validation files, and the parquet of verl's `main_generation_server`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from verl_setpo.evaluate.grading import WORKERS, Graders, Reward
from verl_setpo.evaluate.journal import Fields, Key, encode, in_order, uid
from verl_setpo.evaluate.manifest import FILE, write_json
from verl_setpo.evaluate.sets import folder_name, read_parquet, split_name
from verl_setpo.evaluation.generations import parse_sample
from verl_setpo.evaluation.jsonl import BrokenLineError, read_json_lines
from verl_setpo.evaluation.text import printable
from verl_setpo.tasks.files import new_folder

_AHEAD = 256  # responses in the graders' hands
_VERDICT = ("score", "reward", "acc", "pred", "grader_failed")


def grade_files(
    specs: Sequence[str],
    out: Path,
    reward: Reward,
    *,
    data_source: str | None = None,
    overwrite: bool = False,
    workers: int = WORKERS,
) -> str | None:
    """Grade each FILE or NAME=FILE into out/NAME/SET/validation/STEP.jsonl, the folder whole or not at all.

    Args:
        data_source: of rows that do not say; verl's validation files do not.
        overwrite: replace an earlier folder.

    Returns:
        The first error that the reward function raised, if any.

    Raises:
        ValueError: a file that cannot be read or graded, or two that would be one; one sentence for the user.
    """
    places: dict[tuple[str, int], Path] = {}
    for spec in specs:
        name, text = split_name(spec)
        path = Path(text)
        place = (name or _run_name(path), _step(path))
        if place in places:
            both = f"{printable(places[place])} and {printable(path)}"
            raise ValueError(f"{both} are both called {place[0]!r}: name one of them, NAME=FILE")
        places[place] = path
    with new_folder(out, record=FILE, overwrite=overwrite) as folder, Graders(reward, workers) as graders:
        for (run, step), path in places.items():
            _grade_file(path, folder / run, step, data_source, graders)
        models: dict[str, dict[str, str]] = {}
        for (run, step), path in places.items():
            models.setdefault(run, {})[str(step)] = str(path)
        function = f"{reward.path}:{reward.name}"
        write_json(folder / FILE, {"graded": True, "models": models, "reward": function, "kwargs": reward.kwargs})
        return graders.first_error


def _grade_file(path: Path, folder: Path, step: int, data_source: str | None, graders: Graders) -> None:
    files: dict[str, IO[bytes]] = {}
    checked: set[str] = set()
    waiting: deque[tuple[Fields, Future[Fields]]] = deque()
    with ExitStack() as stack:

        def write(fields: Fields, verdict: Future[Fields]) -> None:
            name = folder_name(fields["data_source"])
            if name not in files:
                target = folder / name / "validation" / f"{step}.jsonl"
                target.parent.mkdir(parents=True, exist_ok=True)
                files[name] = stack.enter_context(target.open("wb"))
            files[name].write(encode(in_order({**fields, "step": step, **verdict.result()})))

        for fields, extra_info in _read(path, data_source):
            asked = {**{name: fields[name] for name in ("data_source", "output", "gts")}, "extra_info": extra_info}
            _check(path, asked, graders, checked)
            waiting.append((fields, graders.submit(asked)))
            if len(waiting) > _AHEAD:
                write(*waiting.popleft())
        while waiting:
            write(*waiting.popleft())
    if not files:
        raise ValueError(
            f"No line of {printable(path)} is a sample with input, output, gts and uid, as verl writes them."
        )


def _check(path: Path, asked: Fields, graders: Graders, checked: set[str]) -> None:
    """Raises ValueError for a ground truth that our reward cannot grade by; a custom function's are its own."""
    question = json.dumps([asked["data_source"], asked["gts"]], default=str)
    if not graders.reward.is_own or question in checked:
        return
    checked.add(question)
    error = graders.check({**asked, "output": ""})
    if error is not None:
        raise ValueError(
            f"{printable(path)}: {printable(error.removeprefix('ValueError: '))} "
            "(--data-source names the rows' set, --reward path:name another function)"
        )


def _read(path: Path, data_source: str | None) -> Iterator[tuple[Fields, Any]]:
    """The samples of a file without their verdict, and the extra_info of each.

    Raises:
        ValueError: the file is missing or of another kind.
    """
    if path.suffix == ".jsonl":
        if not path.is_file():
            raise ValueError(f"There is no file {printable(path)}.")
        rows, _ = read_json_lines(path, _sample)
        for row in rows:
            source = row.get("data_source") or data_source
            if not source:
                raise ValueError(
                    f"{printable(path)} does not say of which set its rows are, as verl's validation files do not: "
                    "give --data-source, such as gsm8k"
                )
            kept = {name: value for name, value in row.items() if name not in _VERDICT}
            yield {**kept, "data_source": str(source)}, row.get("extra_info")
    elif path.suffix == ".parquet":
        for index, record in enumerate(read_parquet(path, ("prompt", "responses", "reward_model"))):
            yield from _of_record(path, index, record, data_source)
    else:
        raise ValueError(
            f"{printable(path)} is neither .jsonl (verl's validation) nor .parquet (verl's main_generation)"
        )


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row.get("output"), str):
        raise BrokenLineError("no output")
    parse_sample({**row, "score": 0.0, "acc": 0.0})  # raises for a uid that is none
    return row


def _of_record(path: Path, index: int, record: dict[str, Any], data_source: str | None) -> Iterator[tuple[Fields, Any]]:
    source = record.get("data_source") or data_source
    reward, responses = record["reward_model"], record["responses"]
    if not source:
        raise ValueError(f"{printable(path)}, row {index}, has no data_source: give --data-source, such as gsm8k")
    if not isinstance(reward, dict) or reward.get("ground_truth") is None:
        raise ValueError(
            f"{printable(path)}: row {index} has no reward_model.ground_truth, without which nothing is graded"
        )
    if not isinstance(responses, list) or not all(isinstance(response, str) for response in responses):
        raise ValueError(f"{printable(path)}: the responses of row {index} are not a list of texts")
    prompt = "\n".join(f"{message['role']}\n{message['content']}" for message in record["prompt"])
    for number, response in enumerate(responses):
        name = uid(folder_name(str(source)), Key(index, number))
        fields = {"input": prompt, "output": response, "gts": reward["ground_truth"], "uid": name}
        yield {**fields, "data_source": str(source)}, record.get("extra_info")


def _run_name(path: Path) -> str:
    """Of RUN/validation/40.jsonl RUN, of anything else the file's stem."""
    if path.stem.isdecimal():
        parents = [parent.name for parent in path.resolve().parents if parent.name != "validation"]
        return folder_name(parents[0] if parents else path.stem)
    return folder_name(path.stem)


def _step(path: Path) -> int:
    return int(path.stem) if path.suffix == ".jsonl" and path.stem.isdecimal() else 0
