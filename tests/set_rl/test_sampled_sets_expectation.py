"""What the advantage over K drawn sets is on average over the draws: that over all sets, times one known constant.

Of K drawn sets, J contain rollout i, and those are as good as any J of all the sets with i. So with a = C(N-1, n-1)
sets with i and b = C(N-1, n) without, the expected advantage is that over all sets, times

    "mean"  N/(N-n) E[(1 - J/K) [J > 0]] = 1 - N/(N-n) P(J = 0)
    "sum"   N/(N-n) E[J (1 - J/K)] / a

with J hypergeometric. Neither depends on i or on the values: both reductions are unbiased up to a positive constant,
which for "mean" is 1 once every rollout is in some set.
"""

import itertools
import math
from fractions import Fraction

import pytest
import set_rl_reference as exact
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import DEGENERATE, RaggedBatch, quick

from verl_setpo.set_rl import advantage_from_sets, count_left_out, marginal_set_advantage, sample_sets, sets
from verl_setpo.set_rl.sets import has_more_sets

REWARDS = [
    Fraction(1),
    Fraction(0),
    Fraction(1),
    Fraction(-3, 4),
    Fraction(1, 2),
    Fraction(1),
    Fraction(0),
    Fraction(1),
]
CLUSTERS = [0, 0, 1, 2, DEGENERATE, 3, 1, 0]


def constant(count: int, set_size: int, num_sets: int, reduction: str) -> Fraction:
    """By how much the expected advantage over drawn sets differs from that over all sets; for every rollout alike."""
    with_i, without_i = math.comb(count - 1, set_size - 1), math.comb(count - 1, set_size)
    total = Fraction(0)
    for drawn in range(1, num_sets + 1):
        ways = math.comb(with_i, drawn) * math.comb(without_i, num_sets - drawn)
        weight = Fraction(drawn, with_i) if reduction == "sum" else 1
        total += weight * (1 - Fraction(drawn, num_sets)) * ways
    return total / math.comb(with_i + without_i, num_sets) * Fraction(count, count - set_size)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("objective", ["polychromic", "pass_at_n", "mean", "coverage"])
@pytest.mark.parametrize(
    ("count", "set_size", "num_sets"),
    [(4, 2, 1), (4, 2, 2), (4, 2, 3), (4, 2, 5), (4, 3, 2), (5, 1, 3), (5, 2, 2), (5, 2, 3), (5, 3, 4), (5, 2, 9)],
)
def test_mean_over_all_choices_of_sets_is_the_advantage_over_all_sets_times_a_constant(
    count, set_size, num_sets, objective, reduction
):
    every = list(itertools.combinations(range(count), set_size))
    choices_PKn = torch.tensor(list(itertools.combinations(every, num_sets)))
    rewards_PN = torch.tensor([[float(r) for r in REWARDS[:count]]], dtype=torch.float64).expand(len(choices_PKn), -1)
    clusters_PN = torch.tensor([CLUSTERS[:count]]).expand(len(choices_PKn), -1)
    settings = {"objective": objective, "reduction": reduction, "degenerate_cluster": DEGENERATE}
    expected_N = advantage_from_sets(rewards_PN, clusters_PN, choices_PKn, **settings).mean(0)

    value = exact.polychromic(True) if objective == "polychromic" else getattr(exact, objective)
    over_all = exact.marginal_of_all_sets(REWARDS[:count], CLUSTERS[:count], value, set_size)
    if reduction == "sum":
        over_all = [math.comb(count - 1, set_size - 1) * advantage for advantage in over_all]
    factor = constant(count, set_size, num_sets, reduction)
    assert (factor > 0) == (num_sets > 1)  # of a single set, the baseline is the set itself
    assert expected_N.tolist() == pytest.approx([float(factor * advantage) for advantage in over_all], abs=1e-13)


def test_constant_of_the_mean_is_one_once_nobody_can_be_left_out():
    assert constant(5, 2, 7, "mean") == 1  # six sets do without a given rollout
    assert constant(5, 2, 6, "mean") < 1
    left_out = Fraction(math.comb(35, 4), math.comb(70, 4))
    assert constant(8, 4, 4, "mean") == 1 - Fraction(8, 8 - 4) * left_out


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("copies", "set_size", "num_sets"), [(1, 4, 6), (2, 4, 12)], ids=["from the list of sets", "from a stream of sets"]
)
def test_advantage_over_drawn_sets_is_unbiased(copies, set_size, num_sets, reduction):
    """The mean over 20,000 draws lies within 4.06 standard errors of its expectation, for each of N rollouts.

    Were the seed not fixed, a sound draw would fail one run of this test in 1,000 or less (normal tail 5e-5 twice, or
    up to 16 times, 8e-4). A constant wrong by a tenth, or one rollout favoured by as much, is far outside.
    """
    draws, rewards, clusters = 20_000, REWARDS * copies, CLUSTERS * copies
    count = len(rewards)
    rewards_PN = torch.tensor([[float(r) for r in rewards]], dtype=torch.float64).expand(draws, -1)
    clusters_PN = torch.tensor([clusters]).expand(draws, -1)
    drawn_PN = marginal_set_advantage(
        rewards_PN,
        clusters_PN,
        set_size=set_size,
        num_sets=num_sets,
        reduction=reduction,
        degenerate_cluster=DEGENERATE,
        generator=torch.Generator().manual_seed(17),
    )
    truth = exact.polychromic_by_counting(rewards, clusters, set_size, True)
    factor = constant(count, set_size, num_sets, reduction)
    if reduction == "sum":
        factor *= math.comb(count - 1, set_size - 1)
    expected_N = torch.tensor([float(factor * value) for value in truth], dtype=torch.float64)
    error_N = drawn_PN.std(0) / math.sqrt(draws)
    assert (4.06 * error_N < 0.1 * expected_N.abs().max()).all()  # the test sees a bias of a tenth
    assert ((drawn_PN.mean(0) - expected_N).abs() < 4.06 * error_N).all()


