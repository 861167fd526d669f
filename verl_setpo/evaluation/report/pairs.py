"""Models side by side, problem by problem: what each gained and lost, and which problems are worth reading.

Shapes: P problems, in the order of the comparison's keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from verl_setpo.evaluation.accuracy import solved
from verl_setpo.evaluation.comparison import CONFIDENCE, START, measure, start_of
from verl_setpo.evaluation.generations import Validation
from verl_setpo.evaluation.majority import majority_at_k
from verl_setpo.evaluation.paired import TIE, PairedComparison, compare_paired
from verl_setpo.evaluation.runs import Run


@dataclass(frozen=True)
class Model:
    """A model that was validated: the end of a run, or the start of one."""

    label: str
    run: int | None  # None: the start of all runs
    validation: Validation
    is_start: bool = False


@dataclass(frozen=True)
class ProblemFigures:
    """Of one model, each (P,) float64. Those about answers are None where the file holds none."""

    share_correct_P: np.ndarray
    solved_P: np.ndarray
    distinct_P: np.ndarray | None
    majority_P: np.ndarray | None

    def named(self, num_samples: int, ways: str) -> dict[str, np.ndarray]:
        figures = {"pass@1": self.share_correct_P, "solved at all": self.solved_P}
        more = {f"majority@{num_samples}": self.majority_P, f"distinct correct {ways}": self.distinct_P}
        return figures | {name: figure_P for name, figure_P in more.items() if figure_P is not None}


@dataclass(frozen=True)
class PairedRow:
    """One figure of two models on the same problems."""

    first: str
    second: str
    figure: str
    result: PairedComparison
    from_start: bool = False  # whether the first is a starting model


def validated_models(runs: Sequence[Run]) -> list[Model]:
    """The starting model as each run saw it that validated it, and the last validation of each run that has one."""
    starts = [Model(start_of(run.label), i, run.start, True) for i, run in enumerate(runs) if run.start is not None]
    if len(starts) == 1:
        starts = [Model(START, None, starts[0].validation, True)]
    ends = [(i, run) for i, run in enumerate(runs) if run.validations and not run.is_start_only]
    return starts + [Model(run.label, i, run.final) for i, run in ends]


def problem_figures(model: Model, keys: Sequence[str], num_samples: int) -> ProblemFigures:
    """Figures of each problem, as if it had `num_samples` samples; the vote is that of the first so many."""
    problems = [model.validation.problems[key] for key in keys]
    measures = measure(model.validation, keys, num_samples, [1])
    majority_P = None
    if model.validation.has_answers:
        answers_P = [problem.answers_n[:num_samples] for problem in problems]
        correct_P = [problem.correct_n[:num_samples] for problem in problems]
        majority_P = majority_at_k(answers_P, correct_P, num_samples).accuracy
    return ProblemFigures(
        share_correct_P=measures.pass_at_k[1],
        solved_P=solved([problem.num_correct for problem in problems]),
        distinct_P=measures.distinct,
        majority_P=majority_P,
    )


def model_pairs(models: Sequence[Model]) -> list[tuple[int, int]]:
    """Which models are compared, as indices: the first run with each other, and each run with its own start, or with
    the only one that there is."""
    ends = [i for i, model in enumerate(models) if not model.is_start]
    starts = {model.run: i for i, model in enumerate(models) if model.is_start}
    from_start = [(starts.get(models[i].run, starts.get(None)), i) for i in ends]
    return [(ends[0], i) for i in ends[1:]] + [(start, i) for start, i in from_start if start is not None]


def paired_rows(
    models: Sequence[Model],
    figures: Sequence[ProblemFigures],
    pairs: Iterable[tuple[int, int]],
    num_samples: int,
    ways: str,
) -> list[PairedRow]:
    """`compare_paired` for each pair and each figure that both have."""
    rows = []
    for a, b in pairs:
        first, second = figures[a].named(num_samples, ways), figures[b].named(num_samples, ways)
        for name in first:
            if name in second:
                result = compare_paired(first[name], second[name], confidence=CONFIDENCE)
                rows.append(PairedRow(models[a].label, models[b].label, name, result, models[a].is_start))
    return rows


def most_changed(figures: Sequence[ProblemFigures], pairs: Sequence[tuple[int, int]]) -> list[int]:
    """All problems, those first that are worth reading: of the pairs, by turns the largest gain in right samples, the
    largest loss, and the largest change in distinct answers; at last those that no pair differs on."""
    num_problems = len(figures[0].share_correct_P)
    gains, losses, other = (np.zeros(num_problems) for _ in range(3))
    for a, b in pairs:
        change = figures[b].share_correct_P - figures[a].share_correct_P
        gains, losses = np.maximum(gains, change), np.maximum(losses, -change)
        first, second = figures[a].distinct_P, figures[b].distinct_P
        if first is not None and second is not None:
            other = np.maximum(other, np.abs(second - first))
    orders = [[int(p) for p in np.argsort(-size, kind="stable") if size[p] > TIE] for size in (gains, losses, other)]
    by_turns = [p for turn in zip_longest(*orders) for p in turn if p is not None]
    return list(dict.fromkeys([*by_turns, *range(num_problems)]))
