"""A batch without prompts, without columns, or with prompts that are masked as a whole is no reason to fail."""

import pytest
import torch

from verl_setpo.set_rl import (
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

SHAPES = [(0, 0), (0, 3), (2, 0), (2, 3)]


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


def nothing(shape):
    """Rewards, clusters and a mask without a single rollout."""
    return torch.full(shape, torch.nan), torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)


@pytest.mark.parametrize("num_sets", [None, 2])
@pytest.mark.parametrize("objective", objective_names())
def test_marginal_set_advantage_of_nothing_is_zero(shape, objective, num_sets):
    rewards_PN, clusters_PN, mask_PN = nothing(shape)
    kernel_PNN = torch.full((*shape, shape[1]), torch.nan)
    options = {"objective": objective, "num_sets": num_sets, "mask_PN": mask_PN, "kernel_PNN": kernel_PNN}
    advantage_PN = marginal_set_advantage(rewards_PN, clusters_PN, set_size=2, **options)
    assert advantage_PN.tolist() == torch.zeros(shape).tolist()


def test_drawn_sets_of_nothing_leave_nobody_out(shape):
    rewards_PN, _, mask_PN = nothing(shape)
    sets_PKn = sample_sets(mask_PN, 2, 3)
    assert sets_PKn.shape == (shape[0], 3, 2)
    assert count_left_out(sets_PKn, mask_PN).tolist() == [0] * shape[0]
    advantage_PN = advantage_from_sets(rewards_PN, None, sets_PKn, objective="mean", mask_PN=mask_PN)
    assert advantage_PN.tolist() == torch.zeros(shape).tolist()


def test_kernels_and_credits_of_nothing_are_zero(shape):
    rewards_PN, clusters_PN, mask_PN = nothing(shape)
    kernel_PNN = cosine_kernel(torch.full((*shape, 4), torch.nan), mask_PN)
    assert torch.equal(kernel_PNN, torch.zeros(*shape, shape[1]))
    assert torch.equal(equality_kernel(clusters_PN, mask_PN), kernel_PNN)
    assert torch.equal(set_loo(kernel_PNN, mask_PN), torch.zeros(shape))
    assert torch.equal(grpo_div(rewards_PN, clusters_PN, 1.0, mask_PN), torch.zeros(shape))


def test_diagnostics_of_nothing_are_zero(shape):
    rewards_PN, clusters_PN, mask_PN = nothing(shape)
    for part_PN in polychromic_decomposition(rewards_PN, clusters_PN, set_size=2, mask_PN=mask_PN):
        assert torch.equal(part_PN, torch.zeros(shape))
    assert torch.equal(set_diversity(clusters_PN, set_size=2, mask_PN=mask_PN), torch.zeros(shape[0]))


@pytest.mark.parametrize("shaping", ["neg_log1p", "exp"])
@pytest.mark.parametrize("check", [True, False])
def test_diversity_and_terms_of_nothing_are_zero(shape, shaping, check):
    _, _, mask_PN = nothing(shape)
    kernel_PNN = rbf_kernel(torch.full((*shape, 4), torch.nan), mask_PN, bandwidth=1.0)
    assert torch.equal(kernel_PNN, torch.zeros(*shape, shape[1]))
    kernel_PNN = torch.full_like(kernel_PNN, torch.nan).requires_grad_()
    options = {"shaping": shaping, "check": check}
    diversity_P = group_diversity(kernel_PNN, mask_PN, **options)
    assert torch.equal(diversity_P, torch.zeros(shape[0]))
    for term_PN in (*set_loo_decomposition(kernel_PNN, mask_PN, **options), set_loo(kernel_PNN, mask_PN, **options)):
        assert torch.equal(term_PN, torch.zeros(shape))
        (gradient_PNN,) = torch.autograd.grad(term_PN.sum(), kernel_PNN, retain_graph=True)
        assert torch.equal(gradient_PNN, torch.zeros_like(kernel_PNN))
