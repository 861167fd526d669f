"""What a set of samples shows about a model: does it solve a problem, and in how many different ways.

Shapes: P problems, A distinct correct answers over all problems together. numpy only.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


def _counts(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.size == 0:
        return array.astype(np.int64)  # np.asarray([]) is a float array
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    if array.min() < 0:
        raise ValueError(f"{name} must not be negative")
    return array.astype(np.int64)


def pass_at_k(num_samples: Any, num_correct: Any, k: int) -> Any:
    """The chance that k samples, drawn without replacement, hold a correct one: 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of pass@k (Chen et al., arXiv 2107.03374, Eq. 1), as SetPO and Poly-EPO use it.

    Args:
        num_samples: n, integers, one a problem (P,) or one for all; n >= k.
        num_correct: c, integers, (P,) or one for all; 0 <= c <= n.
        k: how many samples may be tried, at least 1.

    Returns:
        Float64 of the broadcast shape, in [0, 1]; a float for two plain numbers.

    Raises:
        ValueError: k < 1, k > n, c > n, or a negative count.
        TypeError: a count or k is not an integer.
    """
    k = operator.index(k)
    n, c = np.broadcast_arrays(_counts("num_samples", num_samples), _counts("num_correct", num_correct))
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if (n < k).any():
        raise ValueError(f"pass@{k} needs at least {k} samples a problem; one has {n.min()}")
    if (c > n).any():
        raise ValueError("num_correct must not be larger than num_samples")
    # C(n-c, k) / C(n, k) as a product of k factors within [0, 1]: the binomials themselves overflow a float
    # from n = 1030 on. A factor of 0 (fewer than k wrong samples) makes the product exactly 0 for good.
    all_wrong = np.ones(n.shape)
    for i in range(k):
        all_wrong = all_wrong * (np.maximum(n - c - i, 0) / (n - i))
    return 1.0 - all_wrong


def distinct_correct(answers: Sequence[str], correct: Sequence[bool]) -> int:
    """How many different correct answers the samples of one problem hold.

    Args:
        answers: the parsed answer of each sample; "" is unparseable and never counts.
        correct: whether each sample is correct, as long as `answers`.

    Raises:
        ValueError: the two differ in length.
    """
    return len({answer for answer, is_correct in zip(answers, correct, strict=True) if is_correct and answer})


def diversity_width(distinct_P: Any) -> int:
    """The number of problems with at least two distinct correct answers (SetPO, arXiv 2602.01062, Countdown)."""
    return int((_counts("distinct_P", distinct_P) >= 2).sum())


def average_mode(distinct_P: Any) -> float:
    """Mean distinct correct answers over the problems of `diversity_width` (SetPO, arXiv 2602.01062, Countdown).

    NaN if no problem has two.
    """
    distinct = _counts("distinct_P", distinct_P)
    wide = distinct[distinct >= 2]
    return float(wide.mean()) if wide.size else float("nan")


class DistinctAtSize(NamedTuple):
    """Of a random subset of a problem's samples, each of shape (P,)."""

    expected: np.ndarray  # expected number of distinct correct answers
    one_or_more: np.ndarray  # chance of at least one
    two_or_more: np.ndarray  # chance of at least two


def distinct_at_size(num_samples_P: Any, answer_counts: Sequence[Sequence[int]], size: int) -> DistinctAtSize:
    """Distinct correct answers as if only `size` samples a problem had been drawn.

    More samples find more answers, so counts from 64 and from 16 samples do not compare; this brings both to one
    size without bias (rarefaction: Hurlbert, Ecology 52, 1971). An answer given c times of n is in the subset with
    chance pass@size(n, c). With size = n the figures are the plain counts.

    Args:
        num_samples_P: samples a problem, integers (P,).
        answer_counts: for each problem, how often each distinct correct answer was given.
        size: samples in the subset, from 1 to the smallest of `num_samples_P`.

    Raises:
        ValueError: as `pass_at_k`, or the two differ in length.
    """
    n_P = _counts("num_samples_P", num_samples_P)
    if n_P.shape != (len(answer_counts),):
        raise ValueError(f"num_samples_P has shape {n_P.shape}, answer_counts has {len(answer_counts)} problems")
    num_problems = len(n_P)
    problem_A = np.repeat(np.arange(num_problems), [len(counts) for counts in answer_counts])
    count_A = _counts("answer_counts", [count for counts in answer_counts for count in counts])
    total_P = np.zeros(num_problems, dtype=np.int64)
    np.add.at(total_P, problem_A, count_A)

    found_A = pass_at_k(n_P[problem_A], count_A, size)
    one_or_more_P = pass_at_k(n_P, total_P, size)
    # Chance that a correct sample is drawn, but none of another answer: this answer is the only one.
    only_A = one_or_more_P[problem_A] - pass_at_k(n_P[problem_A], total_P[problem_A] - count_A, size)
    two_or_more_P = one_or_more_P - np.bincount(problem_A, weights=only_A, minlength=num_problems)
    return DistinctAtSize(
        expected=np.bincount(problem_A, weights=found_A, minlength=num_problems),
        one_or_more=one_or_more_P,
        two_or_more=np.maximum(two_or_more_P, 0.0),  # rounding can leave -1e-17
    )
