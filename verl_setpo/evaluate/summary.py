"""The figures of graded samples: one row for each model and set, from its file alone."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verl_setpo.evaluation import distinct_at_size, majority_at_k, mean_at_n, pass_at_k
from verl_setpo.evaluation.comparison import Estimate, estimate
from verl_setpo.evaluation.generations import PRED, STRATEGY, NoGenerationsError, Sample, parse_sample, way_of
from verl_setpo.evaluation.jsonl import BrokenLineError, read_json_lines
from verl_setpo.evaluation.runs import COMPLETE
from verl_setpo.evaluation.text import printable


@dataclass(frozen=True)
class Figures:
    """What a file shows. All means are over problems, all intervals by drawing problems.

    None: the file does not say (no parsed answers, no tokens).
    """

    run: str
    step: int
    set_name: str
    num_problems: int
    num_samples: int  # a problem has at least so many
    distinct_in: int  # samples; fewer than num_samples where another file of the set has fewer
    pass_at_k: dict[int, Estimate]
    mean_score: Estimate  # mean@n, of partial scores too
    majority: dict[int, tuple[Estimate, Estimate]] | None  # by k: accuracy, vote share
    distinct: Estimate | None  # distinct correct answers, or strategies, in distinct_in samples
    answered: float | None  # share of the samples with a parsed answer
    truncated: float | None  # share of the samples that ran into the limit of tokens
    mean_tokens: float | None
    grader_failed: int
    skipped: int  # lines that are no samples
    incomplete: int  # problems with fewer samples than nearly all others, which are left out


@dataclass(frozen=True)
class _Line:
    sample: Sample
    score: float
    tokens: int | None
    truncated: bool | None
    failed: bool


@dataclass(frozen=True)
class GradedFile:
    """The samples of a file, those of each problem in order. num_samples: each has at least so many.

    incomplete: problems with fewer, which are left out. skipped: lines that are no samples.
    """

    run: str
    step: int
    set_name: str
    lines_P: list[list[_Line]]
    num_samples: int
    incomplete: int
    skipped: int


def read_graded(path: Path, run: str, step: int, set_name: str) -> GradedFile:
    """Read a file of graded samples in verl's format.

    Raises:
        NoGenerationsError: no line is a sample.
        OSError: the file cannot be read.
    """
    lines, skipped = read_json_lines(path, _parse)
    problems: dict[str, dict[int, _Line]] = defaultdict(dict)
    for line in lines:
        # Of a session with many outputs, the last one counts, as for verl.
        known = problems[line.sample.prompt].get(line.sample.session)
        if known is None or line.sample.index > known.sample.index:
            problems[line.sample.prompt][line.sample.session] = line
    if not problems:
        raise NoGenerationsError(f"No line of {printable(path)} is a graded sample in verl's format.")
    # As `verl-setpo report`: a cut file must not cost all problems their samples, so a few may have less.
    counts = sorted(len(problem) for problem in problems.values())
    num_samples = counts[len(counts) - math.ceil(COMPLETE * len(counts))]
    whole = [problem for problem in problems.values() if len(problem) >= num_samples]
    return GradedFile(
        run=run,
        step=step,
        set_name=set_name,
        lines_P=[[line for _, line in sorted(problem.items())] for problem in whole],
        num_samples=num_samples,
        incomplete=len(problems) - len(whole),
        skipped=len(skipped),
    )


def figures(file: GradedFile, ks: Sequence[int] | None = None, distinct_in: int | None = None) -> Figures:
    """The figures of one file.

    Args:
        ks: of pass@k and majority@k; those above the number of samples are left out. None: powers of two, and n.
        distinct_in: samples of which distinct answers are counted, on average; None: all that each problem has.
    """
    lines_P, n = file.lines_P, file.num_samples
    all_lines = [line for lines in lines_P for line in lines]
    n_P = np.array([len(lines) for lines in lines_P])
    correct_P = [[line.sample.correct for line in lines] for lines in lines_P]
    count_P = np.array([sum(correct) for correct in correct_P])
    used_ks = sorted({k for k in (ks or [2**i for i in range(n.bit_length())]) if k <= n} | {1, n})
    distinct_in = n if distinct_in is None else distinct_in
    majority, distinct, answered = None, None, None
    if all(line.sample.answer is not None for line in all_lines):
        answers_P = [[line.sample.answer or "" for line in lines] for lines in lines_P]
        votes = {k: majority_at_k(answers_P, correct_P, k) for k in used_ks}
        majority = {k: (estimate(vote.accuracy), estimate(vote.vote_share)) for k, vote in votes.items()}
        # As in a report: strategies, where the reward names them, since a product has but one correct answer.
        ways = STRATEGY if any(line.sample.strategy for line in all_lines) else PRED
        counts_P = [
            tuple(Counter(way for line in lines if line.sample.correct and (way := way_of(line.sample, ways))).values())
            for lines in lines_P
        ]
        distinct = estimate(distinct_at_size(n_P, counts_P, distinct_in).expected)
        answered = sum(answer != "" for answers in answers_P for answer in answers) / len(all_lines)
    truncated = [line.truncated for line in all_lines if line.truncated is not None]
    tokens = [line.tokens for line in all_lines if line.tokens is not None]
    return Figures(
        run=file.run,
        step=file.step,
        set_name=file.set_name,
        num_problems=len(lines_P),
        num_samples=n,
        distinct_in=distinct_in,
        pass_at_k={k: estimate(pass_at_k(n_P, count_P, k)) for k in used_ks},
        mean_score=estimate(mean_at_n([[line.score for line in lines] for lines in lines_P])),
        majority=majority,
        distinct=distinct,
        answered=answered,
        truncated=sum(truncated) / len(truncated) if truncated else None,
        mean_tokens=sum(tokens) / len(tokens) if tokens else None,
        grader_failed=sum(line.failed for line in all_lines),
        skipped=file.skipped,
        incomplete=file.incomplete,
    )


def compared(files: Sequence[GradedFile], ks: Sequence[int] | None = None) -> list[Figures]:
    """The figures of each file, distinct answers of those of one set in equally many samples."""
    smallest = {file.set_name: file.num_samples for file in sorted(files, key=lambda file: -file.num_samples)}
    return [figures(file, ks, smallest[file.set_name]) for file in files]


def _parse(row: dict[str, Any]) -> _Line:
    sample = parse_sample(row)
    score = row.get("score", row.get("reward"))
    if not isinstance(score, bool | int | float) or not math.isfinite(score):
        raise BrokenLineError("no score")
    tokens, reason = row.get("num_tokens"), row.get("finish_reason")
    return _Line(
        sample=sample,
        score=float(score),
        tokens=tokens if isinstance(tokens, int) else None,
        truncated=reason == "length" if isinstance(reason, str) else None,
        failed=bool(row.get("grader_failed")),
    )
