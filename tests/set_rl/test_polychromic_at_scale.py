"""The polychromic closed form up to N = 256, to the last digits that float64 has, however the cluster ids look."""

import random
from collections.abc import Sequence
from fractions import Fraction
from math import comb

import pytest
import set_rl_reference as exact
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import DEGENERATE, quick

from verl_setpo.set_rl import grpo_div, marginal_set_advantage, polychromic_decomposition, set_diversity

LOWEST, HIGHEST = -(2**63), 2**63 - 1
KINDS = {
    "few clusters": (2, 0.0),
    "some": (12, 0.25),
    "all alone": (None, 0.1),
    "one": (1, 0.5),
    "degenerate": (1, 1.0),
}


def group(count: int, kind: str, seed: int, real: bool = True) -> tuple[list[Fraction], list[int]]:
    rng = random.Random(f"{count} {kind} {seed}")
    num_clusters, degenerate_share = KINDS[kind]
    rewards = [Fraction(rng.randrange(-48, 49), 16) if real else Fraction(rng.randrange(2)) for _ in range(count)]
    clusters = [i if num_clusters is None else rng.randrange(num_clusters) for i in range(count)]
    # The exact counting tells degenerates by the id 100, so cluster 100 steps aside.
    clusters = [count + 1 if c == DEGENERATE else c for c in clusters]
    return rewards, [DEGENERATE if rng.random() < degenerate_share else c for c in clusters]


def advantage(rewards: Sequence[Fraction], clusters: Sequence[int], n: int, zero: bool, **options) -> list[float]:
    rewards_PN = torch.tensor([[float(r) for r in rewards]], dtype=torch.float64)
    options = {"degenerate_cluster": DEGENERATE} | options
    return marginal_set_advantage(
        rewards_PN, torch.tensor([clusters]), set_size=n, zero_single_cluster=zero, **options
    )[0].tolist()


def assert_exact(got: Sequence[float], truth: Sequence[Fraction], rewards: Sequence[Fraction]) -> None:
    """Relative error below 1e-9, of the whole prompt below 1e-10; 1e-15 of a reward is left where terms cancel."""
    floor = Fraction(1e-15) * max((abs(r) for r in rewards), default=0)
    largest = max(abs(value) for value in truth)
    for value, true in zip(got, truth, strict=True):
        error = abs(Fraction(value) - true)
        assert error <= Fraction(1e-9) * abs(true) + floor, (value, float(true))
        assert error <= Fraction(1e-10) * largest, (value, float(true))


