"""Grade samples that exist: verl's validation files, and the parquet of verl's `main_generation_server`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from verl_setpo.evaluate.grading import WORKERS, Graders, Reward
from verl_setpo.evaluate.journal import Fields, Key, encode, in_order, uid
from verl_setpo.evaluate.manifest import FILE, write_json
from verl_setpo.evaluate.notes import counted
from verl_setpo.evaluate.sets import folder_name, read_parquet, split_name
from verl_setpo.evaluation.generations import parse_sample
from verl_setpo.evaluation.jsonl import BrokenLineError, read_json_lines
from verl_setpo.evaluation.text import printable
from verl_setpo.tasks.files import new_folder

_AHEAD = 256  # responses in the graders' hands
_VERDICT = ("score", "reward", "acc", "pred", "grader_failed")
_STRONGLY = 0.1
"""Share of the samples with another verdict from which on the reward may not be that of the file."""


class _Read(NamedTuple):
    """A sample without its verdict; extra_info of its row; whether the file itself calls it correct, if it says so."""

    fields: Fields
    extra_info: Any
    correct: bool | None


@dataclass
class _Verdicts:
    """The file's own verdicts beside the new ones. said, paid: samples that are correct by the one and by the other."""

    both: int = 0
    said: int = 0
    paid: int = 0
    differ: int = 0
    lost: int = 0

    def add(self, said: bool, paid: bool) -> None:
        self.both += 1
        self.said += said
        self.paid += paid
        self.differ += said != paid
        self.lost += said and not paid

    def note(self, path: Path) -> str | None:
        """A sentence where they differ in many samples, or in most of those that the file calls correct."""
        if self.differ <= _STRONGLY * self.both and self.lost <= self.said / 2:
            return None
        return (
            f"{printable(path)}: {self.said:,} of {self.both:,} samples are correct by the file's own scores, "
            f"{self.paid:,} by this reward, and {self.differ:,} verdicts differ: are --data-source and --reward those "
            "of the file?"
        )


@dataclass
class Outcome:
    """What came of grading. first_error: that the reward function raised. notes: what to know of the files."""

    first_error: str | None = None
    notes: list[str] = field(default_factory=list)


def grade_files(
    specs: Sequence[str],
    out: Path,
    reward: Reward,
    *,
    data_source: str | None = None,
    overwrite: bool = False,
    workers: int = WORKERS,
) -> Outcome:
    """Grade each FILE or NAME=FILE into out/NAME/SET/validation/STEP.jsonl, the folder whole or not at all.

    Args:
        data_source: of rows that do not say; verl's validation files do not.
        overwrite: replace an earlier folder.

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
        said: list[str] = []
        for (run, step), path in places.items():
            said += _grade_file(path, folder / run, step, data_source, graders)
        models: dict[str, dict[str, str]] = {}
        for (run, step), path in places.items():
            models.setdefault(run, {})[str(step)] = str(path)
        function = f"{reward.path}:{reward.name}"
        write_json(folder / FILE, {"graded": True, "models": models, "reward": function, "kwargs": reward.kwargs})
        return Outcome(graders.first_error, said)


def _grade_file(path: Path, folder: Path, step: int, data_source: str | None, graders: Graders) -> list[str]:
    """Returns notes."""
    said: list[str] = []
    verdicts = _Verdicts()
    files: dict[str, IO[bytes]] = {}
    checked: set[str] = set()
    waiting: deque[tuple[_Read, Future[Fields]]] = deque()
    with ExitStack() as stack:

        def write(read: _Read, verdict: Future[Fields]) -> None:
            fields, graded = read.fields, verdict.result()
            if read.correct is not None:
                verdicts.add(read.correct, parse_sample({**fields, **graded}).correct)
            name = folder_name(fields["data_source"])
            if name not in files:
                target = folder / name / "validation" / f"{step}.jsonl"
                target.parent.mkdir(parents=True, exist_ok=True)
                files[name] = stack.enter_context(target.open("wb"))
            files[name].write(encode(in_order({**fields, "step": step, **graded})))

        for read in _read(path, data_source, said):
            asked = {name: read.fields[name] for name in ("data_source", "output", "gts")}
            asked["extra_info"] = read.extra_info
            _check(path, asked, graders, checked)
            waiting.append((read, graders.submit(asked)))
            if len(waiting) > _AHEAD:
                write(*waiting.popleft())
        while waiting:
            write(*waiting.popleft())
    if not files:
        raise ValueError(
            f"No line of {printable(path)} is a sample with input, output, gts and uid, as verl writes them."
        )
    note = verdicts.note(path)
    return said if note is None else [*said, note]


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


def _read(path: Path, data_source: str | None, said: list[str]) -> Iterator[_Read]:
    """The samples of a file. said: takes a note of lines that are none.

    Raises:
        ValueError: the file is missing or of another kind.
    """
    if path.suffix == ".jsonl":
        if not path.is_file():
            raise ValueError(f"There is no file {printable(path)}.")
        rows, skipped = read_json_lines(path, _sample)
        if skipped:
            lines = counted(len(skipped), "line is no sample and was", "lines are no samples and were")
            said.append(f"{printable(path)}: {lines} left out, first line {skipped[0].line} ({skipped[0].reason}).")
        for row in rows:
            source = row.get("data_source") or data_source
            if not source:
                raise ValueError(
                    f"{printable(path)} does not say of which set its rows are, as verl's validation files do not: "
                    "give --data-source, such as gsm8k"
                )
            kept = {name: value for name, value in row.items() if name not in _VERDICT}
            yield _Read({**kept, "data_source": str(source)}, row.get("extra_info"), _own_verdict(row))
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


def _own_verdict(row: dict[str, Any]) -> bool | None:
    try:
        return parse_sample(row).correct
    except BrokenLineError:  # it has no score
        return None


def _of_record(path: Path, index: int, record: dict[str, Any], data_source: str | None) -> Iterator[_Read]:
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
        yield _Read({**fields, "data_source": str(source)}, record.get("extra_info"), None)


def _run_name(path: Path) -> str:
    """Of RUN/validation/40.jsonl RUN, of anything else the file's stem."""
    if path.stem.isdecimal():
        parents = [parent.name for parent in path.resolve().parents if parent.name != "validation"]
        return folder_name(parents[0] if parents else path.stem)
    return folder_name(path.stem)


def _step(path: Path) -> int:
    return int(path.stem) if path.suffix == ".jsonl" and path.stem.isdecimal() else 0
