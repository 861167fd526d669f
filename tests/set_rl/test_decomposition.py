"""The diagnostics of the polychromic advantage against moments over listed sets."""

from fractions import Fraction
from itertools import combinations

import pytest
import set_rl_reference as exact
import torch
from set_rl_reference import DEGENERATE, RaggedBatch

from verl_setpo.set_rl import marginal_set_advantage, polychromic_decomposition, set_diversity


def diversity(zero_single_cluster: bool) -> exact.Value:
    """With every reward 1 the polychromic objective is the diversity."""
    polychromic = exact.polychromic(zero_single_cluster)
    return lambda rewards, clusters: polychromic([Fraction(1)] * len(rewards), clusters)


def mean_of_all_sets(rewards: list[Fraction], clusters: list[int], value: exact.Value, set_size: int) -> Fraction:
    sets = list(combinations(range(len(rewards)), set_size))
    values = [value([rewards[i] for i in chosen], [clusters[i] for i in chosen]) for chosen in sets]
    return sum(values, Fraction(0)) / len(values)


@pytest.mark.parametrize("zero_single_cluster", [True, False])
@pytest.mark.parametrize("set_size", [1, 3, 5])
def test_decomposition_equals_moments_over_listed_sets(set_size, zero_single_cluster):
    """Eq. 15 of Poly-EPO."""
    batch = RaggedBatch([5, 5, 6, 6, 7, 7], width=9, seed=30)
    options = {"set_size": set_size, "mask_PN": batch.mask_PN, "zero_single_cluster": zero_single_cluster}
    inputs = (batch.rewards_PN, batch.clusters_PN)
    product_PN, covariance_PN = polychromic_decomposition(*inputs, degenerate_cluster=DEGENERATE, **options)
    total_PN = marginal_set_advantage(*inputs, degenerate_cluster=DEGENERATE, **options)
    torch.testing.assert_close(product_PN + covariance_PN, total_PN, rtol=0, atol=1e-12)

    def product(rewards: list[Fraction], clusters: list[int]) -> list[Fraction]:
        def with_i_and_overall(value: exact.Value) -> tuple[list[Fraction], Fraction]:
            overall = mean_of_all_sets(rewards, clusters, value, set_size)
            return [a + overall for a in exact.marginal_of_all_sets(rewards, clusters, value, set_size)], overall

        reward_i, reward = with_i_and_overall(exact.mean)
        diversity_i, diverse = with_i_and_overall(diversity(zero_single_cluster))
        return [r * d - reward * diverse for r, d in zip(reward_i, diversity_i, strict=True)]

    batch.check(product_PN, product)


@pytest.mark.parametrize("set_size", [1, 2, 4, 5])
def test_set_diversity_equals_the_mean_over_listed_sets(set_size):
    batch = RaggedBatch([5, 5, 6, 7, 7], width=9, seed=31)
    got_P = set_diversity(batch.clusters_PN, set_size=set_size, mask_PN=batch.mask_PN, degenerate_cluster=DEGENERATE)
    expected = [mean_of_all_sets(r, c, diversity(False), set_size) for _, r, c in batch.prompts]
    assert got_P.tolist() == pytest.approx([float(value) for value in expected], abs=1e-6)


def test_set_diversity_of_a_prompt_without_rollouts_is_zero():
    clusters_PN, mask_PN = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[False, False], [True, True]])
    assert set_diversity(clusters_PN, set_size=2, mask_PN=mask_PN).tolist() == [0, 1]
