"""Slow and exact: the definitions of the papers in `fractions.Fraction`, one set after the other."""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations
from math import comb

import torch
from hypothesis import settings
from torch import Tensor

DEGENERATE = 100
Value = Callable[[Sequence[Fraction], Sequence[int]], Fraction]

torch.set_num_threads(1)
quick = settings(deadline=None, max_examples=60)


def polychromic(zero_single_cluster: bool) -> Value:
    def value(rewards: Sequence[Fraction], clusters: Sequence[int]) -> Fraction:
        distinct = len(set(clusters) - {DEGENERATE})
        if zero_single_cluster and distinct <= 1:
            return Fraction(0)
        return sum(rewards, Fraction(0)) * distinct / len(rewards) ** 2

    return value


def pass_at_n(rewards: Sequence[Fraction], clusters: Sequence[int]) -> Fraction:
    return max(rewards)


def mean(rewards: Sequence[Fraction], clusters: Sequence[int]) -> Fraction:
    return sum(rewards, Fraction(0)) / len(rewards)


def coverage(rewards: Sequence[Fraction], clusters: Sequence[int]) -> Fraction:
    right = {cluster for reward, cluster in zip(rewards, clusters, strict=True) if reward > Fraction(1, 2)}
    return Fraction(len(right - {DEGENERATE}), len(rewards))


def marginal(
    rewards: Sequence[Fraction],
    clusters: Sequence[int],
    value: Value,
    sets: Sequence[Sequence[int]],
    reduction: str = "mean",
) -> list[Fraction]:
    """Eq. 8 of Poly-EPO over the given sets."""
    values = [value([rewards[i] for i in chosen], [clusters[i] for i in chosen]) for chosen in sets]
    baseline = sum(values, Fraction(0)) / len(values)
    advantages = []
    for i in range(len(rewards)):
        own = [f - baseline for f, chosen in zip(values, sets, strict=True) if i in chosen]
        total = sum(own, Fraction(0))
        advantages.append(total if reduction == "sum" else total / max(len(own), 1))
    return advantages


def marginal_of_all_sets(
    rewards: Sequence[Fraction], clusters: Sequence[int], value: Value, set_size: int, reduction: str = "mean"
) -> list[Fraction]:
    return marginal(rewards, clusters, value, list(combinations(range(len(rewards)), set_size)), reduction)


def polychromic_by_counting(
    rewards: Sequence[Fraction], clusters: Sequence[int], n: int, zero_single_cluster: bool
) -> list[Fraction]:
    """The marginal advantage over all sets, by sums of binomials: for groups too large to list."""
    N, R = len(rewards), sum(rewards, Fraction(0))
    real = set(clusters) - {DEGENERATE}
    size = {c: clusters.count(c) for c in [*real, DEGENERATE]}
    total = {
        c: sum((r for r, d in zip(rewards, clusters, strict=True) if d == c), Fraction(0)) for c in [*real, DEGENERATE]
    }

    def c_(a: int, b: int) -> int:
        return comb(a, b) if a >= 0 and b >= 0 else 0

    def within(s: int, sum_s: Fraction, r: Fraction) -> Fraction:
        """Sum of the rewards of all sets with i that stay within s rollouts, i among them, of reward sum sum_s."""
        return r * c_(s - 1, n - 1) + (sum_s - r) * c_(s - 2, n - 2)

    all_1, all_2 = c_(N - 1, n - 1), c_(N - 2, n - 2)
    values = []
    for r, own in zip(rewards, clusters, strict=True):
        value = Fraction(0)
        for c in real:
            if c == own:
                value += r * all_1 + (R - r) * all_2
            else:
                value += r * (all_1 - c_(N - 1 - size[c], n - 1)) + total[c] * all_2
                value += (R - r - total[c]) * (all_2 - c_(N - 2 - size[c], n - 2))
            if zero_single_cluster and own in (c, DEGENERATE):
                value -= within(size[c] + size[DEGENERATE], total[c] + total[DEGENERATE], r)
                if own == DEGENERATE:
                    value += within(size[DEGENERATE], total[DEGENERATE], r)
        values.append(value / (n * n * all_1))
    baseline = sum(values, Fraction(0)) / N
    return [value - baseline for value in values]


class RaggedBatch:
    """Random prompts with their own numbers of rollouts, at random columns; NaN and junk at the masked places."""

    def __init__(self, counts: Sequence[int], width: int, seed: int, real: bool = True, clusters: int = 4) -> None:
        rng = random.Random(seed)
        shape = (len(counts), width)
        self.rewards_PN = torch.full(shape, torch.nan, dtype=torch.float64)
        self.clusters_PN = torch.tensor([[rng.randrange(-5, 105) for _ in range(width)] for _ in counts])
        self.mask_PN = torch.zeros(shape, dtype=torch.bool)
        self.prompts: list[tuple[list[int], list[Fraction], list[int]]] = []
        for prompt, count in enumerate(counts):
            columns = sorted(rng.sample(range(width), count))
            for column in columns:
                self.mask_PN[prompt, column] = True
                reward = rng.gauss(0, 1) if real else float(rng.random() < 0.5)
                self.rewards_PN[prompt, column] = reward
                ids = [DEGENERATE, -1, *range(7, 7 + clusters)]  # -1 is an ordinary id here
                self.clusters_PN[prompt, column] = rng.choice(ids[: rng.randint(1, len(ids))])
            rewards = [Fraction(self.rewards_PN[prompt, column].item()) for column in columns]
            self.prompts.append((columns, rewards, self.clusters_PN[prompt, columns].tolist()))

    def check(self, advantage_PN: Tensor, expected: Callable[[list[Fraction], list[int]], list[Fraction]]) -> None:
        assert advantage_PN.dtype == torch.float64
        assert (advantage_PN[~self.mask_PN] == 0).all()
        for prompt, (columns, rewards, clusters) in enumerate(self.prompts):
            assert_close(advantage_PN[prompt, columns].tolist(), expected(rewards, clusters), rewards)


def assert_close(got: Sequence[float], exact: Sequence[Fraction], rewards: Sequence[Fraction]) -> None:
    """Relative error below 1e-9, or what is left of float64 where terms cancel."""
    floor = 1e-13 * max((abs(float(r)) for r in rewards), default=0.0)
    for value, truth in zip(got, exact, strict=True):
        assert abs(Fraction(value) - truth) <= 1e-9 * abs(truth) + floor, (value, float(truth))
