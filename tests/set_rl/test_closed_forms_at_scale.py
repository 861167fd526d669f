"""pass_at_n, mean and coverage over all sets of large groups, against exact counting; and objectives of users."""

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import comb

import pytest
import set_rl_reference as exact
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import DEGENERATE, RaggedBatch, quick

from verl_setpo.set_rl import get_objective, marginal_set_advantage, objectives, register_objective

SIZES = [(16, 3), (40, 39), (64, 8), (200, 2), (200, 20), (256, 1), (256, 254)]


def choose(items: int, draws: int) -> int:
    return comb(items, draws) if items >= 0 and draws >= 0 else 0


def less_mean(values: Sequence[Fraction]) -> list[Fraction]:
    return [value - sum(values) / len(values) for value in values]


def pass_at_n_by_counting(rewards: Sequence[Fraction], n: int) -> list[Fraction]:
    """The mean of the largest reward over the sets with i, from the number of sets whose largest is at most v."""
    count, values = len(rewards), []
    # For each level, the sets with i that stay within the rewards up to it, if i does.
    levels = [(v, choose(sum(r <= v for r in rewards) - 1, n - 1)) for v in sorted(set(rewards))]
    for own in rewards:
        total, before = Fraction(0), 0
        for level, within in levels:
            if own <= level:
                total, before = total + level * (within - before), within
        values.append(total / comb(count - 1, n - 1))
    return less_mean(values)


def coverage_by_counting(rewards: Sequence[Fraction], clusters: Sequence[int], n: int) -> list[Fraction]:
    """The sets with i that contain a correct rollout of a cluster, one cluster after the other."""
    count = len(rewards)
    right = [c if r > Fraction(1, 2) else DEGENERATE for r, c in zip(rewards, clusters, strict=True)]
    sizes = Counter(c for c in right if c != DEGENERATE)
    every = comb(count - 1, n - 1)
    values = []
    for own in right:
        hits = sum(every if c == own else every - choose(count - 1 - size, n - 1) for c, size in sizes.items())
        values.append(Fraction(hits, every * n))
    return less_mean(values)


def group(count: int, seed: int, num_clusters: int = 12) -> tuple[list[Fraction], list[int]]:
    rng = random.Random(seed)
    rewards = [Fraction(rng.randrange(-32, 33), 32) for _ in range(count)]
    return rewards, [DEGENERATE if rng.random() < 0.2 else rng.randrange(num_clusters) for _ in range(count)]


def advantage(rewards: Sequence[Fraction], clusters: Sequence[int], set_size: int, objective, **options) -> list[float]:
    rewards_PN = torch.tensor([[float(r) for r in rewards]], dtype=torch.float64)
    options = {"set_size": set_size, "objective": objective, "degenerate_cluster": DEGENERATE} | options
    return marginal_set_advantage(rewards_PN, torch.tensor([clusters]), **options)[0].tolist()


def assert_exact(got: Sequence[float], truth: Sequence[Fraction]) -> None:
    """Of rewards up to 1: relative error below 1e-9, or 3e-15 where terms cancel."""
    for value, true in zip(got, truth, strict=True):
        assert abs(Fraction(value) - true) <= Fraction(1e-9) * abs(true) + Fraction(3e-15), (value, float(true))


@pytest.mark.parametrize("set_size", range(1, 8))
def test_counting_equals_full_enumeration(set_size):
    for seed in range(10):
        rewards, clusters = group(7, seed, num_clusters=3)
        assert pass_at_n_by_counting(rewards, set_size) == exact.marginal_of_all_sets(
            rewards, clusters, exact.pass_at_n, set_size
        )
        assert coverage_by_counting(rewards, clusters, set_size) == exact.marginal_of_all_sets(
            rewards, clusters, exact.coverage, set_size
        )


