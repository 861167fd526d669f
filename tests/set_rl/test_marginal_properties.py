"""What the marginal set advantage must satisfy whatever the rewards and clusters are."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import DEGENERATE, RaggedBatch, quick

from verl_setpo.set_rl import get_objective, marginal_set_advantage

OBJECTIVES = ["polychromic", "pass_at_n", "mean", "coverage"]


@st.composite
def groups(draw, min_rollouts=1):
    """Rewards, clusters, a set size and the remaining settings of one prompt."""
    count = draw(st.integers(min_rollouts, 8))
    reward = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-2, 2))
    rewards = draw(st.lists(reward, min_size=count, max_size=count))
    clusters = draw(st.lists(st.sampled_from([0, 1, 2, 3, -7, DEGENERATE]), min_size=count, max_size=count))
    settings = {
        "set_size": draw(st.integers(1, count)),
        "objective": draw(st.sampled_from(OBJECTIVES)),
        "zero_single_cluster": draw(st.booleans()),
        "reduction": draw(st.sampled_from(["mean", "sum"])),
        "degenerate_cluster": DEGENERATE,
    }
    return torch.tensor([rewards], dtype=torch.float64), torch.tensor([clusters]), settings


def same(left, right):
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


@quick
@given(groups())
def test_advantages_over_all_sets_sum_to_zero(group):
    rewards_PN, clusters_PN, settings = group
    total = marginal_set_advantage(rewards_PN, clusters_PN, **settings).sum().item()
    assert abs(total) < 1e-10


@quick
@given(groups(), st.randoms(use_true_random=False))
def test_permuting_rollouts_permutes_advantages(group, rng):
    rewards_PN, clusters_PN, settings = group
    order = list(range(rewards_PN.shape[1]))
    rng.shuffle(order)
    plain_PN = marginal_set_advantage(rewards_PN, clusters_PN, **settings)
    same(marginal_set_advantage(rewards_PN[:, order], clusters_PN[:, order], **settings), plain_PN[:, order])


@quick
@given(groups(), st.permutations([-(2**63), 2**63 - 1, -1, 12]))
def test_cluster_numbers_mean_nothing(group, names):
    rewards_PN, clusters_PN, settings = group
    renamed_PN = clusters_PN.clone()
    for old, new in zip([0, 1, 2, 3], names, strict=True):
        renamed_PN[clusters_PN == old] = new
    plain_PN = marginal_set_advantage(rewards_PN, clusters_PN, **settings)
    same(marginal_set_advantage(rewards_PN, renamed_PN, **settings), plain_PN)


@quick
@given(groups(), st.lists(st.tuples(st.integers(0, 8), st.integers(-9, 200)), min_size=1, max_size=4))
def test_masked_places_change_nothing(group, padding):
    rewards_PN, clusters_PN, settings = group
    plain_PN = marginal_set_advantage(rewards_PN, clusters_PN, **settings)
    rewards, clusters, columns = rewards_PN[0].tolist(), clusters_PN[0].tolist(), list(range(rewards_PN.shape[1]))
    for place, junk in padding:
        place = min(place, len(columns))
        rewards.insert(place, [math.nan, math.inf, 1e300][junk % 3])
        clusters.insert(place, junk)
        columns.insert(place, -1)
    mask_PN = torch.tensor([[column >= 0 for column in columns]])
    padded_PN = marginal_set_advantage(
        torch.tensor([rewards], dtype=torch.float64), torch.tensor([clusters]), mask_PN=mask_PN, **settings
    )
    same(padded_PN[mask_PN], plain_PN[0])
    assert (padded_PN[~mask_PN] == 0).all()


@quick
@given(groups(), st.floats(0.1, 10))
def test_advantage_scales_with_rewards(group, scale):
    rewards_PN, clusters_PN, settings = group
    if settings["objective"] == "coverage":
        return
    plain_PN = marginal_set_advantage(rewards_PN, clusters_PN, **settings)
    same(marginal_set_advantage(rewards_PN * scale, clusters_PN, **settings), plain_PN * scale)


@quick
@given(groups())
def test_one_set_only_gives_exact_zeros(group):
    rewards_PN, clusters_PN, settings = group
    settings["set_size"] = rewards_PN.shape[1]
    assert (marginal_set_advantage(rewards_PN, clusters_PN, **settings).abs() < 1e-15).all()


@quick
@given(groups())
def test_closed_form_equals_listed_sets(group):
    rewards_PN, clusters_PN, settings = group
    known = get_objective(settings["objective"])
    if known.name == "polychromic" and not settings["zero_single_cluster"]:
        return

    def without_closed_form(rewards_n, clusters_n):
        return known.function(rewards_n, clusters_n)

    closed_PN = marginal_set_advantage(rewards_PN, clusters_PN, **settings)
    settings["objective"] = without_closed_form
    same(marginal_set_advantage(rewards_PN, clusters_PN, **settings), closed_PN)


@quick
@given(groups(min_rollouts=2))
def test_better_reward_never_lowers_own_advantage(group):
    rewards_PN, clusters_PN, settings = group
    raised_PN = rewards_PN.clone()
    raised_PN[0, 0] += 1
    before_PN = marginal_set_advantage(rewards_PN, clusters_PN, **settings)
    after_PN = marginal_set_advantage(raised_PN, clusters_PN, **settings)
    assert after_PN[0, 0] >= before_PN[0, 0] - 1e-10


def test_sets_of_one_give_reward_less_mean():
    """GRPO without the standard deviation; a degenerate rollout has no cluster and so no value of its own."""
    rewards_PN, clusters_PN = torch.tensor([[1.0, 0.0, 0.5, 1.0]]), torch.tensor([[0, 0, 1, -1]])
    of_mean_PN = marginal_set_advantage(rewards_PN, set_size=1, objective="mean")
    torch.testing.assert_close(of_mean_PN, rewards_PN - rewards_PN.mean())
    worth_PN = torch.tensor([[1.0, 0.0, 0.5, 0.0]])
    of_clusters_PN = marginal_set_advantage(rewards_PN, clusters_PN, set_size=1, zero_single_cluster=False)
    torch.testing.assert_close(of_clusters_PN, worth_PN - worth_PN.mean())
    assert (marginal_set_advantage(rewards_PN, clusters_PN, set_size=1) == 0).all()


def test_one_cluster_still_gives_a_signal_unless_zeroed():
    """f = mean(r)/n varies with the rewards; a kernel that drops such prompts is wrong."""
    rewards_PN, clusters_PN = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.zeros(1, 4, dtype=torch.long)
    assert (marginal_set_advantage(rewards_PN, clusters_PN, set_size=2, zero_single_cluster=True) == 0).all()
    paid_PN = marginal_set_advantage(rewards_PN, clusters_PN, set_size=2, zero_single_cluster=False)
    assert (paid_PN[0, :2] > 0).all()
    assert (paid_PN[0, 2:] < 0).all()


def test_prompts_do_not_touch_each_other():
    batch = RaggedBatch([5, 3, 0, 7], width=7, seed=3)
    settings = {"set_size": 3, "degenerate_cluster": DEGENERATE}
    together_PN = marginal_set_advantage(batch.rewards_PN, batch.clusters_PN, mask_PN=batch.mask_PN, **settings)
    for p in range(4):
        alone_PN = marginal_set_advantage(
            batch.rewards_PN[p : p + 1], batch.clusters_PN[p : p + 1], mask_PN=batch.mask_PN[p : p + 1], **settings
        )
        same(together_PN[p : p + 1], alone_PN)


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.int64, torch.float32),
        (torch.bool, torch.float32),
    ],
)
def test_dtype_of_the_advantage_follows_the_rewards(given_dtype, expected):
    rewards_PN = torch.tensor([[1, 0, 1, 0]]).to(given_dtype)
    clusters_PN = torch.tensor([[0, 1, 1, 2]])
    for options in [{}, {"num_sets": 3}, {"objective": "coverage"}]:
        advantage_PN = marginal_set_advantage(rewards_PN, clusters_PN, set_size=2, **options)
        assert advantage_PN.dtype == expected


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_is_unbiased(objective):
    """Prop. 3.1: over all outcomes of N draws of a softmax policy, the expected estimator is the gradient of E[f]."""
    count, set_size = 4, 2
    reward_A = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    cluster_A = torch.tensor([0, 1, 2])
    logits_A = torch.tensor([0.7, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    log_policy_A = torch.log_softmax(logits_A, 0)

    def outcomes(draws):
        return torch.tensor(list(itertools.product(range(3), repeat=draws)))

    sets_Xn = outcomes(set_size)
    value_X = get_objective(objective).function(reward_A[sets_Xn], cluster_A[sets_Xn])
    expected_value = (log_policy_A[sets_Xn].sum(1).exp() * value_X).sum()
    (true_A,) = torch.autograd.grad(expected_value, logits_A, retain_graph=True)
    assert true_A.norm() > 0.01

    rollouts_PN = outcomes(count)
    log_policy_PN = log_policy_A[rollouts_PN]
    advantage_PN = marginal_set_advantage(
        reward_A[rollouts_PN], cluster_A[rollouts_PN], set_size=set_size, objective=objective
    )
    estimator = (log_policy_PN.sum(1).exp().detach() * (advantage_PN * log_policy_PN).sum(1)).sum()
    (estimated_A,) = torch.autograd.grad(estimator, logits_A)
    torch.testing.assert_close(estimated_A, true_A * (count - set_size) / set_size)
