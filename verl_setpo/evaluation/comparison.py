"""Put runs side by side: same problems, same number of samples, one interval for each figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from verl_setpo.evaluation.bootstrap import bootstrap_interval
from verl_setpo.evaluation.generations import STRATEGY, Validation
from verl_setpo.evaluation.measures import distinct_at_size, pass_at_k
from verl_setpo.evaluation.report.notes import (
    notes_on_answers,
    notes_on_files,
    notes_on_missing_starts,
    notes_on_steps,
    notes_on_unlike_starts,
)
from verl_setpo.evaluation.runs import COMPLETE, Run, median_step_seconds

CONFIDENCE = 0.95
DEFAULT_KS = (1, 4, 16, 64)
START = "starting model"


class NothingInCommonError(ValueError):
    """The runs cannot be compared; the message is one sentence for the user."""


class Estimate(NamedTuple):
    """A mean over problems with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One validation of a run."""

    step: int
    pass_at_1: Estimate
    distinct: Estimate | None


@dataclass(frozen=True)
class Row:
    """One row of the table. Diversity is None where the files hold no answers."""

    label: str
    run: int | None  # its place among the runs given; None: the start of several runs, or of all
    step: int
    pass_at_k: dict[int, Estimate]  # the ks asked for, and powers of two for the curve
    distinct: Estimate | None  # distinct correct answers a problem
    wide: Estimate | None  # share of the problems with at least two
    average_mode: float | None  # distinct correct answers on those; None also where there are none
    step_seconds: float | None  # median
    progress: tuple[Point, ...]


@dataclass(frozen=True)
class Comparison:
    runs: tuple[Row, ...]
    starts: tuple[Row, ...]  # the model before training: one row, or one a run where these are different models
    keys: tuple[str, ...]  # of the problems compared on
    num_samples: int  # a problem; diversity is the expected one in so many samples
    ks: tuple[int, ...]  # those asked for that num_samples allows, and 1
    notes: tuple[str, ...]  # what a reader must know to judge the figures, a sentence each
    ways: str = "answers"  # what is counted as distinct; "strategies" where all runs tell them

    @property
    def num_problems(self) -> int:
        return len(self.keys)


def compare(runs: Sequence[Run], ks: Sequence[int] | None = None) -> Comparison:
    """Compare the last complete validation of each run that has one, and the starting model.

    Only problems that all of these validations hold are used. Validations with different numbers of samples are
    brought to the smallest: pass@k is unbiased for any, and diversity is `distinct_at_size`.

    Args:
        runs: at least one with a validation.
        ks: of pass@k; None: those of DEFAULT_KS that there are samples for.

    Raises:
        NothingInCommonError: no problem is in all runs.
    """
    validated = [run for run in runs if run.validations]
    starts = [(i, run, run.start) for i, run in enumerate(runs) if run.start is not None]
    keys, num_samples, notes = _common_problems([run.final for run in validated] + [start for _, _, start in starts])
    used_ks = tuple(sorted({1} | {k for k in ks or DEFAULT_KS if k <= num_samples}))
    too_large = sorted(set(ks or ()) - set(used_ks))
    if too_large:
        left_out = ", ".join(map(str, too_large))
        notes.append(f"Left out: k = {left_out}, because there are only {num_samples} samples a problem.")
    curve_ks = sorted(set(used_ks) | {2**i for i in range(num_samples.bit_length())} | {num_samples})
    at_start = [measure(start, keys, num_samples, curve_ks) for _, _, start in starts]
    solved = [measures.pass_at_k[1] for measures in at_start]
    unlike = notes_on_unlike_starts([run.label for _, run, _ in starts], solved)
    notes += notes_on_steps(validated) + notes_on_missing_starts(validated) + unlike
    notes += notes_on_answers(validated) + notes_on_files(validated)
    start_rows: list[Row] = []
    if unlike:
        for (i, run, _), measures in zip(starts, at_start, strict=True):
            start_rows.append(_row(start_of(run.label), i, 0, measures))
    elif starts:
        same = all(start.problems == starts[0][2].problems for _, _, start in starts)  # one file, copied
        label = START if same else f"{START} (mean of {len(starts)} runs)"
        start_rows.append(_row(label, None, 0, _mean_measures(at_start)))
    return Comparison(
        runs=tuple(_run_row(run, i, keys, num_samples, curve_ks) for i, run in enumerate(runs) if run.validations),
        starts=tuple(start_rows),
        keys=tuple(keys),
        num_samples=num_samples,
        ks=used_ks,
        notes=tuple(notes),
        ways="strategies" if all(run.final.told_apart_by == STRATEGY for run in validated) else "answers",
    )


def start_of(label: str) -> str:
    """What the model that a run started from is called where each run has its own."""
    return f"{label}, step 0"


@dataclass(frozen=True)
class Measures:
    """Figures of each of P problems, those about distinct answers None where the files hold none."""

    pass_at_k: dict[int, np.ndarray]  # each (P,)
    distinct: np.ndarray | None  # (P,)
    one_or_more: np.ndarray | None
    two_or_more: np.ndarray | None


def measure(validation: Validation, keys: Sequence[str], num_samples: int, ks: Sequence[int]) -> Measures:
    """Pass@k and distinct answers of the problems `keys`, in that order, the latter as if of `num_samples` each."""
    problems = [validation.problems[key] for key in keys]
    n_P = np.array([problem.num_samples for problem in problems], dtype=np.int64)
    c_P = np.array([problem.num_correct for problem in problems], dtype=np.int64)
    solved = {k: pass_at_k(n_P, c_P, k) for k in ks}
    if validation.told_apart_by is None:
        return Measures(solved, None, None, None)
    return Measures(solved, *distinct_at_size(n_P, [problem.answer_counts for problem in problems], num_samples))


def _mean_measures(measures: Sequence[Measures]) -> Measures:
    """Average each problem over validations of one model. Not pooled: runs with one seed hold the same samples."""

    def mean(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
        known = [array for array in arrays if array is not None]
        return np.mean(known, axis=0) if known else None

    return Measures(
        pass_at_k={k: np.mean([m.pass_at_k[k] for m in measures], axis=0) for k in measures[0].pass_at_k},
        distinct=mean([m.distinct for m in measures]),
        one_or_more=mean([m.one_or_more for m in measures]),
        two_or_more=mean([m.two_or_more for m in measures]),
    )


def estimate(values_P: np.ndarray) -> Estimate:
    """The mean of one figure a problem, (P,), with its interval over problems, whose order changes neither."""
    values_P = np.sort(values_P)  # evaluate and report have the problems in different orders
    return Estimate(float(values_P.mean()), *bootstrap_interval(values_P, confidence=CONFIDENCE))


def _row(
    label: str,
    run: int | None,
    step: int,
    measures: Measures,
    step_seconds: float | None = None,
    progress: tuple[Point, ...] = (),
) -> Row:
    wide, average_mode = None, None
    if measures.distinct is not None and measures.one_or_more is not None and measures.two_or_more is not None:
        wide = estimate(measures.two_or_more)
        # Of the expected number, problems with one distinct answer have one, those with none have none.
        on_wide = measures.distinct - (measures.one_or_more - measures.two_or_more)
        average_mode = float(on_wide.sum() / measures.two_or_more.sum()) if wide.mean > 0 else None
    return Row(
        label=label,
        run=run,
        step=step,
        pass_at_k={k: estimate(values_P) for k, values_P in measures.pass_at_k.items()},
        distinct=None if measures.distinct is None else estimate(measures.distinct),
        wide=wide,
        average_mode=average_mode,
        step_seconds=step_seconds,
        progress=progress,
    )


def _run_row(run: Run, index: int, keys: Sequence[str], num_samples: int, ks: Sequence[int]) -> Row:
    progress = []
    for validation in run.validations:
        known = [key for key in keys if _holds(validation, key, num_samples)]
        if len(known) < COMPLETE * len(keys):
            continue  # too few of the problems, or of their samples, for a point of the curve
        measures = measure(validation, known, num_samples, [1])
        distinct = None if measures.distinct is None else estimate(measures.distinct)
        progress.append(Point(validation.step, estimate(measures.pass_at_k[1]), distinct))
    measures = measure(run.final, keys, num_samples, ks)
    return _row(run.label, index, run.final.step, measures, median_step_seconds(run.step_seconds), tuple(progress))


def _holds(validation: Validation, key: str, num_samples: int) -> bool:
    return key in validation.problems and validation.problems[key].num_samples >= num_samples


def _common_problems(validations: Sequence[Validation]) -> tuple[list[str], int, list[str]]:
    """The problems to compare on, the samples that each of them has at least, and notes."""
    everywhere = set.intersection(*(set(v.problems) for v in validations))
    if not everywhere:
        raise NothingInCommonError(
            "The runs share no validation problem (same prompt text and ground truth), so they cannot be compared."
        )
    fewest = {key: min(v.problems[key].num_samples for v in validations) for key in everywhere}
    # A lost session or a cut file must not cost all problems their samples: a few problems may have less.
    num_samples = sorted(fewest.values())[len(fewest) - math.ceil(COMPLETE * len(fewest))]
    keys = sorted(key for key in everywhere if fewest[key] >= num_samples)

    notes = []
    total = len(set.union(*(set(v.problems) for v in validations)))
    if len(everywhere) < total:
        notes.append(f"Only the {len(everywhere)} of {total} problems that all runs hold are compared.")
    if len(keys) < len(everywhere):
        lost = len(everywhere) - len(keys)
        which = (
            f"1 problem with fewer than {num_samples} samples is"
            if lost == 1
            else (f"{lost} problems with fewer than {num_samples} samples are")
        )
        notes.append(f"{which} left out.")
    if any(v.problems[key].num_samples > num_samples for v in validations for key in keys):
        notes.append(
            f"Some validations have more than {num_samples} samples a problem: distinct answers are what "
            f"{num_samples} of them would show on average."
        )
    return keys, num_samples, notes
