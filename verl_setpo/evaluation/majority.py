"""Majority vote: is the answer that most of k samples give correct, and how large is its majority?

Exact, without listing the C(n, k) subsets. Shapes: P problems, A distinct answers of one of them. numpy only.

Let every sample enter the subset by a coin of its own, with any chance p. Given that k samples entered, all subsets of
size k are equally likely. So the votes of an answer given m times are binomial (m, p), those of different answers are
independent, and the chance of any event is a coefficient of x^k in a product of polynomials with one factor an answer,
over the chance that k of n entered. With p = k/n nothing overflows and nothing that matters underflows, and as all
terms are positive nothing cancels.

Ties are broken by lots: each answer draws a number y from [0, 1], and of those with the most votes v the largest y
wins. The winner with y beats an answer that has fewer than v votes, or v and a smaller number: a factor
L(x) + y C x^v, where L holds the terms below v and C is the chance of v. The mean over y is the integral of a
polynomial in y, which Gauss-Legendre quadrature with enough nodes gives exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from verl_setpo.evaluation.samples import check_k, paired_with_flags


class MajorityAtK(NamedTuple):
    """Of a random subset of k samples of a problem, each of shape (P,)."""

    accuracy: np.ndarray  # chance that the answer with the most votes is correct
    vote_share: np.ndarray  # expected share of the k samples that give it


def majority_at_k(answers_P: Sequence[Sequence[str]], correct_P: Sequence[Any], k: int) -> MajorityAtK:
    """The plurality vote of k of a problem's samples: the exact mean over all subsets of size k.

    A tie is broken at random, each of the tied answers with the same chance. An unparseable answer ("") does not vote;
    where nobody votes, the outcome is wrong and the share 0. The share is of all k samples, not of those that voted: a
    model that answers once in 64 tries must not look as sure as one that gives one answer 64 times. Where samples with
    equal answers were graded differently, the outcome is a random one of those that voted for the winner.

    Exact up to rounding (1e-11) at any size, without Monte Carlo. A problem of n samples takes O(n k^2) at worst:
    n = 64 up to 3 ms, n = 1024 with k = 512 from 0.1 s to 1.3 s, the latter where all answers differ.

    Args:
        answers_P: for each problem the parsed answer of each sample. Equal text votes together, so answers that are
            equal but for their notation must be made one text before (`verl_setpo.equivalence`).
        correct_P: for each problem whether each sample is correct.
        k: samples that vote, from 1 to the smallest number of samples of a problem.

    Raises:
        ValueError: k out of range, or answers and flags that differ in number.
        TypeError: an answer that is not text, a flag that is none, or a k that is not an integer.
    """
    k = check_k(k)
    accuracy_P, votes_P = np.zeros(len(answers_P)), np.zeros(len(answers_P))
    for p, (name, answers, correct_n) in enumerate(paired_with_flags("answers", answers_P, correct_P)):
        if len(answers) < k:
            raise ValueError(f"majority@{k} needs at least {k} samples a problem; {name} has {len(answers)}")
        for answer in answers:
            if not isinstance(answer, str):
                raise TypeError(f'the answers of {name} must be text, "" for none, not {type(answer).__name__}')
        times = Counter(answer for answer in answers if answer)
        right = Counter(answer for answer, is_right in zip(answers, correct_n, strict=True) if is_right)
        count_A = np.array(list(times.values()), dtype=np.int64)
        right_A = np.array([right[answer] for answer in times], dtype=np.float64)
        accuracy_P[p], votes_P[p] = _vote(count_A, right_A, len(answers), k)
    return MajorityAtK(np.clip(accuracy_P, 0.0, 1.0), np.clip(votes_P / k, 0.0, 1.0))


def _vote(count_A: np.ndarray, right_A: np.ndarray, num_samples: int, k: int) -> tuple[float, float]:
    """Chance that the winner is correct, and its expected votes.

    Args:
        count_A: how often each answer was given, at least once. right_A: how many of these samples are correct.
    """
    if k == num_samples and count_A.size:  # one subset
        wins_A = count_A == count_A.max()
        return float((right_A / count_A)[wins_A].mean()), float(count_A.max())
    entered = _coin_table(num_samples, k)
    accuracy = votes = 0.0
    for most in range(1, min(k, count_A.max(initial=0)) + 1):
        contender_A = count_A >= most
        others = num_samples - int(count_A[contender_A].sum())  # cannot have `most` votes: any number of them may enter
        y, weight = _nodes(min(int(contender_A.sum()), k // most) - 1)
        # Coefficients of x^0..x^k at each node: no winner yet, a winner, a winner that is correct.
        state = np.zeros((3, len(y), k + 1))
        state[0] = entered[others]
        for count, right in zip(count_A[contender_A], right_A[contender_A], strict=True):
            below, at = entered[count, :most], entered[count, most]
            padded = np.concatenate([np.zeros((3, len(y), most - 1)), state], axis=2)
            product = sliding_window_view(padded, most, axis=2) @ below[::-1]
            product[:, :, most:] += at * y[:, None] * state[:, :, : k + 1 - most]
            wins = at * state[0, :, : k + 1 - most]
            product[1, :, most:] += wins
            product[2, :, most:] += wins * (right / count)
            state = product
        _, any_winner, right_winner = state[:, :, k] @ weight / entered[num_samples, k]
        votes += most * any_winner
        accuracy += right_winner
    return accuracy, votes


@lru_cache(maxsize=16)
def _coin_table(num_samples: int, k: int) -> np.ndarray:
    """(n + 1, k + 1): row m has the chances that 0 to k of m samples enter, at p = k/n, as in Pascal's triangle."""
    p = k / num_samples
    table = np.zeros((num_samples + 1, k + 1))
    table[0, 0] = 1.0
    for m in range(num_samples):
        table[m + 1] = (1 - p) * table[m]
        table[m + 1, 1:] += p * table[m, :-1]
    table.flags.writeable = False
    return table


@lru_cache(maxsize=1024)
def _nodes(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in [0, 1] and weights that integrate every polynomial of this degree exactly."""
    x, weight = np.polynomial.legendre.leggauss(degree // 2 + 1)
    return (x + 1) / 2, weight / 2
