"""What must not matter: the order of rollouts and prompts, and the names of clusters, for every public function."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import DEGENERATE, quick

from verl_setpo import set_rl
from verl_setpo.set_rl import (
    SHAPINGS,
    advantage_from_sets,
    cosine_kernel,
    count_left_out,
    equality_kernel,
    group_diversity,
    grpo_div,
    marginal_set_advantage,
    objective_names,
    polychromic_decomposition,
    rbf_kernel,
    sample_sets,
    set_diversity,
    set_loo,
    set_loo_decomposition,
)
from verl_setpo.set_rl.sets import has_more_sets

LOWEST, HIGHEST = -(2**63), 2**63 - 1
SET_SIZE = 2


class Batch:
    """Three prompts with rewards, clusters, embeddings, a mask and drawn sets; or the same in another order."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.mask_PN = torch.rand(3, 8, generator=generator) < 0.7
        self.mask_PN[:, :3] = True
        self.mask_PN[2] = False
        rewards_PN = torch.randint(-2, 3, (3, 8), generator=generator).double() / 2
        self.rewards_PN = rewards_PN.masked_fill(~self.mask_PN, math.nan)
        self.clusters_PN = torch.tensor([0, 1, 2, DEGENERATE])[torch.randint(0, 4, (3, 8), generator=generator)]
        self.vectors_PND = torch.randn(3, 8, 4, generator=generator, dtype=torch.float64)
        self.sets_PKn = sample_sets(self.mask_PN, SET_SIZE, 2, generator)

    def in_order(self, order_N: torch.Tensor, order_P: torch.Tensor) -> "Batch":
        moved = object.__new__(Batch)
        for name in ("mask_PN", "rewards_PN", "clusters_PN", "vectors_PND"):
            setattr(moved, name, getattr(self, name)[order_P][:, order_N])
        place_N = order_N.argsort()
        sets_PKn = self.sets_PKn[order_P]
        moved.sets_PKn = torch.where(sets_PKn >= 0, place_N[sets_PKn.clamp(min=0)], -1)
        return moved

    @property
    def kernel_PNN(self) -> torch.Tensor:
        return cosine_kernel(self.vectors_PND, self.mask_PN)

    def marginal(self, objective: str, **options) -> torch.Tensor:
        return marginal_set_advantage(
            self.rewards_PN,
            self.clusters_PN,
            set_size=SET_SIZE,
            objective=objective,
            mask_PN=self.mask_PN,
            degenerate_cluster=DEGENERATE,
            kernel_PNN=self.kernel_PNN,
            **options,
        )

    def from_sets(self, objective: str) -> torch.Tensor:
        return advantage_from_sets(
            self.rewards_PN,
            self.clusters_PN,
            self.sets_PKn,
            objective=objective,
            mask_PN=self.mask_PN,
            degenerate_cluster=DEGENERATE,
            kernel_PNN=self.kernel_PNN,
        )

    def of_clusters(self) -> dict:
        return {"mask_PN": self.mask_PN, "degenerate_cluster": DEGENERATE, "set_size": SET_SIZE}


