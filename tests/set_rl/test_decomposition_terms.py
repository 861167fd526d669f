"""The parts of a credit by brute force: Poly-EPO's product and covariance (Eq. 15), SetPO's three (Theorem 4.3)."""

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_loo_reference import (
    GRAIN,
    IN_DECIMALS,
    as_kernel,
    assert_close,
    credit_by_definition,
    ragged,
    random_grains,
    shaping_of,
)
from set_rl_reference import DEGENERATE, RaggedBatch, quick

from verl_setpo.set_rl import (
    leave_one_out,
    marginal_set_advantage,
    polychromic_decomposition,
    set_diversity,
    set_loo,
    set_loo_decomposition,
)


def three_terms(name: str, grains_NN: torch.Tensor) -> tuple[list[Decimal], list[Decimal], list[Decimal]]:
    """Theorem 4.3 as it is printed, every mass from its definition."""
    grains, everyone = grains_NN.tolist(), range(len(grains_NN))
    count = len(grains_NN)

    def g_of_mass(j: int, members: Sequence[int]) -> Decimal:
        others = [z for z in members if z != j]
        return IN_DECIMALS[name](Decimal(sum(grains[j][z] for z in others)) / (GRAIN * len(others)))

    whole = [g_of_mass(j, everyone) for j in everyone]
    own, share, relief = [], [], []
    for i in everyone:
        rest = [j for j in everyone if j != i]
        own.append(whole[i] / count)
        share.append((1 / Decimal(count) - 1 / Decimal(count - 1)) * sum(whole[j] for j in rest))
        relief.append(sum(whole[j] - g_of_mass(j, rest) for j in rest) / (count - 1))
    return own, share, relief


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("kind", ["any", "near", "clusters"])
@pytest.mark.parametrize("name", IN_DECIMALS)
def test_each_term_equals_theorem_4_3(name, kind, check):
    for count in (3, 4, 7):
        grains_NN = random_grains(count, 1, kind)
        terms = set_loo_decomposition(as_kernel(grains_NN)[None], shaping=shaping_of(name), check=check)
        truth = three_terms(name, grains_NN)
        for term_PN, true in zip(terms, truth, strict=True):
            assert_close(term_PN[0].tolist(), true)
        together = [sum(parts) for parts in zip(*truth, strict=True)]
        assert max(abs(a - b) for a, b in zip(together, credit_by_definition(name, grains_NN), strict=True)) < 1e-35


@quick
@given(
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    seed=st.integers(0, 999),
    name=st.sampled_from(sorted(IN_DECIMALS)),
    junk=st.sampled_from([math.nan, math.inf, -2.0]),
)
def test_terms_of_ragged_groups_add_up_to_the_credit(counts, seed, name, junk):
    kernel_PNN, mask_PN, prompts = ragged(counts, width=8, seed=seed, junk=junk)
    terms = set_loo_decomposition(kernel_PNN, mask_PN, shaping_of(name))
    torch.testing.assert_close(sum(terms), set_loo(kernel_PNN, mask_PN, shaping_of(name)), rtol=0, atol=1e-14)
    for p, (columns, grains_NN) in enumerate(prompts):
        truth = three_terms(name, grains_NN) if len(columns) >= 3 else [[Decimal(0)] * len(columns)] * 3
        for term_PN, true in zip(terms, truth, strict=True):
            assert_close(term_PN[p, columns].tolist(), true)
            assert (term_PN[p][~mask_PN[p]] == 0).all()
            if len(columns) < 3:
                assert (term_PN[p] == 0).all()


@pytest.mark.parametrize("name", ["neg_log1p", "exp"])
def test_terms_of_a_large_group_and_of_many_blocks(monkeypatch, name):
    large_NN = as_kernel(random_grains(300, 0))
    terms = set_loo_decomposition(large_NN[None], shaping=name)
    torch.testing.assert_close(sum(terms), set_loo(large_NN[None], shaping=name), rtol=0, atol=1e-14)
    kernel_PNN, mask_PN, _ = ragged([5, 4, 0, 5, 3], width=5, seed=0, junk=math.nan)
    whole = set_loo_decomposition(kernel_PNN, mask_PN, name)
    monkeypatch.setattr(leave_one_out, "_BLOCK", {"cpu": 50})
    for split_PN, together_PN in zip(set_loo_decomposition(kernel_PNN, mask_PN, name), whole, strict=True):
        torch.testing.assert_close(split_PN, together_PN, rtol=0, atol=1e-16)


