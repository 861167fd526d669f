"""GRPO+DIV, the baseline of Poly-EPO (arXiv 2604.17654): GRPO without the std, plus a bonus for rare clusters."""

import math

import torch
from torch import Tensor

from verl_setpo.set_rl.checks import check_clusters, check_rewards, output_dtype
from verl_setpo.set_rl.clusters import Slots, label_clusters
from verl_setpo.set_rl.noise import subtract_mean


def grpo_div(
    rewards_PN: Tensor,
    clusters_PN: Tensor,
    coef: float,
    mask_PN: Tensor | None = None,
    degenerate_cluster: int = -1,
) -> Tensor:
    """Advantage r_i + coef b_i - mean(r + coef b), with the bonus b_i = (N/|cluster(i)| - 1)/(N - 1).

    The bonus is 1 for a rollout alone in its cluster, 0 when all share one cluster. A degenerate rollout gets bonus 0
    (the paper leaves it open: gibberish must not be paid for being rare) but counts in N and in the mean. Unlike the
    polychromic objective the bonus does not look at the reward: a wrong rollout is paid as a correct one.

    Args:
        rewards_PN: (P, N) real or integer.
        clusters_PN: (P, N) integer ids.
        coef: weight of the bonus, in units of reward, at least 0.
        mask_PN: (P, N), true where there is a rollout; None: everywhere.
        degenerate_cluster: the id of degenerate rollouts.

    Returns:
        advantage_PN: (P, N), float64 for float64 rewards, else float32. It sums to 0 over each prompt; a prompt with
        one rollout gets 0.

    Raises:
        ValueError: coef negative or not finite, wrong shapes, NaN or infinity in an unmasked reward.
    """
    if not (math.isfinite(coef) and coef >= 0):
        raise ValueError(f"coef must be a number of at least 0, got {coef}: use 0 for no bonus.")
    dtype = output_dtype(rewards_PN)
    rewards_PN, mask_PN = check_rewards(rewards_PN, mask_PN)
    clusters_PN = check_clusters(clusters_PN, rewards_PN.shape)
    labels_PN = label_clusters(clusters_PN, mask_PN, degenerate_cluster)
    count_P1 = mask_PN.sum(1, keepdim=True).to(torch.float64)
    slots = Slots(labels_PN)
    size_PN = slots.spread(slots.sum(torch.ones_like(rewards_PN)))
    bonus_PN = (count_P1 / size_PN.clamp(min=1) - 1) / (count_P1 - 1).clamp(min=1)
    paid_PN = rewards_PN + coef * torch.where(labels_PN >= 0, bonus_PN, 0.0)
    return subtract_mean(paid_PN, mask_PN).to(dtype)