PER_ROLLOUT = {
    **{f"marginal {name}": lambda b, name=name: b.marginal(name) for name in objective_names()},
    "marginal sum": lambda b: b.marginal("polychromic", reduction="sum"),
    "marginal paying singles": lambda b: b.marginal("polychromic", zero_single_cluster=False),
    **{f"from sets {name}": lambda b, name=name: b.from_sets(name) for name in objective_names()},
    "product": lambda b: polychromic_decomposition(b.rewards_PN, b.clusters_PN, **b.of_clusters())[0],
    "covariance": lambda b: polychromic_decomposition(b.rewards_PN, b.clusters_PN, **b.of_clusters())[1],
    "grpo_div": lambda b: grpo_div(b.rewards_PN, b.clusters_PN, 0.5, b.mask_PN, DEGENERATE),
    **{f"set_loo {name}": lambda b, name=name: set_loo(b.kernel_PNN, b.mask_PN, name) for name in SHAPINGS},
    "centred": lambda b: set_loo(b.kernel_PNN, b.mask_PN, center=True),
    "unchecked": lambda b: set_loo(b.kernel_PNN, b.mask_PN, check=False),
    "own": lambda b: set_loo_decomposition(b.kernel_PNN, b.mask_PN).own_PN,
    "share": lambda b: set_loo_decomposition(b.kernel_PNN, b.mask_PN).share_PN,
    "relief": lambda b: set_loo_decomposition(b.kernel_PNN, b.mask_PN).relief_PN,
}
PER_PAIR = {
    "cosine": lambda b: b.kernel_PNN,
    "rbf": lambda b: rbf_kernel(b.vectors_PND, b.mask_PN, bandwidth=1.0),
    "equality": lambda b: equality_kernel(b.clusters_PN, b.mask_PN).double(),
}
PER_PROMPT = {
    "group_diversity": lambda b: group_diversity(b.kernel_PNN, b.mask_PN),
    "set_diversity": lambda b: set_diversity(b.clusters_PN, **b.of_clusters()).double(),
    "has_more_sets": lambda b: has_more_sets(b.mask_PN, SET_SIZE, 6).double(),
    "count_left_out": lambda b: count_left_out(b.sets_PKn, b.mask_PN).double(),
}


@quick
@given(st.sampled_from([*PER_ROLLOUT, *PER_PAIR, *PER_PROMPT]), st.integers(0, 9999), st.permutations(range(8)))
def test_reordering_rollouts_and_prompts_reorders_the_results(name, seed, order):
    batch, order_N, order_P = Batch(seed), torch.tensor(order), torch.tensor([2, 0, 1])
    function = (PER_ROLLOUT | PER_PAIR | PER_PROMPT)[name]
    expected = function(batch)[order_P]
    if name not in PER_PROMPT:
        expected = expected[:, order_N]
    if name in PER_PAIR:
        expected = expected[:, :, order_N]
    tolerance = 1e-7 if name == "set_diversity" else 1e-12
    torch.testing.assert_close(function(batch.in_order(order_N, order_P)), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [*PER_ROLLOUT, *PER_PAIR, *PER_PROMPT])
def test_every_function_above_says_something_about_the_batch(name):
    """Or the symmetries would hold for want of a signal."""
    function = (PER_ROLLOUT | PER_PAIR | PER_PROMPT)[name]
    assert any((function(Batch(seed))[:2] != 0).any() for seed in range(20))
    assert all((function(Batch(seed))[2] == 0).all() for seed in range(3))


def test_every_public_function_is_put_to_the_test_above():
    elsewhere = {"sample_sets", "get_objective", "objective_names", "register_objective"}
    types_and_constants = {"ENUMERATION_LIMIT", "SHAPINGS", "CreditTerms", "Objective"}
    assert set(set_rl.__all__) - elsewhere - types_and_constants <= set(globals())


@quick
@given(
    st.integers(0, 9999),
    st.lists(st.integers(LOWEST, HIGHEST), min_size=4, max_size=4, unique=True),
    st.permutations([LOWEST, HIGHEST, -1, DEGENERATE]),
    st.booleans(),
)
def test_any_other_names_of_the_clusters_change_nothing(seed, anywhere, extremes, at_extremes):
    """The degenerate id is a name as any other: 100 may become a cluster, and int64's least value the degenerate."""
    names = extremes if at_extremes else anywhere
    batch = Batch(seed)
    renamed_PN = batch.clusters_PN.clone()
    for old, new in zip([0, 1, 2, DEGENERATE], names, strict=True):
        renamed_PN[batch.clusters_PN == old] = new

    def results(clusters_PN, degenerate_cluster):
        options = {"mask_PN": batch.mask_PN, "degenerate_cluster": degenerate_cluster}
        for objective in ("polychromic", "coverage"):
            sized = {**options, "set_size": SET_SIZE, "objective": objective}
            yield marginal_set_advantage(batch.rewards_PN, clusters_PN, **sized)
            yield advantage_from_sets(batch.rewards_PN, clusters_PN, batch.sets_PKn, objective=objective, **options)
        yield from polychromic_decomposition(batch.rewards_PN, clusters_PN, set_size=SET_SIZE, **options)
        yield set_diversity(clusters_PN, set_size=SET_SIZE, **options)
        yield grpo_div(batch.rewards_PN, clusters_PN, 0.5, **options)
        yield equality_kernel(clusters_PN, batch.mask_PN)

    pairs = zip(results(renamed_PN, names[3]), results(batch.clusters_PN, DEGENERATE), strict=True)
    for renamed, plain in pairs:
        torch.testing.assert_close(renamed, plain, rtol=0, atol=1e-13)


