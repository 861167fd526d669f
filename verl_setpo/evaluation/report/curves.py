"""Curves over validation samples that ask for more than counts: majority@k, and how early responses part.

Both are measured on at most MOST_PROBLEMS problems: the keys of problems are digests, so the first in their order are
as good as drawn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from verl_setpo.evaluation.branching import branches_by_position
from verl_setpo.evaluation.comparison import Estimate, estimate
from verl_setpo.evaluation.majority import majority_at_k
from verl_setpo.evaluation.report.pairs import Model

MOST_PROBLEMS = 500
POSITIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_PIECE = re.compile(r"\w+|[^\w\s]")
_READ_CHARS = 4096  # of a response; 64 pieces end before that unless somebody wants to be slow


@dataclass(frozen=True)
class EstimateCurve:
    """A curve of a model with its intervals."""

    label: str
    run: int | None  # None: the starting model
    x: tuple[int, ...]
    y: tuple[Estimate, ...]


def curve_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """The problems to measure these curves on."""
    return tuple(sorted(keys)[:MOST_PROBLEMS])


def majority_curve(model: Model, keys: Sequence[str], num_samples: int) -> EstimateCurve | None:
    """Majority@k at powers of two up to `num_samples`, of the first so many samples; None: no answers are known."""
    if not model.validation.has_answers:
        return None
    problems = [model.validation.problems[key] for key in keys]
    answers_P = [problem.answers_n[:num_samples] for problem in problems]
    correct_P = [problem.correct_n[:num_samples] for problem in problems]
    ks = sorted({2**i for i in range(num_samples.bit_length())} | {num_samples})
    y = tuple(estimate(majority_at_k(answers_P, correct_P, k).accuracy) for k in ks)
    return EstimateCurve(model.label, model.run, tuple(ks), y)


def pieces(response: str) -> list[str]:
    """The first words, numbers and signs of a response. verl's files hold no tokens, and this needs no tokenizer."""
    return [match[0] for match in islice(_PIECE.finditer(response[:_READ_CHARS]), POSITIONS[-1])]


def branching_curve(
    model: Model, piece_ids: Sequence[Sequence[Sequence[int]]], positions: Sequence[int]
) -> EstimateCurve:
    """Mean number of different beginnings among the responses to a problem, by their length in pieces.

    Args:
        piece_ids: for each problem the pieces of each response as integers.
        positions: lengths, ascending.
    """
    branches_PT = branches_by_position(piece_ids, num_positions=positions[-1])
    y = tuple(estimate(branches_PT[:, position - 1].astype(float)) for position in positions)
    return EstimateCurve(model.label, model.run, tuple(positions), y)


def positions_for(longest: int) -> tuple[int, ...]:
    """The positions up to that at which the longest response has ended: afterwards no curve changes."""
    return tuple(p for i, p in enumerate(POSITIONS) if i == 0 or POSITIONS[i - 1] < longest)
