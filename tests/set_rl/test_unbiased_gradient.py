"""Prop. 3.1 of Poly-EPO by full enumeration: the expected estimator is the gradient of E[f] times (N - n)/n.

Every outcome of N draws from a softmax policy over a few actions is listed with its probability, so nothing is left to
chance. `test_marginal_properties.py` has the simplest case; here the settings that could break it.
"""

import itertools

import pytest
import torch

from verl_setpo.set_rl import marginal_set_advantage, objectives

REWARD_A = torch.tensor([1.0, 0.75, -0.5, 0.25], dtype=torch.float64)
CLUSTER_A = torch.tensor([0, 1, 2, 100])  # the last action is degenerate
SIMILARITY_AA = torch.tensor(
    [[1.0, 0.5, 0.2, 0.0], [0.5, 1.0, 0.1, 0.3], [0.2, 0.1, 1.0, 0.0], [0.0, 0.3, 0.0, 1.0]], dtype=torch.float64
)
LOGITS_A = torch.tensor([0.7, -0.3, 0.1, -0.6], dtype=torch.float64)


def paying_singles(rewards_n, clusters_n):
    return objectives.polychromic(rewards_n, clusters_n, zero_single_cluster=False)


def spread(rewards_n, clusters_n):
    return rewards_n.amax(-1) - rewards_n.amin(-1)


VALUE_OF_A_SET = {
    "polychromic": objectives.polychromic,
    "polychromic, singles paid": paying_singles,
    "pass_at_n": objectives.pass_at_n,
    "mean": objectives.mean,
    "coverage": objectives.coverage,
    "smooth_polychromic": objectives.smooth_polychromic,
    "vendi": objectives.vendi,
    "a user's": spread,
}


def outcomes(draws: int, actions: int = 4) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(actions), repeat=draws)))


def true_gradient(name: str, set_size: int) -> torch.Tensor:
    """Of the sum over all outcomes of n draws of probability x f."""
    logits_A = LOGITS_A.clone().requires_grad_()
    sets_Xn = outcomes(set_size)
    labels_Xn = torch.where(CLUSTER_A == 100, -1, CLUSTER_A)[sets_Xn]
    arguments = [REWARD_A[sets_Xn], labels_Xn]
    if name == "vendi":
        arguments.append(SIMILARITY_AA[sets_Xn[:, :, None], sets_Xn[:, None, :]])
    probability_X = torch.log_softmax(logits_A, 0)[sets_Xn].sum(1).exp()
    return torch.autograd.grad((probability_X * VALUE_OF_A_SET[name](*arguments)).sum(), logits_A)[0]


def expected_estimator(name: str, count: int, masked: int = 0, **options) -> torch.Tensor:
    """The sum over all outcomes of N draws of probability x sum_i advantage_i grad log policy_i."""
    logits_A = LOGITS_A.clone().requires_grad_()
    rollouts_PN = outcomes(count)
    mask_PN = torch.ones_like(rollouts_PN, dtype=torch.bool)
    if masked:  # places before the rollouts, with a wrong action in them
        padding_PN = torch.zeros(len(rollouts_PN), masked, dtype=torch.int64)
        rollouts_PN = torch.cat([padding_PN, rollouts_PN], 1)
        mask_PN = torch.cat([padding_PN.bool(), mask_PN], 1)
    objective = name.removesuffix(", singles paid")
    advantage_PN = marginal_set_advantage(
        REWARD_A[rollouts_PN],
        CLUSTER_A[rollouts_PN],
        objective=spread if name == "a user's" else objective,
        zero_single_cluster=not name.endswith("paid"),
        degenerate_cluster=100,
        mask_PN=mask_PN,
        kernel_PNN=SIMILARITY_AA[rollouts_PN[:, :, None], rollouts_PN[:, None, :]] if name == "vendi" else None,
        **options,
    )
    log_policy_PN = torch.log_softmax(logits_A, 0)[rollouts_PN]
    probability_P = (log_policy_PN * mask_PN).sum(1).exp().detach()
    estimator = (probability_P * (advantage_PN * log_policy_PN).sum(1)).sum()
    return torch.autograd.grad(estimator, logits_A)[0]


@pytest.mark.parametrize(("count", "set_size"), [(3, 1), (3, 2), (4, 2), (4, 3), (5, 3)])
@pytest.mark.parametrize("name", VALUE_OF_A_SET)
def test_expected_estimator_is_the_gradient_times_n_less_n_over_n(name, count, set_size):
    true_A = true_gradient(name, set_size)
    expected_A = expected_estimator(name, count, set_size=set_size)
    torch.testing.assert_close(expected_A, true_A * (count - set_size) / set_size, rtol=0, atol=1e-12)
    flat = (name == "polychromic" or name == "a user's") and set_size == 1  # such a set is worth 0 at n = 1
    assert (true_A.norm() > 0.01) != flat


@pytest.mark.parametrize("name", ["polychromic", "polychromic, singles paid", "pass_at_n", "coverage"])
def test_masked_places_do_not_bias_the_gradient(name):
    expected_A = expected_estimator(name, 4, masked=2, set_size=2)
    torch.testing.assert_close(expected_A, true_gradient(name, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["polychromic", "pass_at_n"])
def test_sum_over_sets_is_the_same_gradient_times_their_number(name):
    """C(3, 1) sets with a rollout at N = 4, n = 2."""
    expected_A = expected_estimator(name, 4, set_size=2, reduction="sum")
    torch.testing.assert_close(expected_A, 3 * true_gradient(name, 2), rtol=0, atol=1e-12)
