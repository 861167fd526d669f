"""Put runs side by side: same problems, same number of samples, one interval for each figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from verl_setpo.evaluation.bootstrap import bootstrap_interval
from verl_setpo.evaluation.generations import Validation
from verl_setpo.evaluation.measures import distinct_at_size, pass_at_k
from verl_setpo.evaluation.runs import COMPLETE, STEP_SECONDS, Run
from verl_setpo.evaluation.text import printable

CONFIDENCE = 0.95


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
    """One row of the table. Diversity is None where the files hold no parsed answers."""

    label: str
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
    start: Row | None  # the model before training, by the step-0 validations
    num_problems: int
    num_samples: int  # a problem; diversity is the expected one in so many samples
    ks: tuple[int, ...]  # those asked for that num_samples allows, and 1
    notes: tuple[str, ...]  # what a reader must know to judge the figures, a sentence each


def compare(runs: Sequence[Run], ks: Sequence[int]) -> Comparison:
    """Compare the last complete validation of each run, and the starting model.

    Only problems that all of these validations hold are used. Validations with different numbers of samples are
    brought to the smallest: pass@k is unbiased for any, and diversity is `distinct_at_size`.

    Raises:
        NothingInCommonError: no problem is in all runs.
    """
    starts = [run.start for run in runs if run.start is not None]
    compared = [run.final for run in runs] + starts
    keys, num_samples, notes = _common_problems(compared)
    used_ks = tuple(sorted({1} | {k for k in ks if k <= num_samples}))
    too_large = sorted(set(ks) - set(used_ks))
    if too_large:
        left_out = ", ".join(map(str, too_large))
        notes.append(f"Left out: k = {left_out}, because there are only {num_samples} samples a problem.")
    notes += _notes_on_steps(runs) + _notes_on_start(runs, keys) + _notes_on_files(runs)

    curve_ks = sorted(set(used_ks) | {2**i for i in range(num_samples.bit_length())} | {num_samples})
    rows = tuple(_run_row(run, keys, num_samples, curve_ks) for run in runs)
    start = None
    if starts:
        measures = _mean_measures([_measure(v, keys, num_samples, curve_ks) for v in starts])
        start = _row("start", 0, measures, step_seconds=None, progress=())
    return Comparison(rows, start, len(keys), num_samples, used_ks, tuple(notes))


@dataclass(frozen=True)
class _Measures:
    """Figures of each of P problems."""

    pass_at_k: dict[int, np.ndarray]  # each (P,)
    distinct: np.ndarray | None  # (P,)
    one_or_more: np.ndarray | None
    two_or_more: np.ndarray | None


def _measure(validation: Validation, keys: Sequence[str], num_samples: int, ks: Sequence[int]) -> _Measures:
    problems = [validation.problems[key] for key in keys]
    n_P = np.array([problem.num_samples for problem in problems], dtype=np.int64)
    c_P = np.array([problem.num_correct for problem in problems], dtype=np.int64)
    solved = {k: pass_at_k(n_P, c_P, k) for k in ks}
    if not validation.has_answers:
        return _Measures(solved, None, None, None)
    return _Measures(solved, *distinct_at_size(n_P, [problem.answer_counts for problem in problems], num_samples))


def _mean_measures(measures: Sequence[_Measures]) -> _Measures:
    """Average each problem over validations of one model. Not pooled: runs with one seed hold the same samples."""

    def mean(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
        known = [array for array in arrays if array is not None]
        return np.mean(known, axis=0) if known else None

    return _Measures(
        pass_at_k={k: np.mean([m.pass_at_k[k] for m in measures], axis=0) for k in measures[0].pass_at_k},
        distinct=mean([m.distinct for m in measures]),
        one_or_more=mean([m.one_or_more for m in measures]),
        two_or_more=mean([m.two_or_more for m in measures]),
    )


def _estimate(values_P: np.ndarray) -> Estimate:
    return Estimate(float(values_P.mean()), *bootstrap_interval(values_P, confidence=CONFIDENCE))


def _row(label: str, step: int, measures: _Measures, step_seconds: float | None, progress: tuple[Point, ...]) -> Row:
    wide, average_mode = None, None
    if measures.distinct is not None and measures.one_or_more is not None and measures.two_or_more is not None:
        wide = _estimate(measures.two_or_more)
        # Of the expected number, problems with one distinct answer have one, those with none have none.
        on_wide = measures.distinct - (measures.one_or_more - measures.two_or_more)
        average_mode = float(on_wide.sum() / measures.two_or_more.sum()) if wide.mean > 0 else None
    return Row(
        label=label,
        step=step,
        pass_at_k={k: _estimate(values_P) for k, values_P in measures.pass_at_k.items()},
        distinct=None if measures.distinct is None else _estimate(measures.distinct),
        wide=wide,
        average_mode=average_mode,
        step_seconds=step_seconds,
        progress=progress,
    )


def _run_row(run: Run, keys: Sequence[str], num_samples: int, ks: Sequence[int]) -> Row:
    progress = []
    for validation in run.validations:
        known = [key for key in keys if _holds(validation, key, num_samples)]
        if len(known) < COMPLETE * len(keys):
            continue  # too few of the problems, or of their samples, for a point of the curve
        measures = _measure(validation, known, num_samples, [1])
        distinct = None if measures.distinct is None else _estimate(measures.distinct)
        progress.append(Point(validation.step, _estimate(measures.pass_at_k[1]), distinct))
    measures = _measure(run.final, keys, num_samples, ks)
    return _row(run.label, run.final.step, measures, median_step_seconds(run.step_seconds), tuple(progress))


def _holds(validation: Validation, key: str, num_samples: int) -> bool:
    return key in validation.problems and validation.problems[key].num_samples >= num_samples


def median_step_seconds(step_seconds: dict[int, float] | None) -> float | None:
    """Median seconds a training step without the first, which compiles and fills caches; None if there is no more."""
    if step_seconds is None or len(step_seconds) < 2:
        return None
    first = min(step_seconds)
    return statistics.median(seconds for step, seconds in step_seconds.items() if step != first)


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


def _notes_on_steps(runs: Sequence[Run]) -> list[str]:
    notes = []
    if len({run.final.step for run in runs}) > 1:
        steps = ", ".join(f"{printable(run.label)} {run.final.step}" for run in runs)
        notes.append(f"The runs are compared at different steps: {steps}.")
    for run in runs:
        if run.final.step == 0:
            notes.append(f"{printable(run.label)} has no validation after step 0: its row is the starting model.")
        if run.incomplete:
            steps = ", ".join(str(v.step) for v in run.incomplete)
            notes.append(
                f"{printable(run.label)}: the validation of step {steps} is left out, because it holds fewer than "
                f"{COMPLETE:.0%} of the problems."
            )
    return notes


def _notes_on_start(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    without = [printable(run.label) for run in runs if run.start is None]
    notes = []
    if without:
        cure = "set trainer.val_before_train=True to get one"
        notes.append(f"No validation of step 0 in {', '.join(without)} ({cure}).")
    first: tuple[str, np.ndarray] | None = None
    for run in runs:
        if run.start is None:
            continue
        solved_P = _measure(run.start, keys, 1, [1]).pass_at_k[1]
        if first is None:
            first = (run.label, solved_P)
            continue
        # Paired over problems and at 99.9 %, so that sampling noise seldom raises it.
        low, high = bootstrap_interval(solved_P - first[1], confidence=0.999)
        if not low <= 0 <= high:
            notes.append(
                f"Pass@1 at step 0 is {first[1].mean():.3f} in {printable(first[0])} and {solved_P.mean():.3f} in "
                f"{printable(run.label)}: these runs may not have the same starting model."
            )
    return notes


def _notes_on_files(runs: Sequence[Run]) -> list[str]:
    notes = []
    for run in runs:
        label = printable(run.label)
        if run.skipped:
            files = ", ".join(sorted({printable(item.path.name) for item in run.skipped}))
            lines = "1 broken line was" if len(run.skipped) == 1 else f"{len(run.skipped)} broken lines were"
            notes.append(f"{label}: {lines} skipped in {files}.")
        if not run.final.has_answers:
            notes.append(f"{label}: no distinct answers, because its reward function returns no pred.")
        if run.step_seconds is None:
            cure = f"logger file with VERL_FILE_LOGGER_PATH={printable(run.path)}/metrics.jsonl"
            notes.append(f"{label}: no seconds a step, because there is no metrics.jsonl ({cure}).")
        elif median_step_seconds(run.step_seconds) is None:
            notes.append(f"{label}: no seconds a step, because metrics.jsonl has {STEP_SECONDS} of one step at most.")
    return notes
