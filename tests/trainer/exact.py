"""Slow and exact: SetPO's credit and set RL's advantage from their definitions in fractions, one set at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations
from math import exp, log1p

Number = Fraction | float
Value = Callable[[Sequence[Fraction], Sequence[int]], Fraction]

SHAPINGS: dict[str, Callable[[Fraction], Number]] = {
    "linear": lambda mass: 1 - mass,
    "neg_square": lambda mass: -mass * mass,
    "neg_log1p": lambda mass: -log1p(mass),
    "exp": lambda mass: exp(-mass),
}


def mean(values: Sequence[Number]) -> Number:
    return sum(values) / Fraction(len(values))


def kernel_set_diversity(kernel: Sequence[Sequence[Fraction]], members: Sequence[int], shaping: str) -> Number:
    """D(S), arXiv 2602.01062, Eq. 3."""
    return mean([SHAPINGS[shaping](mean([kernel[y][z] for z in members if z != y])) for y in members])


def leave_one_out(kernel: Sequence[Sequence[Fraction]], shaping: str) -> list[Number]:
    """s_i = D(S) - D(S without i), arXiv 2602.01062, Eq. 4; 0 where a set of one would be left."""
    everyone = list(range(len(kernel)))
    if len(everyone) < 3:
        return [Fraction(0)] * len(everyone)
    whole = kernel_set_diversity(kernel, everyone, shaping)
    return [whole - kernel_set_diversity(kernel, [j for j in everyone if j != i], shaping) for i in everyone]


def marginal(
    rewards: Sequence[Fraction],
    clusters: Sequence[int],
    value: Value,
    sets: Sequence[Sequence[int]],
    reduction: str = "mean",
) -> list[Fraction]:
    """Arithmetic of arXiv 2604.17654, Eq. 8, over the given sets; 0 for a rollout in none of them."""
    values = [value([rewards[i] for i in chosen], [clusters[i] for i in chosen]) for chosen in sets]
    baseline = mean(values)
    advantages = []
    for i in range(len(rewards)):
        own = [f - baseline for f, chosen in zip(values, sets, strict=True) if i in chosen]
        advantages.append(sum(own, Fraction(0)) / (1 if reduction == "sum" else max(len(own), 1)))
    return advantages


def marginal_of_all_sets(
    rewards: Sequence[Fraction], clusters: Sequence[int], value: Value, set_size: int, reduction: str = "mean"
) -> list[Fraction]:
    return marginal(rewards, clusters, value, list(combinations(range(len(rewards)), set_size)), reduction)


def polychromic(rewards: Sequence[Fraction], clusters: Sequence[int]) -> Fraction:
    """Eq. 10 and 11, a set of fewer than two strategies worth 0; -1 is degenerate."""
    return polychromic_paying_singles(rewards, clusters) if len(set(clusters) - {-1}) > 1 else Fraction(0)


def polychromic_paying_singles(rewards: Sequence[Fraction], clusters: Sequence[int]) -> Fraction:
    return mean(rewards) * set_diversity(clusters)


def pass_at_n(rewards: Sequence[Fraction], clusters: Sequence[int]) -> Fraction:
    return max(rewards)


def mean_reward(rewards: Sequence[Fraction], clusters: Sequence[int]) -> Fraction:
    return mean(rewards)


def coverage(rewards: Sequence[Fraction], clusters: Sequence[int]) -> Fraction:
    right = {c for r, c in zip(rewards, clusters, strict=True) if r > Fraction(1, 2)} - {-1}
    return Fraction(len(right), len(rewards))


def set_diversity(clusters: Sequence[int]) -> Fraction:
    """d(G) = distinct strategies / n, Eq. 11."""
    return Fraction(len(set(clusters) - {-1}), len(clusters))


def mean_set_diversity(clusters: Sequence[int], set_size: int) -> Fraction:
    return mean([set_diversity(chosen) for chosen in combinations(clusters, set_size)])


def grpo_div(rewards: Sequence[Fraction], clusters: Sequence[int], coef: Fraction) -> list[Fraction]:
    """r + coef b less its mean, b = (N/|cluster| - 1)/(N - 1), 0 for a degenerate rollout (section 6)."""
    count = len(rewards)
    paid = [
        r + coef * (0 if c == -1 else (Fraction(count, list(clusters).count(c)) - 1) / (count - 1))
        for r, c in zip(rewards, clusters, strict=True)
    ]
    return [p - mean(paid) for p in paid]


def number_clusters(answers: Sequence[str]) -> list[int]:
    """Clusters of equal answers, numbered by first appearance; -1 for no answer."""
    distinct = list(dict.fromkeys(a for a in answers if a))
    return [distinct.index(a) if a else -1 for a in answers]
