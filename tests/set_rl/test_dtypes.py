"""Rewards of any dtype give the advantages of their values; those without a signal are exactly 0 in each."""

import pytest
import torch

from verl_setpo.set_rl import (
    advantage_from_sets,
    equality_kernel,
    grpo_div,
    marginal_set_advantage,
    objective_names,
    polychromic_decomposition,
)

CLUSTERS_PN = torch.tensor([[0, 0, 1, 2, 2], [3, 3, 3, -1, 0]])
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool]
FUNCTIONS = {
    **{
        name: lambda r, name=name: marginal_set_advantage(
            r, CLUSTERS_PN, set_size=3, objective=name, kernel_PNN=equality_kernel(CLUSTERS_PN)
        )
        for name in objective_names()
    },
    "sum": lambda r: marginal_set_advantage(r, CLUSTERS_PN, set_size=2, reduction="sum"),
    "drawn": lambda r: marginal_set_advantage(
        r, CLUSTERS_PN, set_size=2, num_sets=4, generator=torch.Generator().manual_seed(0)
    ),
    "from sets": lambda r: advantage_from_sets(r, CLUSTERS_PN, torch.tensor([[[0, 2], [1, 3], [2, 4]]] * 2)),
    "product": lambda r: polychromic_decomposition(r, CLUSTERS_PN, set_size=2)[0],
    "covariance": lambda r: polychromic_decomposition(r, CLUSTERS_PN, set_size=2)[1],
    "grpo_div": lambda r: grpo_div(r, CLUSTERS_PN, 0.5),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_dtype_gives_the_advantages_of_its_values(name, dtype):
    rewards_PN = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 1, 0]])
    exact_PN = FUNCTIONS[name](rewards_PN.double())
    got_PN = FUNCTIONS[name](rewards_PN.to(dtype))
    assert got_PN.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(got_PN, exact_PN.to(got_PN.dtype))  # the work in between is in float64 whatever came in
    assert got_PN.any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_rewards_lose_only_what_float32_cannot_hold(name):
    rewards_PN = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        FUNCTIONS[name](rewards_PN), FUNCTIONS[name](rewards_PN.double()).float(), rtol=0, atol=0
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("far", [1, 2**55])
@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"num_sets": 70}], ids=str)
def test_the_table_in_which_nothing_is_worth_anything_is_exactly_zero(dtype, far, options):
    """Five correct rollouts of one cluster, three wrong ones of their own, n = 4, singles paid."""
    rewards_PN = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]]).to(dtype)
    clusters_PN = torch.tensor([[0, 0, 0, 0, 0, 1, 2, 3]]) * far
    advantage_PN = marginal_set_advantage(rewards_PN, clusters_PN, set_size=4, zero_single_cluster=False, **options)
    assert (advantage_PN == 0).all()
    neighbour_PN = marginal_set_advantage(rewards_PN, clusters_PN, set_size=5, zero_single_cluster=False)
    assert (neighbour_PN != 0).all()
