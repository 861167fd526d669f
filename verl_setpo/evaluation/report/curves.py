"""Curves over validation samples that ask for more than counts: majority@k, and how early responses part.

Both are measured on at most MOST_PROBLEMS problems: the keys of problems are digests, so the first in their order are
as good as drawn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from verl_setpo.evaluation.branching import branches_by_position
from verl_setpo.evaluation.comparison import Estimate, Row, estimate
from verl_setpo.evaluation.generations import Validation
from verl_setpo.evaluation.majority import majority_at_k
from verl_setpo.evaluation.report.pairs import Model

MOST_PROBLEMS = 500
POSITIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_PIECE = re.compile(r"\w+|[^\w\s]")
_READ_CHARS = 4096  # of a response; 64 pieces end before that unless somebody wants to be slow


@dataclass(frozen=True)
class Line:
    """What has a curve of its own, as in the table: the end of a run, the start of one, or that of several together."""

    label: str
    run: int | None  # None: the start of several runs, or of all
    is_start: bool
    models: tuple[int, ...]  # over which each problem is averaged


@dataclass(frozen=True)
class EstimateCurve:
    """A curve with its intervals."""

    line: Line
    x: tuple[int, ...]
    y: tuple[Estimate, ...]


def curve_lines(models: Sequence[Model], starts: Sequence[Row]) -> list[Line]:
    """The lines for the rows of a table: its starts, one for all or one for each run that has it, then the runs."""
    each = [Line(model.label, model.run, model.is_start, (i,)) for i, model in enumerate(models)]
    if len(starts) != 1:
        return each
    together = tuple(i for i, model in enumerate(models) if model.is_start)
    return [Line(starts[0].label, None, True, together), *(line for line in each if not line.is_start)]


def curve_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """The problems to measure these curves on."""
    return tuple(sorted(keys)[:MOST_PROBLEMS])


def majority_curve(line: Line, models: Sequence[Model], keys: Sequence[str], num_samples: int) -> EstimateCurve | None:
    """Majority@k at powers of two up to `num_samples`, of the first so many samples; None: no answers are known."""
    validations = [models[i].validation for i in line.models if models[i].validation.has_answers]
    if not validations:
        return None
    ks = sorted({2**i for i in range(num_samples.bit_length())} | {num_samples})
    accuracy_VKP = [[_majority(validation, keys, num_samples, k) for k in ks] for validation in validations]
    return EstimateCurve(line, tuple(ks), tuple(estimate(of_k) for of_k in np.mean(accuracy_VKP, axis=0)))


def _majority(validation: Validation, keys: Sequence[str], num_samples: int, k: int) -> np.ndarray:
    """(P,)"""
    problems = [validation.problems[key] for key in keys]
    answers_P = [problem.answers_n[:num_samples] for problem in problems]
    correct_P = [problem.correct_n[:num_samples] for problem in problems]
    return majority_at_k(answers_P, correct_P, k).accuracy


def pieces(response: str) -> list[str]:
    """The first words, numbers and signs of a response. verl's files hold no tokens, and this needs no tokenizer."""
    return [match[0] for match in islice(_PIECE.finditer(response[:_READ_CHARS]), POSITIONS[-1])]


def branching_curve(
    line: Line, piece_ids: Sequence[Sequence[Sequence[Sequence[int]]]], positions: Sequence[int]
) -> EstimateCurve:
    """Mean number of different beginnings among the responses to a problem, by their length in pieces.

    Args:
        piece_ids: for each model, those of the line are used, and each problem the pieces of each response as integers.
        positions: lengths, ascending.
    """
    branches_VPT = [branches_by_position(piece_ids[i], num_positions=positions[-1]) for i in line.models]
    branches_PT = np.mean(branches_VPT, axis=0)
    y = tuple(estimate(branches_PT[:, position - 1]) for position in positions)
    return EstimateCurve(line, tuple(positions), y)


def positions_for(longest: int) -> tuple[int, ...]:
    """The positions up to that at which the longest response has ended: afterwards no curve changes."""
    return tuple(p for i, p in enumerate(POSITIONS) if i == 0 or POSITIONS[i - 1] < longest)
