"""The validation samples of a run, as verl's v1 trainer writes them to `trainer.validation_data_dir`.

One file a validation, `<step>.jsonl`, one line a model output (verl 0.9.1, verl/trainer/ppo/v1/trainer_base.py,
`_validate` and `_write_generations`). The fields that count here:

    input, gts   prompt text and ground truth: together they name the problem in every file
    uid          "{prompt}_{session}_{index}". The prompt part is a new uuid at each validation. A session is one
                 sample; a multi-turn session can have many outputs, all with the score of its last one.
    acc          correct if >= 1. Often a bool, but verl's naive reward manager writes the plain score here.
    score        used as acc where acc is missing or null; `reward` where this is null too
    pred         parsed answer, if the reward function returns one; "" or null: unparseable
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_setpo.evaluation.jsonl import BrokenLineError, SkippedLine, read_json_lines
from verl_setpo.evaluation.text import printable


class NoGenerationsError(FileNotFoundError):
    """There is nothing to read; the message is one sentence for the user."""


@dataclass(frozen=True)
class Sample:
    """One model output. The texts are not kept: a file of long generations would not fit in memory."""

    prompt: str  # the uid's first part, good within one file
    session: int
    index: int
    problem: str  # digest of input and ground truth, good across files
    correct: bool
    answer: str | None  # "" is unparseable; None: the file has no parsed answers


@dataclass(frozen=True)
class Problem:
    """The samples of one prompt at one validation."""

    num_samples: int
    num_correct: int
    answer_counts: tuple[int, ...]  # how often each distinct correct answer was given


@dataclass(frozen=True)
class Validation:
    """One validation: the content of one `<step>.jsonl`."""

    path: Path
    step: int
    problems: dict[str, Problem]  # by a key that is the same in every file
    has_answers: bool  # whether any sample has a `pred`; if not, distinct answers are unknown
    skipped: tuple[SkippedLine, ...]


def validation_files(directory: Path) -> dict[int, Path]:
    """The `<step>.jsonl` files in `directory` by step, ascending. Other files are ignored.

    Raises:
        NoGenerationsError: there is no such directory or no such file in it.
    """
    paths = directory.glob("*.jsonl") if directory.is_dir() else ()
    # fullmatch: verl pads no zeros, so 007.jsonl is somebody else's file.
    files = {int(path.stem): path for path in paths if re.fullmatch(r"0|[1-9][0-9]*", path.stem) and path.is_file()}
    if not files:
        raise NoGenerationsError(
            f"No validation samples in {printable(directory)}: verl writes them there as <step>.jsonl "
            "when trainer.validation_data_dir names that directory."
        )
    return dict(sorted(files.items()))


def read_validation(path: Path) -> Validation:
    """Read one `<step>.jsonl`.

    Lines that are broken or lack a field are skipped with a warning and listed in the result.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file's name is not a step.
    """
    samples, skipped = read_json_lines(path, parse_sample)
    return Validation(
        path=path,
        step=int(path.stem),
        problems=group_samples(samples),
        has_answers=any(sample.answer is not None for sample in samples),
        skipped=tuple(skipped),
    )


def parse_sample(row: dict[str, Any]) -> Sample:
    """One line of the file.

    Raises:
        BrokenLineError: a field is missing or of the wrong type.
    """
    missing = [name for name in ("input", "gts", "uid") if name not in row]
    if missing:
        raise BrokenLineError(f"no {', '.join(missing)}")
    # As verl itself takes it apart; the prompt part may hold underscores of its own.
    match = re.fullmatch(r"(.*)_([0-9]{1,18})_([0-9]{1,18})", str(row["uid"]), flags=re.DOTALL)
    if match is None:
        raise BrokenLineError("uid is not {prompt}_{session}_{index}")
    return Sample(
        prompt=match[1],
        session=int(match[2]),
        index=int(match[3]),
        problem=_digest([row["input"], row["gts"]]),
        correct=_is_correct(row),
        answer=_answer(row),
    )


def group_samples(samples: Iterable[Sample]) -> dict[str, Problem]:
    """Group samples by prompt; of a session with many outputs the last one counts.

    A problem that the data set holds twice stays two problems.
    """
    prompts: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        prompts[sample.prompt].append(sample)
    problems: dict[str, Problem] = {}
    seen: Counter[str] = Counter()
    for outputs in prompts.values():
        # The prompt as the data set has it: later outputs of a session can hold earlier turns in their input.
        digest = min(outputs, key=lambda sample: (sample.index, sample.session)).problem
        problems[f"{digest}-{seen[digest]}"] = _problem(outputs)
        seen[digest] += 1
    return problems


def _problem(outputs: list[Sample]) -> Problem:
    last: dict[int, Sample] = {}
    for sample in outputs:
        if sample.session not in last or sample.index > last[sample.session].index:
            last[sample.session] = sample
    answers = Counter(sample.answer for sample in last.values() if sample.correct and sample.answer)
    return Problem(
        num_samples=len(last),
        num_correct=sum(sample.correct for sample in last.values()),
        answer_counts=tuple(answers.values()),
    )


def _digest(value: Any) -> str:
    # ASCII JSON, so that a lone surrogate in a prompt does no harm.
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()[:24]


def _is_correct(row: dict[str, Any]) -> bool:
    for name in ("acc", "score", "reward"):
        value = row.get(name)
        if value is None:
            continue
        if not isinstance(value, bool | int | float):
            raise BrokenLineError(f"{name} is not a number")
        return value >= 1
    raise BrokenLineError("no acc and no score")


def _answer(row: dict[str, Any]) -> str | None:
    if "pred" not in row:
        return None
    pred = row["pred"]
    if pred is None:
        return ""
    return pred.strip() if isinstance(pred, str) else json.dumps(pred, sort_keys=True)
