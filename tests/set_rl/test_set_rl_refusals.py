"""Every refusal names the argument and the cure, in one sentence."""

import math

import pytest
import torch

from verl_setpo.set_rl import (
    advantage_from_sets,
    cosine_kernel,
    equality_kernel,
    grpo_div,
    marginal_set_advantage,
    polychromic_decomposition,
    sample_sets,
    set_diversity,
    set_loo,
)

REWARDS_PN = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
CLUSTERS_PN = torch.tensor([[0, 1, 1, 2]])
EYE_PNN = torch.eye(4)[None]


def changed(tensor, place, value):
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


def pair(value):
    return changed(changed(EYE_PNN, (0, 1, 2), value), (0, 2, 1), value)


@pytest.mark.parametrize(
    ("kernel_PNN", "options", "message"),
    [
        (torch.eye(4), {}, r"kernel_PNN must be floats of shape .* got torch.float32 \(4, 4\): .* give kernel\[None\]"),
        (torch.zeros(1, 3, 4), {}, r"kernel_PNN must be floats of shape .*\(1, 3, 4\)"),
        (EYE_PNN.long(), {}, "kernel_PNN must be floats of shape .* got torch.int64"),
        (pair(math.nan), {}, "kernel_PNN holds NaN or infinity at an unmasked place: check the embeddings"),
        (pair(math.inf), {}, "kernel_PNN holds NaN or infinity"),
        (pair(1.001), {}, r"kernel_PNN has values from 0 to 1.001, outside \[0, 1\]: clamp the similarities"),
        (pair(-0.001), {}, r"kernel_PNN has values from -0.001 to 1, outside \[0, 1\]: clamp the similarities"),
        (changed(EYE_PNN, (0, 1, 2), 0.5), {}, r"kernel_PNN is not symmetric: give \(kernel \+ kernel.mT\) / 2"),
        (changed(EYE_PNN, (0, 1, 1), 0.9), {}, "kernel_PNN is not 1 on its diagonal: normalise the embeddings"),
        (EYE_PNN, {"shaping": "log"}, "'log' is not known: use one of neg_log1p, linear, neg_square, exp, or give a"),
        (EYE_PNN, {"shaping": None}, "shaping None is not known"),
        (EYE_PNN, {"shaping": torch.sum}, r"shaping returned shape \(\) for masses of shape \(1, 4\): give a function"),
        (EYE_PNN, {"mask_PN": torch.ones(1, 3)}, r"mask_PN has shape \(1, 3\) but kernel_PNN has \(1, 4\)"),
        (EYE_PNN, {"mask_PN": torch.full((1, 4), 0.5)}, "mask_PN holds something other than 0 and 1: give true where"),
    ],
)
def test_set_loo_refuses(kernel_PNN, options, message):
    with pytest.raises(ValueError, match=message):
        set_loo(kernel_PNN, **options)


def not_finite(rewards_n, clusters_n):
    return rewards_n.sum(-1) / 0


def not_reduced(rewards_n, clusters_n):
    return rewards_n


def not_a_tensor(rewards_n, clusters_n):
    return 1.0


MISSING_ROLLOUTS = torch.tensor([[True, True, False, False]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set_size": 0}, "set_size must be a whole number of at least 1, got 0: set set_size to 1 or more"),
        ({"set_size": 2.5}, "set_size must be a whole number of at least 1, got 2.5"),
        ({"set_size": None}, "set_size must be a whole number of at least 1, got None"),
        ({"set_size": 5}, "set_size is 5 but a prompt has only 4 rollouts: lower set_size, sample more rollouts, or"),
        ({"set_size": 3, "mask_PN": MISSING_ROLLOUTS}, "set_size is 3 but a prompt has only 2 rollouts"),
        ({"num_sets": 0}, "num_sets must be a whole number of at least 1, got 0: set num_sets to 1 or more"),
        ({"objective": "vendi"}, "kernel_PNN is missing and objective 'vendi' needs it: give the similarities"),
        ({"reduction": "max"}, "reduction 'max' is not known: use mean or sum"),
        ({"clusters_PN": None}, "clusters_PN is missing and objective 'polychromic' needs it: give a cluster id per"),
        ({"clusters_PN": None, "objective": "coverage"}, "clusters_PN is missing and objective 'coverage' needs it"),
        ({"clusters_PN": CLUSTERS_PN[0]}, r"clusters_PN has shape \(4,\) but there are \(1, 4\) prompts and rollouts"),
        ({"clusters_PN": CLUSTERS_PN.float()}, r"clusters_PN must hold integer ids, got torch.float32: .*\.long\(\)"),
        ({"rewards_PN": REWARDS_PN[0]}, r"rewards_PN must have shape \(prompts, rollouts\), got \(4,\): give one row"),
        ({"rewards_PN": changed(REWARDS_PN, (0, 1), math.nan)}, "rewards_PN holds NaN or infinity at an unmasked"),
        ({"rewards_PN": changed(REWARDS_PN, (0, 1), math.inf)}, "mend the reward function, or mask those rollouts"),
        ({"rewards_PN": REWARDS_PN * 1j}, "rewards_PN must be real numbers, got torch.complex64: convert them"),
        ({"mask_PN": torch.ones(2, 4)}, r"mask_PN has shape \(2, 4\) but rewards_PN has \(1, 4\) prompts and rollouts"),
        ({"objective": not_finite}, "objective 'not_finite' returned NaN or infinity: mend it, or check the rewards"),
        ({"objective": not_reduced}, r"'not_reduced' returned \(1, 6, 2\) where a tensor of shape \(1, 6\) was due"),
        ({"objective": not_a_tensor}, r"'not_a_tensor' returned float where a tensor of shape \(1, 6\) was due"),
    ],
)
def test_marginal_set_advantage_refuses(options, message):
    arguments = {"rewards_PN": REWARDS_PN, "clusters_PN": CLUSTERS_PN, "set_size": 2} | options
    with pytest.raises(ValueError, match=message):
        marginal_set_advantage(**arguments)


