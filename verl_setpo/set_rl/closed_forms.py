"""Objectives averaged over all sets that contain a rollout, without listing the sets (Poly-EPO, arXiv 2604.17654).

Each function takes rewards_PN (float64, 0 at masked places), labels_PN (cluster labels below N, -1 for degenerate and
masked) or None, mask_PN and the set size n. It returns value_PN, whose entry i is the mean of f(G) over all
C(N-1, n-1) sets G of size n with i in G. Every prompt has its own N. The mean of value_PN over a prompt's rollouts is
the mean of f over all its sets, since each set is counted n times.

The sets with i are draws of n-1 of the other N-1 rollouts, so a value needs only two kinds of probability:

    miss_1(m) = C(N-1-m, n-1) / C(N-1, n-1)   a set with i misses m given others
    miss_2(m) = C(N-2-m, n-2) / C(N-1, n-1)   a set with i has j, and misses m given others

The binomials themselves would overflow; miss_1 comes from a recurrence of factors in [0, 1], and miss_2 from it.
"""

import torch
from torch import Tensor

from verl_setpo.set_rl.clusters import Slots

CORRECT_ABOVE = 0.5
"""The reward above which `coverage` takes a rollout for correct."""


class _Draws:
    """The probabilities of the sets that contain a given rollout, for each prompt."""

    def __init__(self, mask_PN: Tensor, set_size: int) -> None:
        self.others_P1 = mask_PN.sum(1, keepdim=True, dtype=torch.float64) - 1
        self.mates = set_size - 1
        # Chance that a set with i has j too.
        self.mate_P1 = self.mates / self.others_P1.clamp(min=1)
        item_N = torch.arange(mask_PN.shape[1], dtype=torch.float64, device=mask_PN.device)
        # C(N-1 - m-1, n-1) / C(N-1 - m, n-1) = (N-1 - m - (n-1)) / (N-1 - m)
        left_PN = self.others_P1 - item_N
        factor_PN = (left_PN - self.mates).clamp(min=0) / left_PN.clamp(min=1)
        self._miss_PM = torch.cat([torch.ones_like(self.others_P1), factor_PN.cumprod(1)], 1)

    def miss(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """miss_1 and miss_2 for numbers of items, at least 0."""
        miss_1 = self._miss_PM.gather(1, items.long())
        return miss_1, miss_1 * self.mates / (self.others_P1 - items).clamp(min=1)


def mean_over_all_sets(rewards_PN: Tensor, labels_PN: Tensor | None, mask_PN: Tensor, set_size: int) -> Tensor:
    """f = mean reward of the set."""
    mates_PN = rewards_PN.sum(1, keepdim=True) - rewards_PN
    return (rewards_PN + mates_PN * _Draws(mask_PN, set_size).mate_P1) / set_size


def pass_at_n_over_all_sets(rewards_PN: Tensor, labels_PN: Tensor | None, mask_PN: Tensor, set_size: int) -> Tensor:
    """f = largest reward of the set, for real rewards; O(N log N).

    With the rewards sorted upwards, the rollout at place k is the largest of a set if the others come from the k - 1
    below it. A rollout j above i is the largest of a set with i if the other n - 2 come from the j - 2 left below j.
    """
    draws = _Draws(mask_PN, set_size)
    sorted_PN, order_PN = rewards_PN.masked_fill(~mask_PN, torch.inf).sort(1)
    sorted_PN = torch.where(torch.isfinite(sorted_PN), sorted_PN, 0.0)
    place_N = torch.arange(1, mask_PN.shape[1] + 1, dtype=torch.float64, device=mask_PN.device)
    above_PN = (draws.others_P1 + 1 - place_N).clamp(min=0)  # masked places, where it is negative, have reward 0
    miss_1_PN, miss_2_PN = draws.miss(above_PN)
    as_mate_PN = sorted_PN * miss_2_PN
    higher_PN = as_mate_PN.flip(1).cumsum(1).flip(1) - as_mate_PN
    value_PN = sorted_PN * miss_1_PN + higher_PN
    return torch.empty_like(value_PN).scatter(1, order_PN, value_PN)


def coverage_over_all_sets(rewards_PN: Tensor, labels_PN: Tensor | None, mask_PN: Tensor, set_size: int) -> Tensor:
    """f = distinct clusters with a correct rollout / n; O(N). A set with i misses a cluster if it has none of its
    correct rollouts."""
    assert labels_PN is not None
    correct_PN = (labels_PN >= 0) & (rewards_PN > CORRECT_ABOVE)
    slots = Slots(torch.where(correct_PN, labels_PN, -1))
    hit_PS = 1 - _Draws(mask_PN, set_size).miss(slots.sum(correct_PN.to(torch.float64)))[0]
    # A correct i is in its cluster for certain; the last slot, of those that hit nothing, is empty.
    return (hit_PS.sum(1, keepdim=True) + slots.spread(slots.is_cluster_S - hit_PS)) / set_size


def polychromic_over_all_sets(
    rewards_PN: Tensor, labels_PN: Tensor | None, mask_PN: Tensor, set_size: int, zero_single_cluster: bool = True
) -> Tensor:
    """f = mean reward of the set x distinct clusters in it / n (Eq. 10, 11); O(N + C) after the labelling.

    n^2 f(G) is the sum over clusters c and rollouts j of r_j [j in G] [c meets G]. For a set with i, the pair (c, j) is
    - c = cluster(i):                certain for j = i, chance `mate` for the others
    - else, j = i:                   c is hit
    - else, j in c:                  j is in G, which then meets c
    - else:                          j is in G and c is hit
    so the value of i is `slope` x r_i + `constant`, both the same for all of a cluster, and for all degenerates.
    """
    assert labels_PN is not None
    draws, slots = _Draws(mask_PN, set_size), Slots(labels_PN)
    size_PS, reward_PS = slots.sum(mask_PN.to(torch.float64)), slots.sum(rewards_PN)
    miss_1_PS, miss_2_PS = draws.miss(size_PS)
    hit_PS = slots.is_cluster_S * (1 - miss_1_PS)
    hit_with_mate_PS = slots.is_cluster_S * (draws.mate_P1 - miss_2_PS)

    # Sums over the clusters, less the rollout's own.
    terms_3PS = torch.stack([hit_PS - hit_with_mate_PS, hit_with_mate_PS, reward_PS * hit_with_mate_PS])
    slope_PS, hit_by_mate_PS, hit_by_own_PS = terms_3PS.sum(2, keepdim=True) - terms_3PS
    reward_P1, spare_reward_P1 = reward_PS.sum(1, keepdim=True), reward_PS[:, -1:]
    # Its own cluster, which a degenerate does not have, and in all others the rewards of those who are in them.
    slope_PS = slope_PS + slots.is_cluster_S * (1 - draws.mate_P1)
    certain_PS = reward_P1 - spare_reward_P1 + slots.is_cluster_S * (reward_P1 - reward_PS)
    constant_PS = certain_PS * draws.mate_P1 + reward_P1 * hit_by_mate_PS - hit_by_own_PS
    if zero_single_cluster:
        single_slope_PS, single_constant_PS = _single_cluster_sets(draws, slots, size_PS, reward_PS)
        slope_PS, constant_PS = slope_PS - single_slope_PS, constant_PS - single_constant_PS
    return (rewards_PN * slots.spread(slope_PS) + slots.spread(constant_PS)) / set_size**2


def _single_cluster_sets(draws: _Draws, slots: Slots, size_PS: Tensor, reward_PS: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and constant of the mean over the sets with i of n^2 f(G) [G has one cluster]: what `zero_single_cluster`
    takes away.

    G has the one cluster c if it stays within c and the degenerates, but not within the degenerates alone. A set that
    stays within s rollouts misses the other N - s; with i among the s it is worth
    r_i stay_1 + (rewards of the other s - 1) stay_2.
    """
    reach_PS = size_PS + slots.is_cluster_S * size_PS[:, -1:]
    reach_reward_PS = reward_PS + slots.is_cluster_S * reward_PS[:, -1:]
    stay_1_PS, stay_2_PS = draws.miss((draws.others_P1 + 1 - reach_PS).clamp(min=0))
    slope_PS, constant_PS = stay_1_PS - stay_2_PS, reach_reward_PS * stay_2_PS
    # A degenerate, in the last slot, fits with every cluster. Where a slot is empty it adds what it takes away.
    for values_PS in (slope_PS, constant_PS):
        values_PS[:, -1:] = (values_PS - values_PS[:, -1:]).sum(1, keepdim=True)
    return slope_PS, constant_PS
