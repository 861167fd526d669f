"""Objectives averaged over all sets that contain a rollout, without listing the sets (Poly-EPO, arXiv 2604.17654).

Each function takes rewards_PN (float64, 0 at masked places), labels_PN (cluster labels below N, -1 for degenerate and
masked) or None, mask_PN and the set size n. It returns value_PN, whose entry i is the mean of f(G) over all
C(N-1, n-1) sets G of size n with i in G. Every prompt has its own N. The mean of value_PN over a prompt's rollouts is
the mean of f over all its sets, since each set is counted n times.

The sets with i are draws of n-1 of the other N-1 rollouts, so a value needs only two kinds of probability:

    miss_1(m) = C(N-1-m, n-1) / C(N-1, n-1)   a set with i misses m given others
    miss_2(m) = C(N-2-m, n-2) / C(N-2, n-2)   a set with i and j misses m given others

The binomials themselves would overflow; these ratios come from a recurrence of factors in [0, 1].
"""

import torch
from torch import Tensor

from verl_setpo.set_rl.clusters import Slots

CORRECT_ABOVE = 0.5
"""The reward above which `coverage` takes a rollout for correct."""


def miss_table(pool_P1: Tensor, draws: int, most: int) -> Tensor:
    """miss_PM: C(pool - m, draws) / C(pool, draws) for m = 0..most, the chance that the draws miss m given items."""
    item_M = torch.arange(most, dtype=torch.float64, device=pool_P1.device)
    # C(pool - m - 1, draws) / C(pool - m, draws) = (pool - m - draws) / (pool - m)
    factor_PM = (pool_P1 - item_M - draws).clamp(min=0) / (pool_P1 - item_M).clamp(min=1)
    return torch.cat([torch.ones_like(pool_P1), factor_PM.cumprod(1)], 1)


class _Draws:
    """The probabilities of the sets that contain a given rollout, for each prompt."""

    def __init__(self, mask_PN: Tensor, set_size: int) -> None:
        width = mask_PN.shape[1]
        self.count_P1 = mask_PN.sum(1, keepdim=True).to(torch.float64)
        # Chance that a set with i has j too. At n = 1 it is 0, whatever the tables hold for n - 2 = -1 draws.
        self.mate_P1 = (set_size - 1) / (self.count_P1 - 1).clamp(min=1)
        self._miss_1_PM = miss_table(self.count_P1 - 1, set_size - 1, width)
        self._miss_2_PM = miss_table(self.count_P1 - 2, set_size - 2, width)

    def miss_1(self, items: Tensor) -> Tensor:
        """Chance that a set with i misses the items."""
        return self._miss_1_PM.gather(1, items.long().clamp(min=0))

    def miss_2(self, items: Tensor) -> Tensor:
        """Chance that a set with i contains j and misses the items."""
        return self.mate_P1 * self._miss_2_PM.gather(1, items.long().clamp(min=0))


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
    above_PN = draws.count_P1 - place_N  # negative at masked places, which have reward 0
    as_mate_PN = sorted_PN * draws.miss_2(above_PN)
    higher_PN = as_mate_PN.flip(1).cumsum(1).flip(1) - as_mate_PN
    value_PN = sorted_PN * draws.miss_1(above_PN) + higher_PN
    return torch.empty_like(value_PN).scatter(1, order_PN, value_PN)