@quick
@given(st.integers(0, 9999), st.sampled_from([torch.int8, torch.int16, torch.int32, torch.uint8, torch.bool]))
def test_any_integer_type_will_do_for_cluster_ids(seed, dtype):
    batch = Batch(seed)
    clusters_PN = batch.clusters_PN.clamp(max=1) if dtype == torch.bool else batch.clusters_PN
    for function in (
        lambda c: marginal_set_advantage(
            batch.rewards_PN, c, set_size=2, mask_PN=batch.mask_PN, degenerate_cluster=DEGENERATE
        ),
        lambda c: equality_kernel(c, batch.mask_PN),
    ):
        assert torch.equal(function(clusters_PN.to(dtype)), function(clusters_PN))


@quick
@given(st.sampled_from(objective_names()), st.integers(0, 9999), st.integers(1, 3), st.booleans(), st.booleans())
def test_advantages_over_all_sets_sum_to_zero_per_prompt(objective, seed, set_size, zero, by_sum):
    """Every set counts n times, once for each of its rollouts."""
    batch = Batch(seed)
    advantage_PN = marginal_set_advantage(
        batch.rewards_PN,
        batch.clusters_PN,
        set_size=set_size,
        objective=objective,
        mask_PN=batch.mask_PN,
        degenerate_cluster=DEGENERATE,
        zero_single_cluster=zero,
        reduction="sum" if by_sum else "mean",
        kernel_PNN=batch.kernel_PNN,
    )
    assert (advantage_PN.sum(1).abs() < 1e-12).all()


@quick
@given(st.integers(0, 9999), st.sampled_from(["polychromic", "smooth_polychromic", "vendi", "pass_at_n", "mean"]))
def test_sets_of_one_give_reward_less_mean_in_ragged_groups(seed, objective):
    """A lone rollout is one of one cluster; with nobody degenerate, f is its reward under each of these."""
    batch = Batch(seed)
    advantage_PN = marginal_set_advantage(
        batch.rewards_PN,
        batch.clusters_PN,
        set_size=1,
        objective=objective,
        mask_PN=batch.mask_PN,
        zero_single_cluster=False,
        kernel_PNN=batch.kernel_PNN,
    )
    for p in range(2):
        rewards_N = batch.rewards_PN[p][batch.mask_PN[p]]
        torch.testing.assert_close(advantage_PN[p][batch.mask_PN[p]], rewards_N - rewards_N.mean(), rtol=0, atol=1e-15)


@quick
@given(st.lists(st.one_of(st.integers(-2, 9), st.sampled_from([LOWEST, HIGHEST])), min_size=1, max_size=8), st.data())
def test_labels_that_an_objective_sees_lie_below_n_and_tell_the_clusters_apart(ids, data):
    """Ids as small as 0..N-1 or not, the largest allowed and the first beyond it among them."""
    degenerate = data.draw(st.sampled_from(ids))
    ids = [len(ids) if c == 9 else c for c in ids]
    seen = []

    def look(rewards_n, clusters_n):
        seen.append(clusters_n)
        return rewards_n.sum(-1)

    clusters_PN = torch.tensor([ids])
    options = {"set_size": len(ids), "objective": look, "degenerate_cluster": degenerate}
    marginal_set_advantage(torch.ones(clusters_PN.shape), clusters_PN, **options)
    labels = seen[0].flatten().tolist()
    assert all((label == -1) == (c == degenerate) for label, c in zip(labels, ids, strict=True))
    assert max(labels) < len(ids)
    assert len(set(zip(labels, ids, strict=True))) == len(set(labels)) == len(set(ids))
