"""GRPO+DIV, the baseline of the papers, against its formula."""

import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import DEGENERATE, RaggedBatch, quick

from verl_setpo.set_rl import grpo_div


def by_formula(rewards, clusters, coef):
    count, sizes = len(rewards), Counter(clusters)

    def bonus(cluster):
        if cluster == DEGENERATE or count == 1:
            return Fraction(0)
        return (Fraction(count, sizes[cluster]) - 1) / (count - 1)

    paid = [reward + coef * bonus(cluster) for reward, cluster in zip(rewards, clusters, strict=True)]
    return [value - sum(paid) / count for value in paid]


@quick
@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(0, 99), st.sampled_from([0.0, 0.25, 2.0]))
def test_equals_the_formula_on_ragged_groups(counts, seed, coef):
    batch = RaggedBatch(counts, width=8, seed=seed)
    got_PN = grpo_div(batch.rewards_PN, batch.clusters_PN, coef, batch.mask_PN, degenerate_cluster=DEGENERATE)
    batch.check(got_PN, lambda rewards, clusters: by_formula(rewards, clusters, Fraction(coef)))


def test_bonus_runs_from_zero_for_one_cluster_to_one_for_a_lone_rollout():
    rewards_PN = torch.zeros(2, 4)
    advantage_PN = grpo_div(rewards_PN, torch.tensor([[3, 3, 3, 3], [3, 3, 3, 8]]), 1.0)
    assert (advantage_PN[0] == 0).all()
    assert (advantage_PN[1, 3] - advantage_PN[1, 0]).item() == pytest.approx(1 - 1 / 9)


def test_coef_zero_is_grpo_without_the_standard_deviation():
    rewards_PN = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(grpo_div(rewards_PN, torch.tensor([[0, 1, 2, 2]]), 0), rewards_PN - 0.5)


def test_degenerate_rollouts_get_no_bonus_for_being_rare():
    advantage_PN = grpo_div(torch.zeros(1, 4), torch.tensor([[0, 0, 0, -1]]), 1.0)
    assert advantage_PN[0, 3] < advantage_PN[0, 0]


def test_lone_rollout_gets_zero():
    assert grpo_div(torch.tensor([[1.0]]), torch.tensor([[0]]), 1.0).item() == 0


def test_integer_rewards_give_float32():
    assert grpo_div(torch.tensor([[1, 0]]), torch.tensor([[0, 1]]), 0.5).dtype == torch.float32


@pytest.mark.parametrize("coef", [-0.1, math.nan, math.inf])
def test_coef_that_is_no_weight_is_refused(coef):
    with pytest.raises(ValueError, match=r"coef must be a number of at least 0, got .*: use 0 for no bonus"):
        grpo_div(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.long), coef)