def test_a_lone_answer_is_itself_far_from_the_others_and_an_agreeing_one_crowds_them():
    """Seven equal answers and one of its own, g = 1 - m, in fractions: m = 6/7 for the seven, 0 for the lone one."""
    clusters_N = torch.tensor([0] * 7 + [1])
    kernel_PNN = (clusters_N[:, None] == clusters_N)[None].double()
    terms = set_loo_decomposition(kernel_PNN, shaping="linear")
    seventh = Fraction(1, 7)
    share = Fraction(1, 8) - seventh
    lone = [Fraction(1, 8), share * 7 * seventh, seventh * 7 * (seventh - 0)]
    common = [seventh / 8, share * (6 * seventh + 1), seventh * 6 * (seventh - Fraction(1, 6))]
    for term_PN, alone, shared in zip(terms, lone, common, strict=True):
        assert term_PN[0, 7].item() == pytest.approx(float(alone), abs=1e-15)
        assert term_PN[0, :7].tolist() == pytest.approx([float(shared)] * 7, abs=1e-15)
    assert terms.relief_PN[0, 7] > 0 > terms.relief_PN[0, 0]


@pytest.mark.parametrize(("given_dtype", "expected"), [(torch.float16, torch.float32), (torch.float64, torch.float64)])
def test_dtype_of_the_terms_follows_the_kernel(given_dtype, expected):
    assert {term.dtype for term in set_loo_decomposition(torch.eye(4)[None].to(given_dtype))} == {expected}


def diversity_of(clusters: Sequence[int], n: int, zero_single_cluster: bool) -> Fraction:
    distinct = len(set(clusters) - {DEGENERATE})
    return Fraction(0) if zero_single_cluster and distinct <= 1 else Fraction(distinct, n)


def product_and_covariance(
    rewards: list[Fraction], clusters: list[int], n: int, zero_single_cluster: bool
) -> tuple[list[Fraction], list[Fraction]]:
    """Eq. 15: the sets with i, and all sets, each as a population of (mean reward, diversity)."""
    sets = list(combinations(range(len(rewards)), n))

    def moments(some: list[tuple[int, ...]]) -> tuple[Fraction, Fraction]:
        r = [sum((rewards[i] for i in one), Fraction(0)) / n for one in some]
        d = [diversity_of([clusters[i] for i in one], n, zero_single_cluster) for one in some]
        mean_r, mean_d = sum(r, Fraction(0)) / len(some), sum(d, Fraction(0)) / len(some)
        covariance = sum(((x - mean_r) * (y - mean_d) for x, y in zip(r, d, strict=True)), Fraction(0)) / len(some)
        return mean_r * mean_d, covariance

    product, covariance = moments(sets)
    parts = [moments([one for one in sets if i in one]) for i in range(len(rewards))]
    return [p - product for p, _ in parts], [c - covariance for _, c in parts]


@pytest.mark.parametrize("zero_single_cluster", [True, False])
@pytest.mark.parametrize("set_size", [1, 2, 4, 5])
def test_product_and_covariance_equal_their_counts(set_size, zero_single_cluster):
    batch = RaggedBatch([5, 5, 6, 7], width=8, seed=40 + set_size)
    parts = polychromic_decomposition(
        batch.rewards_PN,
        batch.clusters_PN,
        set_size=set_size,
        mask_PN=batch.mask_PN,
        degenerate_cluster=DEGENERATE,
        zero_single_cluster=zero_single_cluster,
    )
    for which, part_PN in enumerate(parts):
        batch.check(
            part_PN,
            lambda r, c, which=which: product_and_covariance(r, c, set_size, zero_single_cluster)[which],
        )