def test_too_many_sets_to_list_ask_for_num_sets():
    rewards_PN = torch.zeros(1, 24)

    def spread(rewards_n, clusters_n):
        return rewards_n.amax(-1) - rewards_n.amin(-1)

    with pytest.raises(ValueError, match=r"'spread' has no closed form .* 735471 sets of size 8, .*: set num_sets"):
        marginal_set_advantage(rewards_PN, set_size=8, objective=spread)
    marginal_set_advantage(rewards_PN, set_size=8, objective=spread, num_sets=5)


@pytest.mark.parametrize("count", [256, 1200])
def test_sum_beyond_the_range_of_the_dtype_asks_for_the_mean(count):
    rewards_PN = torch.zeros(1, count)
    rewards_PN[0, 0] = 1
    options = {"set_size": count // 2, "objective": "mean", "reduction": "sum"}
    with pytest.raises(ValueError, match=r"reduction 'sum' leads beyond the range of torch.float32: use 'mean'"):
        marginal_set_advantage(rewards_PN, **options)
    assert (marginal_set_advantage(torch.zeros(1, count), **options) == 0).all()


@pytest.mark.parametrize(
    ("sets_PKn", "message"),
    [
        (torch.tensor([[0, 1]]), r"sets_PKn has shape \(1, 2\) for 1 prompts: give \(prompts, sets, set size\)"),
        (torch.zeros(1, 0, 2, dtype=torch.long), r"sets_PKn has shape \(1, 0, 2\)"),
        (torch.tensor([[[0, 0]]]), "sets_PKn has a set that names a rollout twice, .*: draw the sets with sample_sets"),
        (torch.tensor([[[0, 4]]]), "sets_PKn has a set"),
        (torch.tensor([[[-1, 1]]]), "sets_PKn has a set"),
        (torch.tensor([[[0, 3]]]), "sets_PKn has a set"),
    ],
)
def test_sets_that_are_none_are_refused(sets_PKn, message):
    mask_PN = torch.tensor([[True, True, True, False]])
    with pytest.raises(ValueError, match=message):
        advantage_from_sets(REWARDS_PN, CLUSTERS_PN, sets_PKn, mask_PN=mask_PN)


def test_sample_sets_refuses_a_flat_mask():
    with pytest.raises(ValueError, match=r"mask_PN must have shape \(prompts, rollouts\), got \(4,\)"):
        sample_sets(torch.ones(4, dtype=torch.bool), 2, 1)


@pytest.mark.parametrize(
    ("embeddings_PND", "message"),
    [
        (torch.zeros(3, 4), r"embeddings_PND must be floats of shape \(prompts, rollouts, dimension\), got .*\(3, 4\)"),
        (
            torch.zeros(1, 3, 0),
            r"embeddings_PND must be floats of shape .*\(1, 3, 0\): stack one embedding",
        ),
        (torch.zeros(1, 3, 4).long(), "embeddings_PND must be floats .* got torch.int64"),
        (torch.full((1, 3, 4), math.nan), "embeddings_PND holds NaN or infinity at an unmasked place: check the emb"),
        (torch.full((1, 3, 4), math.inf), "or mask the rollouts that have no embedding"),
    ],
)
def test_cosine_kernel_refuses(embeddings_PND, message):
    with pytest.raises(ValueError, match=message):
        cosine_kernel(embeddings_PND)


def test_equality_kernel_refuses():
    with pytest.raises(ValueError, match=r"clusters_PN must have shape \(prompts, rollouts\), got \(4,\)"):
        equality_kernel(CLUSTERS_PN[0])
    with pytest.raises(ValueError, match=r"clusters_PN must hold integer ids"):
        equality_kernel(CLUSTERS_PN.float())


def test_grpo_div_and_decomposition_refuse_as_the_advantage_does():
    for refused in [lambda r, c: grpo_div(r, c, 0.5), lambda r, c: polychromic_decomposition(r, c, set_size=2)]:
        with pytest.raises(ValueError, match=r"rewards_PN holds NaN or infinity"):
            refused(REWARDS_PN * math.nan, CLUSTERS_PN)
        with pytest.raises(ValueError, match=r"clusters_PN has shape"):
            refused(REWARDS_PN, CLUSTERS_PN[:, :3])


def test_set_diversity_refuses():
    with pytest.raises(ValueError, match="set_size is 5 but a prompt has only 4 rollouts"):
        set_diversity(CLUSTERS_PN, set_size=5)
    with pytest.raises(ValueError, match="clusters_PN must hold integer ids"):
        set_diversity(CLUSTERS_PN.float(), set_size=2)
    with pytest.raises(ValueError, match=r"clusters_PN must have shape \(prompts, rollouts\), got \(4,\)"):
        set_diversity(CLUSTERS_PN[0], set_size=2)
