"""Two runs on the same problems: the difference, how sure it is, and on how many problems it shows. numpy only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from verl_setpo.evaluation.bootstrap import Interval, bootstrap_interval

TIE = 1e-9
"""Figures of a problem that are nearer are the same: the same pass@k from other counts differs in its last digits."""


class PairedComparison(NamedTuple):
    """The second run minus the first, over P problems."""

    difference: float  # mean over the problems
    interval: Interval  # of the mean, over problems
    gained: int  # problems on which the second run is better
    lost: int  # problems on which it is worse
    tied: int
    p_value: float  # of the sign test


def compare_paired(
    first: Any, second: Any, *, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> PairedComparison:
    """Whether the second run is better than the first, problem by problem.

    Paired, since problems differ far more from each other than runs do on one of them: the interval is the bootstrap's
    over the differences (`bootstrap_interval`), and the sign test asks how likely so uneven a split of the problems
    that differ is when either run is as likely to be the better one. The test does not see how much better. Both speak
    of other problems, not of other seeds: one run of a method is one draw.

    Args:
        first, second: a figure of each problem, (P,), in the same order in both: pass@k, distinct answers, ...
        confidence, num_resamples, seed: as in `bootstrap_interval`.

    Raises:
        ValueError: different numbers of problems, none, or figures that are not finite.
    """
    first_P, second_P = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first_P.shape != second_P.shape or first_P.ndim != 1:
        raise ValueError(
            f"first has shape {first_P.shape}, second {second_P.shape}: give one figure of each run for every problem"
        )
    if not (np.isfinite(first_P).all() and np.isfinite(second_P).all()):
        raise ValueError("first and second must be finite: leave out the problems without a figure, in both")
    difference_P = second_P - first_P
    interval = bootstrap_interval(difference_P, confidence, num_resamples, seed)
    gained, lost = int((difference_P > TIE).sum()), int((difference_P < -TIE).sum())
    return PairedComparison(
        difference=float(difference_P.mean()),
        interval=interval,
        gained=gained,
        lost=lost,
        tied=difference_P.size - gained - lost,
        p_value=sign_test(gained, lost),
    )


def sign_test(gained: int, lost: int) -> float:
    """Exact two-sided p-value of a split into `gained` and `lost` where either is as likely; ties are left out before.

    The chance under a fair coin of a split at least as uneven; 1 where nothing differs. In integers, so that scipy is
    not needed for this alone.

    Raises:
        ValueError: a negative count.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"gained and lost must not be negative, not {gained} and {lost}")
    total = gained + lost
    tail = ways = 1  # the i-th binomial of total, from the one before
    for i in range(min(gained, lost)):
        ways = ways * (total - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**total)