def set_sizes(count: int) -> list[int]:
    return [2, count // 2, count - 1] if count > 200 else [1, 2, 3, count // 4, count // 2, count - 2, count - 1]


@pytest.mark.parametrize("zero_single_cluster", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [16, 100, 256])
def test_every_set_size_equals_exact_counting(count, kind, zero_single_cluster):
    for set_size in set_sizes(count):
        rewards, clusters = group(count, kind, seed=set_size)
        truth = exact.polychromic_by_counting(rewards, clusters, set_size, zero_single_cluster)
        assert_exact(advantage(rewards, clusters, set_size, zero_single_cluster), truth, rewards)


@pytest.mark.parametrize("kind", ["some", "one"])
@pytest.mark.parametrize("count", [8, 33, 256])
def test_sum_over_all_sets_counts_each_of_them(count, kind):
    """C(255, 127) has 76 digits: still a float64, and still right."""
    for set_size in set_sizes(count):
        rewards, clusters = group(count, kind, seed=set_size)
        sets_with_i = comb(count - 1, set_size - 1)
        truth = [value * sets_with_i for value in exact.polychromic_by_counting(rewards, clusters, set_size, False)]
        got = advantage(rewards, clusters, set_size, False, reduction="sum")
        assert_exact([Fraction(value) / sets_with_i for value in got], [v / sets_with_i for v in truth], rewards)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("zero_single_cluster", [True, False])
@pytest.mark.parametrize("count", [1, 2, 7, 64, 256, 1200])
def test_one_set_of_all_gives_exact_zeros(count, zero_single_cluster, reduction):
    rewards, clusters = group(count, "some", seed=0)
    assert set(advantage(rewards, clusters, count, zero_single_cluster, reduction=reduction)) == {0.0}


@pytest.mark.parametrize("scale", [1e-150, 1e-9, 1e9, 1e150])
def test_no_scale_of_rewards_is_special(scale):
    rewards, clusters = group(256, "some", seed=1)
    truth = exact.polychromic_by_counting(rewards, clusters, 8, True)
    scaled = torch.tensor([[float(r) for r in rewards]], dtype=torch.float64) * scale
    got_PN = marginal_set_advantage(scaled, torch.tensor([clusters]), set_size=8, degenerate_cluster=DEGENERATE)
    assert_exact((got_PN[0] / scale).tolist(), truth, rewards)


def test_ragged_groups_of_up_to_256_share_a_batch():
    """Each prompt has its own N, and its own binomials; NaN and stray ids stand at the masked places."""
    counts, width, set_size = [9, 256, 64, 10, 0, 130], 300, 9
    rng = random.Random(7)
    rewards_PN = torch.full((len(counts), width), torch.nan, dtype=torch.float64)
    clusters_PN = torch.randint(LOWEST, HIGHEST, rewards_PN.shape, generator=torch.Generator().manual_seed(0))
    mask_PN = torch.zeros_like(rewards_PN, dtype=torch.bool)
    prompts = []
    for p, count in enumerate(counts):
        columns = sorted(rng.sample(range(width), count))
        rewards, clusters = group(count, "some", seed=p)
        rewards_PN[p, columns] = torch.tensor([float(r) for r in rewards], dtype=torch.float64)
        clusters_PN[p, columns] = torch.tensor(clusters, dtype=torch.int64)
        mask_PN[p, columns] = True
        prompts.append((columns, rewards, clusters))
    options = {"set_size": set_size, "mask_PN": mask_PN, "degenerate_cluster": DEGENERATE}
    got_PN = marginal_set_advantage(rewards_PN, clusters_PN, **options)
    assert (got_PN[~mask_PN] == 0).all()
    for p, (columns, rewards, clusters) in enumerate(prompts):
        if columns:
            truth = exact.polychromic_by_counting(rewards, clusters, set_size, True)
            if len(columns) == set_size:
                assert (got_PN[p] == 0).all()
            else:
                assert_exact(got_PN[p, columns].tolist(), truth, rewards)


@st.composite
def groups_and_names(draw):
    """A group with ids in 0..N-1, and another name for each id, from anywhere in the range of int64."""
    count = draw(st.integers(2, 9))
    clusters = draw(st.lists(st.integers(0, count - 1), min_size=count, max_size=count))
    rewards = draw(st.lists(st.floats(-2, 2), min_size=count, max_size=count))
    anywhere = st.one_of(
        st.sampled_from([LOWEST, LOWEST + 1, -1, 0, 1, HIGHEST - 1, HIGHEST]), st.integers(LOWEST, HIGHEST)
    )
    names = draw(st.lists(anywhere, min_size=count, max_size=count, unique=True))
    mask = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    degenerate = draw(st.integers(0, count - 1))
    return rewards, clusters, names, mask, degenerate


@quick
@given(groups_and_names(), st.sampled_from(["polychromic", "coverage", "smooth_polychromic"]), st.booleans())
def test_ids_from_anywhere_give_what_small_ids_give(case, objective, zero):
    """Small ids are labels already and others are sorted into some: both must say the same, also of degenerates."""
    rewards, clusters, names, mask, degenerate = case
    if not any(mask):
        return
    rewards_PN, mask_PN = torch.tensor([rewards], dtype=torch.float64), torch.tensor([mask])
    small_PN, large_PN = torch.tensor([clusters]), torch.tensor([[names[c] for c in clusters]])
    set_size = 1 + sum(mask) // 2

    def advantages(clusters_PN, degenerate_cluster):
        options = {"set_size": set_size, "mask_PN": mask_PN, "degenerate_cluster": degenerate_cluster}
        both = {"objective": objective, "zero_single_cluster": zero}
        return [
            marginal_set_advantage(rewards_PN, clusters_PN, **options, **both),
            *polychromic_decomposition(rewards_PN, clusters_PN, **options, zero_single_cluster=zero),
            set_diversity(clusters_PN, **options),
            grpo_div(rewards_PN, clusters_PN, 0.5, mask_PN, degenerate_cluster),
        ]

    for small, large in zip(advantages(small_PN, degenerate), advantages(large_PN, names[degenerate]), strict=True):
        torch.testing.assert_close(large, small, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("zero_single_cluster", [True, False])
def test_large_ids_in_large_groups_give_what_small_ids_give(zero_single_cluster):
    rewards, clusters = group(256, "all alone", seed=3)
    far = {c: LOWEST + (c * 2**55) for c in set(clusters)}
    plain = advantage(rewards, clusters, 100, zero_single_cluster)
    renamed = advantage(
        rewards, [far[c] for c in clusters], 100, zero_single_cluster, degenerate_cluster=far[DEGENERATE]
    )
    torch.testing.assert_close(torch.tensor(renamed), torch.tensor(plain), rtol=1e-9, atol=1e-16)


def test_one_far_id_in_a_batch_changes_no_other_prompt():
    """A far id sends the whole batch to the sort; prompts that had small ids must not notice."""
    rewards_PN = torch.tensor([[1.0, 0, 1, 0.5], [0, 1, 1, 1]], dtype=torch.float64)
    small_PN, mixed_PN = torch.tensor([[0, 3, 3, 1], [2, 2, 0, 1]]), torch.tensor([[0, 3, 3, 1], [2, 2, HIGHEST, 1]])
    options = {"set_size": 2, "degenerate_cluster": 1}
    small_PN, mixed_PN = (marginal_set_advantage(rewards_PN, c, **options) for c in (small_PN, mixed_PN))
    torch.testing.assert_close(mixed_PN, small_PN, rtol=0, atol=1e-15)


@pytest.mark.parametrize("place", ["masked", "degenerate"])
def test_the_largest_id_is_a_cluster_of_its_own_beside_what_has_none(place):
    """int64's largest value is a legal id, though the sort also sends what has no cluster to the end."""
    rewards_PN = torch.tensor([[1.0, 1, 0, 1, 1]], dtype=torch.float64)
    clusters_PN = torch.tensor([[HIGHEST, 7, HIGHEST, -5, 9]])
    options = {"set_size": 2, "degenerate_cluster": -5 if place == "degenerate" else -1}
    if place == "masked":
        options["mask_PN"] = torch.tensor([[True, True, True, False, True]])
    got_PN = marginal_set_advantage(rewards_PN, clusters_PN, **options)
    expected_PN = marginal_set_advantage(rewards_PN, torch.tensor([[0, 1, 0, -5, 2]]), **options)
    torch.testing.assert_close(got_PN, expected_PN, rtol=0, atol=1e-15)
    assert got_PN[0, 1] > got_PN[0, 0]