def coverage_over_all_sets(rewards_PN: Tensor, labels_PN: Tensor | None, mask_PN: Tensor, set_size: int) -> Tensor:
    """f = distinct clusters with a correct rollout / n; O(N). A set with i misses a cluster if it has none of its
    correct rollouts."""
    assert labels_PN is not None
    labels_PN = torch.where(rewards_PN > CORRECT_ABOVE, labels_PN, -1)
    slots = Slots(labels_PN)
    hit_PC = 1 - _Draws(mask_PN, set_size).miss_1(slots.sum(torch.ones_like(rewards_PN)))
    hits_P1 = hit_PC.sum(1, keepdim=True)
    return slots.spread(hits_P1 - hit_PC + 1, hits_P1) / set_size


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
    size_PC, reward_PC = slots.sum(mask_PN.to(torch.float64)), slots.sum(rewards_PN)
    hit_PC = 1 - draws.miss_1(size_PC)
    hit_with_mate_PC = draws.mate_P1 - draws.miss_2(size_PC)
    reward_P1 = rewards_PN.sum(1, keepdim=True)

    # Sums over all clusters, which is what a degenerate rollout sees; less its own for any other.
    hit_P1, hit_with_mate_P1, reward_hit_P1 = (
        values_PC.sum(1, keepdim=True) for values_PC in (hit_PC, hit_with_mate_PC, reward_PC * hit_with_mate_PC)
    )
    reward_in_clusters_P1 = reward_PC.sum(1, keepdim=True)
    slope_P1 = hit_P1 - hit_with_mate_P1
    constant_P1 = reward_in_clusters_P1 * draws.mate_P1 + reward_P1 * hit_with_mate_P1 - reward_hit_P1
    slope_PC = slope_P1 - hit_PC + hit_with_mate_PC + (1 - draws.mate_P1)
    constant_PC = constant_P1 + (reward_P1 - reward_PC) * (draws.mate_P1 - hit_with_mate_PC)
    if zero_single_cluster:
        single_PC, single_P1 = _single_cluster_sets(rewards_PN, labels_PN, mask_PN, draws, size_PC, reward_PC)
        slope_PC, constant_PC = slope_PC - single_PC[0], constant_PC - single_PC[1]
        slope_P1, constant_P1 = slope_P1 - single_P1[0], constant_P1 - single_P1[1]
    value_PN = rewards_PN * slots.spread(slope_PC, slope_P1) + slots.spread(constant_PC, constant_P1)
    return value_PN / set_size**2


def _single_cluster_sets(
    rewards_PN: Tensor, labels_PN: Tensor, mask_PN: Tensor, draws: _Draws, size_PC: Tensor, reward_PC: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Slope and constant, of a cluster and of the degenerates, of the mean over the sets with i of
    n^2 f(G) [G has one cluster]: what `zero_single_cluster` takes away.

    G has the one cluster c if it stays within c and the degenerate rollouts, but not within the latter alone. A set
    that stays within s rollouts misses the other N - s. With i among the s, it is worth
    r_i stay_1 + (rewards of the other s - 1) stay_2.
    """
    degenerate_PN = mask_PN & (labels_PN < 0)
    spare_P1 = degenerate_PN.sum(1, keepdim=True)
    spare_reward_P1 = (rewards_PN * degenerate_PN).sum(1, keepdim=True)
    used_PC = size_PC > 0

    outside_PC = draws.count_P1 - size_PC - spare_P1
    stay_1_PC = torch.where(used_PC, draws.miss_1(outside_PC), 0.0)
    stay_2_PC = torch.where(used_PC, draws.miss_2(outside_PC), 0.0)
    slope_PC, constant_PC = stay_1_PC - stay_2_PC, (reward_PC + spare_reward_P1) * stay_2_PC

    # A degenerate i fits with every cluster; the sets within the degenerates alone were counted once per cluster.
    alone_1_P1, alone_2_P1 = draws.miss_1(draws.count_P1 - spare_P1), draws.miss_2(draws.count_P1 - spare_P1)
    used_P1 = used_PC.sum(1, keepdim=True)
    slope_P1 = slope_PC.sum(1, keepdim=True) - used_P1 * (alone_1_P1 - alone_2_P1)
    constant_P1 = constant_PC.sum(1, keepdim=True) - used_P1 * spare_reward_P1 * alone_2_P1
    return (slope_PC, constant_PC), (slope_P1, constant_P1)