@pytest.mark.parametrize(("count", "set_size", "num_sets"), [(8, 4, 3), (24, 4, 12)])
def test_rollouts_are_left_out_as_often_as_chance_says(count, set_size, num_sets):
    """The number of draws that leave out rollout i is binomial; each is within 4.06 standard deviations (1e-3 false
    alarms at most, as above), and `count_left_out` adds them up."""
    draws = 4000
    mask_PN = torch.ones(draws, count, dtype=torch.bool)
    sets_PKn = sample_sets(mask_PN, set_size, num_sets, torch.Generator().manual_seed(3))
    there_PN = torch.zeros(draws, count).scatter(1, sets_PKn.flatten(1), 1.0)
    chance = math.comb(math.comb(count - 1, set_size), num_sets) / math.comb(math.comb(count, set_size), num_sets)
    missing_N = draws - there_PN.sum(0)
    assert ((missing_N - draws * chance).abs() < 4.06 * math.sqrt(draws * chance * (1 - chance))).all()
    assert torch.equal(count_left_out(sets_PKn, mask_PN), (count - there_PN.sum(1)).long())


@quick
@given(counts=st.lists(st.integers(3, 9), min_size=1, max_size=4), num_sets=st.integers(1, 3), seed=st.integers(0, 999))
def test_left_out_rollouts_are_those_in_no_set_and_get_zero(counts, num_sets, seed):
    batch = RaggedBatch(counts, width=10, seed=seed)
    sets_PKn = sample_sets(batch.mask_PN, 2, num_sets, torch.Generator().manual_seed(seed))
    advantage_PN = advantage_from_sets(
        batch.rewards_PN, batch.clusters_PN, sets_PKn, objective="mean", mask_PN=batch.mask_PN
    )
    left_out_P = count_left_out(sets_PKn, batch.mask_PN).tolist()
    for p, (columns, _, _) in enumerate(batch.prompts):
        missing = set(columns) - set(sets_PKn[p].flatten().tolist())
        assert left_out_P[p] == len(missing)
        assert (advantage_PN[p, sorted(missing)] == 0).all()


@pytest.mark.parametrize(("count", "set_size", "num_sets"), [(8, 4, 5), (20, 5, 40)])
def test_many_prompts_drawn_in_parts_are_as_distinct_and_reproducible(monkeypatch, count, set_size, num_sets):
    monkeypatch.setattr(sets, "_CHUNK", 500)
    mask_PN = torch.ones(50, count, dtype=torch.bool)
    first, second = (sample_sets(mask_PN, set_size, num_sets, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert all(len(set(map(tuple, sets_Kn))) == num_sets for sets_Kn in first.tolist())
    assert len({str(sets_Kn) for sets_Kn in first.tolist()}) == 50  # no part repeats another


@pytest.mark.parametrize("objective", ["polychromic", "pass_at_n", "coverage", "smooth_polychromic"])
def test_as_many_sets_as_there_are_uses_no_randomness_and_equals_all_sets(objective):
    batch = RaggedBatch([6, 6, 6], width=7, seed=4)
    options = {"set_size": 3, "objective": objective, "mask_PN": batch.mask_PN, "degenerate_cluster": DEGENERATE}
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    all_PN = marginal_set_advantage(batch.rewards_PN, batch.clusters_PN, **options)
    for num_sets in [20, 21, 10**12]:
        every_PN = marginal_set_advantage(
            batch.rewards_PN, batch.clusters_PN, num_sets=num_sets, generator=generator, **options
        )
        assert torch.equal(every_PN, all_PN)
    assert torch.equal(generator.get_state(), before)
    nearly_PN = marginal_set_advantage(batch.rewards_PN, batch.clusters_PN, num_sets=19, **options)
    assert not torch.equal(nearly_PN, all_PN)


def test_number_of_sets_beyond_int64_is_as_good_as_any():
    """C(70, 35) has 21 digits: asking for that many sets asks for all of them."""
    rewards, clusters = (REWARDS * 9)[:70], (CLUSTERS * 9)[:70]
    rewards_PN = torch.tensor([[float(r) for r in rewards]], dtype=torch.float64)
    options = {"set_size": 35, "degenerate_cluster": DEGENERATE}
    all_PN = marginal_set_advantage(rewards_PN, torch.tensor([clusters]), **options)
    every_PN = marginal_set_advantage(rewards_PN, torch.tensor([clusters]), num_sets=math.comb(70, 35), **options)
    assert torch.equal(every_PN, all_PN)


@pytest.mark.parametrize("num_sets", [11, 10**15, 10**30])
def test_more_sets_than_there_are_is_refused_before_anything_is_made(num_sets):
    with pytest.raises(
        ValueError, match=f"num_sets is {num_sets} but a prompt with 5 rollouts has only 10 sets of size 2"
    ):
        sample_sets(torch.ones(2, 5, dtype=torch.bool), 2, num_sets)


@pytest.mark.parametrize("set_size", [1, 2, 5])
@pytest.mark.parametrize("num_sets", [1, 3, 10, 56, 10**30])
def test_a_prompt_has_more_sets_than_are_drawn_if_its_binomial_says_so(set_size, num_sets):
    counts = [5, 9, 0, 8, 7, 6]
    mask_PN = RaggedBatch(counts, width=10, seed=1).mask_PN
    expected = [math.comb(count, set_size) > num_sets for count in counts]
    assert has_more_sets(mask_PN, set_size, num_sets).tolist() == expected
