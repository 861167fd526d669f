"""How often samples are right, which problems they solve at all, and how much of what can be found they find.

Shapes: P problems, n samples of one of them, which need not be the same number everywhere. numpy only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from verl_setpo.evaluation.measures import DistinctAtSize, distinct_at_size
from verl_setpo.evaluation.samples import paired_with_flags


def mean_at_n(scores_P: Sequence[Any]) -> np.ndarray:
    """Mean score over the samples of each problem: verl's mean@n, the papers' avg@64.

    For counts of right and wrong samples `pass_at_k(n, c, 1)` gives the same; this one also takes partial scores.

    Args:
        scores_P: for each problem the scores of its samples, numbers or flags.

    Returns:
        (P,) float64.

    Raises:
        ValueError: a problem without samples, or a score that is not finite.
        TypeError: scores that are not real numbers.
    """
    means_P = np.empty(len(scores_P))
    for p, scores in enumerate(scores_P):
        scores_n = np.asarray(scores)
        if scores_n.ndim != 1 or scores_n.size == 0:
            raise ValueError(f"problem {p} must have a list of one or more scores, not one of shape {scores_n.shape}")
        if not np.issubdtype(scores_n.dtype, np.number) and scores_n.dtype != np.bool_:
            raise TypeError(f"the scores of problem {p} must be numbers, not {scores_n.dtype}")
        if np.iscomplexobj(scores_n):
            raise TypeError(f"the scores of problem {p} must be real numbers, not {scores_n.dtype}")
        means_P[p] = scores_n.mean(dtype=np.float64)
        if not np.isfinite(means_P[p]):
            raise ValueError(f"problem {p} has a score that is not finite: mend the reward function")
    return means_P


def solved(num_correct: Any) -> np.ndarray:
    """1 for a problem with a correct sample, else 0; the mean is the coverage (Brown et al., arXiv 2407.21787).

    It is `pass_at_k` with k = n where problems have different n, and so can be given to `bootstrap_interval`. More
    samples solve more problems: bring runs to one k by `pass_at_k` before comparing them.

    Args:
        num_correct: c, integers, (P,).

    Returns:
        (P,) float64.

    Raises:
        TypeError, ValueError: counts that are not integers, or negative.
    """
    num_correct = np.asarray(num_correct)
    if num_correct.size == 0:
        return np.zeros(num_correct.shape)
    if not np.issubdtype(num_correct.dtype, np.integer):
        raise TypeError(f"num_correct must be integers, not {num_correct.dtype}")
    if num_correct.min() < 0:
        raise ValueError("num_correct must not be negative")
    return (num_correct > 0).astype(np.float64)


def solution_coverage(distinct: Any, num_solutions: Any) -> np.ndarray:
    """Share of all solutions of a problem that its samples found, for tasks whose solutions can be listed.

    Args:
        distinct: distinct correct answers found, (P,): `distinct_correct` of each problem, or the expected number in
            fewer samples, `distinct_at_size(...).expected`. In the form in which the solutions are listed, or two
            ways to write one solution count twice; the Countdown reward's answers are in that form.
        num_solutions: how many there are, integers (P,), as `len(verl_setpo.tasks.countdown_solutions.solutions(...))`.

    Returns:
        (P,) float64 in [0, 1].

    Raises:
        ValueError: shapes that differ, a problem without solutions, or with more found than there are.
        TypeError: a number of solutions that is not an integer.
    """
    found_P, all_P = np.asarray(distinct, dtype=np.float64), np.asarray(num_solutions)
    if found_P.shape != all_P.shape or found_P.ndim != 1:
        raise ValueError(f"distinct has shape {found_P.shape}, num_solutions {all_P.shape}: give one of each a problem")
    if all_P.size and not np.issubdtype(all_P.dtype, np.integer):
        raise TypeError(f"num_solutions must be integers, not {all_P.dtype}")
    for p in np.flatnonzero(~(all_P >= 1)):
        raise ValueError(f"problem {p} has {all_P[p]} solutions: leave out what cannot be solved")
    # An expected number may be above the count by rounding. Not (a <= b), so that NaN is refused too.
    for p in np.flatnonzero(~((found_P >= 0) & (found_P <= all_P + 1e-9))):
        raise ValueError(
            f"problem {p} has {found_P[p]:g} distinct correct answers of {all_P[p]} solutions: "
            "bring the answers into the form in which the solutions are listed"
        )
    return np.minimum(found_P / np.maximum(all_P, 1), 1.0)


def clusters_at_size(
    clusters_P: Sequence[Sequence[int]], correct_P: Sequence[Any], size: int, *, degenerate: int = -1
) -> DistinctAtSize:
    """`distinct_at_size` for cluster ids: distinct strategies among the correct ones of `size` samples.

    Args:
        clusters_P: for each problem the cluster of each sample, integers, as a judge or another signal gives them.
        correct_P: for each problem whether each sample is correct; true throughout for the clusters of all samples.
        size: samples in the subset, from 1 to the smallest number of samples of a problem.
        degenerate: the id of samples without a strategy, which are drawn like all but are no cluster.

    Raises:
        ValueError: as `distinct_at_size`, or clusters and flags that differ in number.
        TypeError: ids that are not integers.
    """
    sizes, counts = [], []
    for name, clusters, correct_n in paired_with_flags("clusters", clusters_P, correct_P):
        clusters_n = np.asarray(clusters)
        if clusters_n.size and (clusters_n.ndim != 1 or not np.issubdtype(clusters_n.dtype, np.integer)):
            raise TypeError(f"the clusters of {name} must be a list of integers, not {clusters_n.dtype}")
        sizes.append(len(clusters_n))
        found = Counter(clusters_n[correct_n].tolist())
        del found[degenerate]  # of a Counter: no error where it is not there
        counts.append(tuple(found.values()))
    return distinct_at_size(sizes, counts, size)