@pytest.mark.parametrize("num_clusters", [2, 12, 400])
@pytest.mark.parametrize(("count", "set_size"), SIZES)
def test_coverage_of_large_groups(count, set_size, num_clusters):
    rewards, clusters = group(count, seed=count + set_size, num_clusters=num_clusters)
    truth = coverage_by_counting(rewards, clusters, set_size)
    assert_exact(advantage(rewards, clusters, set_size, "coverage"), truth)


@pytest.mark.parametrize("kind", ["binary", "real", "negative", "all equal"])
@pytest.mark.parametrize(("count", "set_size"), SIZES)
def test_pass_at_n_of_large_groups(count, set_size, kind):
    rewards, clusters = group(count, seed=count * set_size)
    if kind == "binary":
        rewards = [Fraction(int(r > Fraction(3, 4))) for r in rewards]
    elif kind == "negative":
        rewards = [-1 - r for r in rewards]
    elif kind == "all equal":
        rewards = [Fraction(-1, 4)] * count
    got = advantage(rewards, clusters, set_size, "pass_at_n")
    assert_exact(got, pass_at_n_by_counting(rewards, set_size))
    if kind == "all equal":
        assert set(got) == {0.0}


@pytest.mark.parametrize(("count", "set_size"), [*SIZES, (7, 7)])
def test_mean_is_the_centred_reward_times_one_number(count, set_size):
    """i adds r_i / n to its sets, and each other rollout is in (n-1)/(N-1) of them."""
    rewards, clusters = group(count, seed=count - set_size)
    scale = Fraction(count - set_size, (count - 1) * set_size)
    truth = [scale * value for value in less_mean(rewards)]
    assert_exact(advantage(rewards, clusters, set_size, "mean"), truth)


@quick
@given(st.lists(st.integers(4, 9), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 999), st.booleans())
def test_objective_of_a_user_equals_full_enumeration(counts, set_size, seed, by_name):
    """The middle of the rewards times the largest cluster: real rewards, ragged groups, degenerates, by name or not."""

    def value(rewards, clusters):
        sizes = Counter(c for c in clusters if c != DEGENERATE)
        return sorted(rewards)[len(rewards) // 2] * max(sizes.values(), default=0)

    def of_sets(rewards_n, clusters_n):
        same_nn = (clusters_n[..., :, None] == clusters_n[..., None, :]) & (clusters_n >= 0)[..., None, :]
        return rewards_n.sort(-1).values[..., rewards_n.shape[-1] // 2] * same_nn.sum(-1).mul(clusters_n >= 0).amax(-1)

    batch = RaggedBatch(counts, width=10, seed=seed)
    options = {"set_size": set_size, "mask_PN": batch.mask_PN, "degenerate_cluster": DEGENERATE}
    objective = of_sets
    if by_name:
        objective = "middle_of_largest"
        objectives._OBJECTIVES.pop(objective, None)
        register_objective(objective, needs_clusters=True)(of_sets)
    try:
        got_PN = marginal_set_advantage(batch.rewards_PN, batch.clusters_PN, objective=objective, **options)
    finally:
        objectives._OBJECTIVES.pop("middle_of_largest", None)
    batch.check(got_PN, lambda r, c: exact.marginal_of_all_sets(r, c, value, set_size))


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("polychromic", {"zero_single_cluster": True}),
        ("polychromic", {"zero_single_cluster": False}),
        ("pass_at_n", {}),
        ("mean", {}),
        ("coverage", {}),
    ],
)
def test_listing_equals_the_closed_form_beyond_small_groups(objective, options):
    """N = 20, n = 6: 38,760 sets."""
    rewards, clusters = group(20, seed=5, num_clusters=5)
    known = get_objective(objective)

    def listed(rewards_n, clusters_n):
        return known.function(rewards_n, clusters_n, **options)

    closed = advantage(rewards, clusters, 6, objective, **options)
    assert advantage(rewards, clusters, 6, listed) == pytest.approx(closed, rel=1e-9, abs=1e-13)
