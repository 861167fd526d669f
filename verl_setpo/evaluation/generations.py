"""The validation samples of a run, as verl's v1 trainer writes them to `trainer.validation_data_dir`.

One file a validation, `<step>.jsonl`, one line a model output (verl 0.9.1, verl/trainer/ppo/v1/trainer_base.py,
`_validate` and `_write_generations`). The fields that count here:

    input, gts   prompt text and ground truth: together they name the problem in every file
    uid          "{prompt}_{session}_{index}". The prompt part is a new uuid at each validation. A session is one
                 sample; a multi-turn session can have many outputs, all with the score of its last one.
    acc          correct if >= 1. Often a bool, but verl's naive reward manager writes the plain score here.
    score        used as acc where acc is missing or null; `reward` where this is null too
    pred         parsed answer, if the reward function returns one; "" or null: unparseable
    strategy     how the answer was found, if the reward function returns that, as that of our multiplication task does
    output       the response; without a pred its marked answer is kept, else its length only
                 (`verl_setpo.evaluation.report` reads chosen ones again)
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_setpo.evaluation.jsonl import BrokenLineError, SkippedLine, read_json_lines
from verl_setpo.evaluation.text import printable
from verl_setpo.tasks.answers import final_answer

LONGEST_ANSWER = 200  # characters; of a longer one its beginning and a digest are kept

# Without a pred, marked answers count if so many of the right responses mark theirs: else too few would be found.
MARKED = 0.9
_MARK_CHARS = 20_000  # of the end of a response, where its answer is looked for

STRATEGY, PRED, MARK = "strategy", "pred", "mark"


class NoGenerationsError(FileNotFoundError):
    """There is nothing to read; the message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One model output. The texts are not kept: a file of long generations would not fit in memory."""

    prompt: str  # the uid's first part, good within one file
    session: int
    index: int
    problem: str  # digest of input and ground truth, good across files
    correct: bool
    answer: str | None  # "" is unparseable; None: the file has no parsed answers
    marked: str = ""  # what the response marks as its answer, looked for where there is no parsed one
    strategy: str = ""
    length: int = 0  # characters of the response


@dataclass(frozen=True, slots=True)
class Problem:
    """The samples of one prompt at one validation, n of them in order of their sessions."""

    num_samples: int
    num_correct: int
    answer_counts: tuple[int, ...]  # how often each distinct correct answer, or strategy, was given
    # Details, which two equal problems need not share.
    answers_n: tuple[str, ...] = field(default=(), compare=False, repr=False)  # "": unparseable or unknown
    correct_n: tuple[bool, ...] = field(default=(), compare=False, repr=False)
    length_n: tuple[int, ...] = field(default=(), compare=False, repr=False)  # characters
    prompt: str = field(default="", compare=False)  # the uid's first part, good within one file


@dataclass(frozen=True)
class Validation:
    """One validation: the content of one `<step>.jsonl`."""

    path: Path
    step: int
    problems: dict[str, Problem]  # by a key that is the same in every file
    told_apart_by: str | None  # STRATEGY, PRED or MARK; None: nothing tells distinct answers
    has_answers: bool  # by pred or mark, to vote by
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
    answers = answers_by(samples)
    told_apart = STRATEGY if any(sample.strategy for sample in samples) else answers
    return Validation(
        path=path,
        step=int(path.stem),
        problems=group_samples(samples, told_apart),
        told_apart_by=told_apart,
        has_answers=answers is not None,
        skipped=tuple(skipped),
    )


def answers_by(samples: Sequence[Sample]) -> str | None:
    """PRED or MARK, by which the samples of a file have answers; None: they have none that could be counted."""
    if any(sample.answer is not None for sample in samples):
        return PRED
    right = [bool(sample.marked) for sample in samples if sample.correct]
    return MARK if any(sample.marked for sample in samples) and sum(right) >= MARKED * len(right) else None


def parse_sample(row: dict[str, Any]) -> Sample:
    """One line of the file.

    Raises:
        BrokenLineError: a field is missing or of the wrong type.
    """
    missing = [name for name in ("input", "gts", "uid") if name not in row]
    if missing:
        raise BrokenLineError(f"no {', '.join(missing)}")
    uid = split_uid(row["uid"])
    if uid is None:
        raise BrokenLineError("uid is not {prompt}_{session}_{index}")
    answer = parsed_answer(row)
    output, strategy = row.get("output"), row.get("strategy")
    return Sample(
        # Interned: each stands in many samples.
        prompt=sys.intern(uid[0]),
        session=uid[1],
        index=uid[2],
        problem=sys.intern(problem_digest(row)),
        correct=_is_correct(row),
        answer=None if answer is None else sys.intern(answer),
        marked=sys.intern(marked_answer(output)) if answer is None and isinstance(output, str) else "",
        strategy=sys.intern(_bounded(strategy.strip())) if isinstance(strategy, str) else "",
        length=len(output) if isinstance(output, str) else 0,
    )


def split_uid(uid: Any) -> tuple[str, int, int] | None:
    """`{prompt}_{session}_{index}` as verl itself takes it apart; the prompt part may hold underscores of its own."""
    match = re.fullmatch(r"(.*)_([0-9]{1,18})_([0-9]{1,18})", str(uid), flags=re.DOTALL)
    return None if match is None else (match[1], int(match[2]), int(match[3]))


def problem_digest(row: dict[str, Any]) -> str:
    """What names a problem in every file: prompt text and ground truth. Of ASCII JSON, so that a lone surrogate in a
    prompt does no harm."""
    value = [row.get("input"), row.get("gts")]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()[:24]


def group_samples(samples: Iterable[Sample], told_apart_by: str | None = PRED) -> dict[str, Problem]:
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
        problems[f"{digest}-{seen[digest]}"] = _problem(outputs, told_apart_by)
        seen[digest] += 1
    return problems


def _problem(outputs: list[Sample], told_apart_by: str | None) -> Problem:
    last: dict[int, Sample] = {}
    for sample in outputs:
        if sample.session not in last or sample.index > last[sample.session].index:
            last[sample.session] = sample
    samples = [last[session] for session in sorted(last)]
    ways = Counter(way for sample in samples if sample.correct and (way := way_of(sample, told_apart_by)))
    return Problem(
        num_samples=len(samples),
        num_correct=sum(sample.correct for sample in samples),
        answer_counts=tuple(ways.values()),
        answers_n=tuple(sample.marked if sample.answer is None else sample.answer for sample in samples),
        correct_n=tuple(sample.correct for sample in samples),
        length_n=tuple(sample.length for sample in samples),
        prompt=samples[0].prompt,
    )


def way_of(sample: Sample, told_apart_by: str | None) -> str:
    """What tells a sample from others of its problem; "" for nothing."""
    return {STRATEGY: sample.strategy, PRED: sample.answer or "", MARK: sample.marked}.get(told_apart_by or "", "")


def _is_correct(row: dict[str, Any]) -> bool:
    for name in ("acc", "score", "reward"):
        value = row.get(name)
        if value is None:
            continue
        if not isinstance(value, bool | int | float):
            raise BrokenLineError(f"{name} is not a number")
        return value >= 1
    raise BrokenLineError("no acc and no score")


def parsed_answer(row: dict[str, Any]) -> str | None:
    """`pred` of a line, "" where it is unparseable, None where the line has none."""
    if "pred" not in row:
        return None
    pred = row["pred"]
    if pred is None:
        return ""
    return _bounded(pred.strip() if isinstance(pred, str) else json.dumps(pred, sort_keys=True))


def marked_answer(response: str) -> str:
    r"""What a response marks last by \boxed or <answer>, "" for nothing; spaces and line breaks are one space."""
    return _bounded(" ".join((final_answer(response[-_MARK_CHARS:]) or "").split()))


def _bounded(answer: str) -> str:
    if len(answer) <= LONGEST_ANSWER:
        return answer
    digest = hashlib.sha256(answer.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{answer[:LONGEST_ANSWER]} {digest}"
