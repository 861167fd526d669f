"""Drawing sets: distinct, uniform, reproducible; and the advantage over them."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
import set_rl_reference as exact
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import DEGENERATE, RaggedBatch, quick

from verl_setpo.set_rl import advantage_from_sets, count_left_out, marginal_set_advantage, sample_sets, sets


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["listed", "too many to list"])
def _way_of_drawing(request, monkeypatch):
    if request.param != "listed":
        monkeypatch.setattr(sets, "ENUMERATION_LIMIT", 0)


@pytest.mark.usefixtures("_way_of_drawing")
@pytest.mark.parametrize(("set_size", "num_sets"), [(1, 4), (2, 6), (2, 3), (3, 4), (4, 1)])
def test_sets_are_distinct_and_of_real_rollouts(set_size, num_sets):
    mask_PN = RaggedBatch([4, 5, 7], width=9, seed=1).mask_PN
    sets_PKn = sample_sets(mask_PN, set_size, num_sets, seeded())
    assert sets_PKn.shape == (3, num_sets, set_size)
    assert mask_PN.gather(1, sets_PKn.flatten(1)).all()
    for sets_Kn in sets_PKn.tolist():
        assert len({tuple(chosen) for chosen in sets_Kn}) == num_sets
        assert all(chosen == sorted(set(chosen)) for chosen in sets_Kn)


@pytest.mark.usefixtures("_way_of_drawing")
def test_every_choice_of_sets_is_equally_likely():
    draws = 6000
    sets_PKn = sample_sets(torch.ones(draws, 4, dtype=torch.bool), 2, 2, seeded(5))
    pairs = Counter(frozenset(tuple(chosen) for chosen in sets_Kn) for sets_Kn in sets_PKn.tolist())
    possible = math.comb(math.comb(4, 2), 2)
    assert len(pairs) == possible
    chi_square = sum((count - draws / possible) ** 2 for count in pairs.values()) / (draws / possible)
    assert chi_square < 36.1  # 0.999 quantile at 14 degrees of freedom


def test_one_seed_gives_one_draw_wherever_masked_places_are():
    mask_PN = torch.tensor([[True, True, True, True, False, False], [True] * 6])
    moved_PN = torch.tensor([[False, True, False, True, True, True], [True] * 6])
    plain, moved = sample_sets(mask_PN, 2, 4, seeded(3)), sample_sets(moved_PN, 2, 4, seeded(3))
    assert torch.equal(plain, sample_sets(mask_PN, 2, 4, seeded(3)))
    assert not torch.equal(plain, sample_sets(mask_PN, 2, 4, seeded(4)))
    assert torch.equal(torch.tensor([1, 3, 4, 5])[plain[0]], moved[0])
    assert torch.equal(plain[1], moved[1])


def test_global_seed_is_used_without_a_generator():
    mask_PN = torch.ones(2, 6, dtype=torch.bool)
    torch.manual_seed(8)
    first = sample_sets(mask_PN, 3, 5)
    torch.manual_seed(8)
    assert torch.equal(first, sample_sets(mask_PN, 3, 5))


def test_groups_with_astronomically_many_sets_can_be_drawn_from():
    mask_PN = torch.ones(2, 256, dtype=torch.bool)
    sets_PKn = sample_sets(mask_PN, 64, 300, seeded())
    assert all(len(set(map(tuple, sets_Kn))) == 300 for sets_Kn in sets_PKn.tolist())
    share_N = torch.bincount(sets_PKn.flatten(), minlength=256) / 600
    assert ((share_N - 0.25).abs() < 0.09).all()  # five standard deviations


def test_prompt_without_rollouts_has_sets_of_minus_one():
    mask_PN = torch.tensor([[False, False], [True, True]])
    assert sample_sets(mask_PN, 1, 2, seeded())[0].eq(-1).all()


@quick
@given(count=st.integers(1, 7), seed=st.integers(0, 99), zero=st.booleans(), reduction=st.sampled_from(["mean", "sum"]))
def test_drawing_every_set_equals_the_closed_form(count, seed, zero, reduction):
    set_size = 1 + seed % count
    batch = RaggedBatch([count, count], width=8, seed=seed)
    for objective in ["polychromic", "pass_at_n", "mean", "coverage"]:
        settings = {
            "set_size": set_size,
            "objective": objective,
            "mask_PN": batch.mask_PN,
            "zero_single_cluster": zero,
            "reduction": reduction,
            "degenerate_cluster": DEGENERATE,
        }
        all_PN = marginal_set_advantage(batch.rewards_PN, batch.clusters_PN, **settings)
        num_sets = math.comb(count, set_size)
        drawn_PN = marginal_set_advantage(batch.rewards_PN, batch.clusters_PN, num_sets=num_sets, **settings)
        assert torch.equal(drawn_PN, all_PN)
        sets_PKn = sample_sets(batch.mask_PN, set_size, num_sets, seeded())
        del settings["set_size"]
        listed_PN = advantage_from_sets(batch.rewards_PN, batch.clusters_PN, sets_PKn, **settings)
        torch.testing.assert_close(listed_PN, all_PN, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("zero_single_cluster", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_advantage_over_drawn_sets_equals_exact_fractions(reduction, zero_single_cluster):
    batch = RaggedBatch([5, 5, 6, 7, 7], width=8, seed=11)
    settings = {
        "mask_PN": batch.mask_PN,
        "degenerate_cluster": DEGENERATE,
        "reduction": reduction,
        "zero_single_cluster": zero_single_cluster,
    }
    got_PN = marginal_set_advantage(
        batch.rewards_PN, batch.clusters_PN, set_size=3, num_sets=4, generator=seeded(2), **settings
    )
    sets_PKn = sample_sets(batch.mask_PN, 3, 4, seeded(2))
    for prompt, (columns, rewards, clusters) in enumerate(batch.prompts):
        chosen = [[columns.index(column) for column in one] for one in sets_PKn[prompt].tolist()]
        truth = exact.marginal(rewards, clusters, exact.polychromic(zero_single_cluster), chosen, reduction)
        exact.assert_close(got_PN[prompt, columns].tolist(), truth, rewards)
    from_sets_PN = advantage_from_sets(batch.rewards_PN, batch.clusters_PN, sets_PKn, **settings)
    assert torch.equal(from_sets_PN, got_PN)


def test_prompt_with_few_sets_uses_them_all_beside_others_that_draw():
    batch = RaggedBatch([7, 4, 7, 3], width=8, seed=3)
    options = {"mask_PN": batch.mask_PN, "degenerate_cluster": DEGENERATE, "set_size": 3}
    all_PN = marginal_set_advantage(batch.rewards_PN, batch.clusters_PN, **options)
    drawn_PN = marginal_set_advantage(batch.rewards_PN, batch.clusters_PN, num_sets=5, generator=seeded(), **options)
    assert torch.equal(drawn_PN[[1, 3]], all_PN[[1, 3]])
    assert not torch.allclose(drawn_PN[0], all_PN[0])
    assert not torch.allclose(drawn_PN[2], all_PN[2])


def test_rollout_in_no_drawn_set_gets_zero_and_is_counted():
    rewards_PN = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 9.0, 9.0]])
    mask_PN = torch.tensor([[True] * 5, [True, True, True, False, False]])
    sets_PKn = torch.tensor([[[0, 1], [1, 2]], [[0, 1], [0, 2]]])
    advantage_PN = advantage_from_sets(rewards_PN, None, sets_PKn, objective="mean", mask_PN=mask_PN)
    assert advantage_PN[0, 3:].eq(0).all()
    assert count_left_out(sets_PKn, mask_PN).tolist() == [2, 0]
    # set means 0.5 and 1, baseline 0.75
    torch.testing.assert_close(advantage_PN[1, :3], torch.tensor([0.0, -0.25, 0.25]))


def test_sum_over_drawn_sets_is_the_mean_times_their_number():
    rewards_PN = torch.tensor([[1.0, 0.0, 1.0]])
    sets_PKn = torch.tensor([[[0, 1], [0, 2]]])
    by_mean_PN = advantage_from_sets(rewards_PN, None, sets_PKn, objective="mean", reduction="mean")
    by_sum_PN = advantage_from_sets(rewards_PN, None, sets_PKn, objective="mean", reduction="sum")
    torch.testing.assert_close(by_sum_PN, by_mean_PN * torch.tensor([2.0, 1.0, 1.0]))


def test_average_over_draws_with_sum_is_proportional_to_all_sets():
    """Summed over drawn sets, the expected advantage is that of all sets up to one constant."""
    rewards, clusters = [Fraction(1), Fraction(1), Fraction(0), Fraction(1, 3), Fraction(0)], [0, 0, 1, 2, DEGENERATE]
    every = list(itertools.combinations(range(5), 2))
    value = exact.polychromic(True)
    totals = [Fraction(0)] * 5
    for drawn in itertools.combinations(every, 3):
        for i, advantage in enumerate(exact.marginal(rewards, clusters, value, drawn, "sum")):
            totals[i] += advantage
    over_all = exact.marginal_of_all_sets(rewards, clusters, value, 2, "sum")
    scale = sum(t * a for t, a in zip(totals, over_all, strict=True)) / sum(a * a for a in over_all)
    assert scale > 0
    assert totals == [scale * a for a in over_all]