@pytest.mark.parametrize("count", [64, 256])
@pytest.mark.parametrize("zero_single_cluster", [True, False])
def test_product_and_covariance_of_large_groups_add_up(count, zero_single_cluster):
    generator = torch.Generator().manual_seed(count)
    rewards_PN = torch.rand(3, count, generator=generator, dtype=torch.float64)
    clusters_PN = torch.randint(0, 20, (3, count), generator=generator)
    for set_size in (1, 8, count // 2, count):
        options = {"set_size": set_size, "degenerate_cluster": 3, "zero_single_cluster": zero_single_cluster}
        product_PN, covariance_PN = polychromic_decomposition(rewards_PN, clusters_PN, **options)
        total_PN = marginal_set_advantage(rewards_PN, clusters_PN, **options)
        torch.testing.assert_close(product_PN + covariance_PN, total_PN, rtol=0, atol=1e-14)
    assert (product_PN.abs() < 1e-14).all()  # n = N: there is one set only


def test_constant_rewards_have_no_covariance_and_one_cluster_no_diversity_to_gain():
    clusters_PN = torch.tensor([[0, 0, 1, 2, 2, 2]])
    ones_PN = torch.ones(1, 6, dtype=torch.float64)
    product_PN, covariance_PN = polychromic_decomposition(ones_PN, clusters_PN, set_size=3)
    assert (covariance_PN.abs() < 1e-15).all()
    assert product_PN[0, 2] > product_PN[0, 0] > product_PN[0, 3]  # the rarer the better
    rewards_PN = torch.tensor([[1.0, 0, 1, 0, 0, 1]], dtype=torch.float64)
    for zero in (True, False):
        product_PN, covariance_PN = polychromic_decomposition(
            rewards_PN, torch.zeros_like(clusters_PN), set_size=3, zero_single_cluster=zero
        )
        assert (covariance_PN.abs() < 1e-15).all()
        expected_PN = torch.zeros_like(rewards_PN) if zero else (rewards_PN - 0.5) * (3 / 5) / 9
        torch.testing.assert_close(product_PN, expected_PN, rtol=0, atol=1e-15)


def test_wrong_rollout_of_a_rare_cluster_owes_its_advantage_to_the_product():
    """Eq. 15's point, at n = 6 of the N = 8 table: less reward, more diversity."""
    rewards_PN = torch.tensor([[1.0, 1, 1, 1, 1, 0, 0, 0]], dtype=torch.float64)
    clusters_PN = torch.tensor([[0, 0, 0, 0, 0, 1, 2, 3]])
    options = {"set_size": 6, "zero_single_cluster": False}
    product_PN, _ = polychromic_decomposition(rewards_PN, clusters_PN, **options)
    rewards, clusters = [Fraction(r) for r in (1, 1, 1, 1, 1, 0, 0, 0)], clusters_PN[0].tolist()
    truth, _ = product_and_covariance(rewards, clusters, 6, False)
    assert product_PN[0].tolist() == pytest.approx([float(value) for value in truth], abs=1e-15)
    assert product_PN[0, 5] > 0 > product_PN[0, 0]


@pytest.mark.parametrize(("clusters", "size", "value"), [([0, 1, 2, 3], 2, 1.0), ([0, 0, 0, 0], 4, 0.25)])
def test_set_diversity_by_hand(clusters, size, value):
    assert set_diversity(torch.tensor([clusters]), set_size=size).tolist() == [value]
    assert set_diversity(torch.tensor([clusters]), set_size=size, degenerate_cluster=0).item() < value


def test_set_diversity_of_a_large_group_equals_the_chance_to_hit_each_cluster():
    """256 rollouts, n = 100; cluster c of size m is in all but C(256-m, n) of the C(256, n) sets."""
    sizes, degenerates = [1, 2, 3, 10, 40, 100], 100
    clusters = [c for c, size in enumerate(sizes) for _ in range(size)] + [77] * degenerates
    missed = [Fraction(math.comb(256 - size, 100), math.comb(256, 100)) for size in sizes]
    truth = sum(1 - m for m in missed) / 100
    got_P = set_diversity(torch.tensor([clusters]), set_size=100, degenerate_cluster=77)
    assert got_P.item() == pytest.approx(float(truth), rel=1e-6)
