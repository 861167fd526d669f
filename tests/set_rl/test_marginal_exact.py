"""The marginal set advantage against exact fractions: full enumeration when small, sums of binomials when large."""

import random
from fractions import Fraction
from functools import partial

import pytest
import set_rl_reference as exact
import torch
from set_rl_reference import DEGENERATE, RaggedBatch, assert_close

from verl_setpo.set_rl import marginal_set_advantage

SIZES = range(1, 8)
advantage = partial(marginal_set_advantage, degenerate_cluster=DEGENERATE)


def small_batch(set_size: int, seed: int, real: bool = True) -> RaggedBatch:
    """Groups of every number of rollouts from set_size to 7, several of each, in columns of 9."""
    return RaggedBatch([count for count in range(set_size, 8) for _ in range(12)], width=9, seed=seed, real=real)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("zero_single_cluster", [True, False])
@pytest.mark.parametrize("set_size", SIZES)
def test_polychromic_equals_full_enumeration(set_size, zero_single_cluster, reduction):
    batch = small_batch(set_size, seed=set_size)
    got_PN = advantage(
        batch.rewards_PN,
        batch.clusters_PN,
        set_size=set_size,
        mask_PN=batch.mask_PN,
        zero_single_cluster=zero_single_cluster,
        reduction=reduction,
    )
    value = exact.polychromic(zero_single_cluster)
    batch.check(got_PN, lambda r, c: exact.marginal_of_all_sets(r, c, value, set_size, reduction))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("objective", ["pass_at_n", "mean", "coverage"])
@pytest.mark.parametrize("set_size", SIZES)
def test_other_objectives_equal_full_enumeration(set_size, objective, reduction):
    batch = small_batch(set_size, seed=10 + set_size)
    got_PN = advantage(
        batch.rewards_PN,
        batch.clusters_PN,
        set_size=set_size,
        objective=objective,
        mask_PN=batch.mask_PN,
        reduction=reduction,
    )
    value = getattr(exact, objective)
    batch.check(got_PN, lambda r, c: exact.marginal_of_all_sets(r, c, value, set_size, reduction))


@pytest.mark.parametrize("objective", ["pass_at_n", "mean"])
def test_objectives_of_rewards_need_no_clusters(objective):
    batch = small_batch(3, seed=20, real=False)
    options = {"set_size": 3, "objective": objective, "mask_PN": batch.mask_PN}
    with_clusters_PN = advantage(batch.rewards_PN, batch.clusters_PN, **options)
    torch.testing.assert_close(advantage(batch.rewards_PN, **options), with_clusters_PN, rtol=0, atol=0)


def group(count: int, num_clusters: int, degenerate_share: float, seed: int) -> tuple[list[Fraction], list[int]]:
    rng = random.Random(seed)
    rewards = [Fraction(rng.randrange(-16, 17), 8) if rng.random() < 0.3 else Fraction(1) for _ in range(count)]
    clusters = [DEGENERATE if rng.random() < degenerate_share else rng.randrange(num_clusters) for _ in range(count)]
    return rewards, clusters


@pytest.mark.parametrize("zero_single_cluster", [True, False])
@pytest.mark.parametrize("set_size", SIZES)
def test_counting_reference_equals_full_enumeration(set_size, zero_single_cluster):
    for seed in range(20):
        rewards, clusters = group(7, num_clusters=1 + seed % 4, degenerate_share=0.3, seed=seed)
        counted = exact.polychromic_by_counting(rewards, clusters, set_size, zero_single_cluster)
        value = exact.polychromic(zero_single_cluster)
        assert counted == exact.marginal_of_all_sets(rewards, clusters, value, set_size)


@pytest.mark.parametrize("zero_single_cluster", [True, False])
@pytest.mark.parametrize(
    ("count", "set_size", "num_clusters", "degenerate_share"),
    [
        (64, 8, 5, 0.25),
        (64, 2, 64, 0.0),
        (64, 63, 3, 0.25),
        (256, 8, 40, 0.25),
        (256, 128, 256, 0.1),
        (256, 128, 2, 0.9),
        (256, 254, 3, 0.5),
    ],
)
def test_large_groups_equal_exact_counting(count, set_size, num_clusters, degenerate_share, zero_single_cluster):
    rewards, clusters = group(count, num_clusters, degenerate_share, seed=count + set_size)
    got_PN = advantage(
        torch.tensor([[float(r) for r in rewards]], dtype=torch.float64),
        torch.tensor([clusters]),
        set_size=set_size,
        zero_single_cluster=zero_single_cluster,
    )
    truth = exact.polychromic_by_counting(rewards, clusters, set_size, zero_single_cluster)
    assert_close(got_PN[0].tolist(), truth, rewards)


def test_pass_at_n_of_a_large_group_equals_exact_counting():
    """With rewards 0 and 1 a set is worth 0 only if it avoids all correct rollouts."""
    count, set_size, correct = 256, 128, 3
    rewards = [Fraction(1)] * correct + [Fraction(0)] * (count - correct)
    miss = Fraction(1)  # C(N-1-correct, n-1) / C(N-1, n-1), the chance that the sets with a wrong rollout fail
    for drawn in range(correct):
        miss *= Fraction(count - set_size - drawn, count - 1 - drawn)
    baseline = (correct + (count - correct) * (1 - miss)) / count
    truth = [1 - baseline] * correct + [1 - miss - baseline] * (count - correct)
    got_PN = marginal_set_advantage(
        torch.tensor([[float(r) for r in rewards]], dtype=torch.float64), set_size=set_size, objective="pass_at_n"
    )
    assert_close(got_PN[0].tolist(), truth, rewards)


A, B, C, D, E = range(5)


@pytest.mark.parametrize(
    ("clusters", "set_size", "common", "rare", "wrong"),
    [
        ([A, A, A, A, B, C, D, E], 2, 0.0536, 0.2679, -0.1607),
        ([A, A, A, A, B, C, D, E], 4, -0.0036, 0.0839, -0.0232),
        ([A, A, A, A, A, B, C, D], 4, 0.0, 0.0, 0.0),
    ],
)
def test_published_table(clusters, set_size, common, rare, wrong):
    got_PN = marginal_set_advantage(
        torch.tensor([[1.0, 1, 1, 1, 1, 0, 0, 0]]),
        torch.tensor([clusters]),
        set_size=set_size,
        zero_single_cluster=False,
    )
    expected = torch.tensor([[common] * 4 + [rare] + [wrong] * 3])
    torch.testing.assert_close(got_PN, expected, rtol=0, atol=5e-5)
    if rare == 0:
        assert (got_PN == 0).all()  # exactly, so that a dashboard can count it


def test_published_sign_flip():
    """Five correct rollouts on one path and three wrong ones on others: at n = 6 the wrong ones win."""
    rewards_PN, clusters_PN = torch.tensor([[1.0, 1, 1, 1, 1, 0, 0, 0]]), torch.tensor([[A, A, A, A, A, B, C, D]])
    at_2_PN, at_6_PN = (
        marginal_set_advantage(rewards_PN, clusters_PN, set_size=n, zero_single_cluster=False) for n in (2, 6)
    )
    assert (at_2_PN[0, :5] > 0).all()
    assert (at_2_PN[0, 5:] < 0).all()
    assert (at_6_PN[0, :5] < 0).all()
    assert (at_6_PN[0, 5:] > 0).all()
