"""Why a rollout got its credit: Poly-EPO's two parts (arXiv 2604.17654, Eq. 15), SetPO's three (arXiv 2602.01062)."""

from typing import NamedTuple

import torch
from torch import Tensor

from verl_setpo.set_rl.checks import check_clusters, check_mask, check_rewards, check_set_size, output_dtype
from verl_setpo.set_rl.closed_forms import mean_over_all_sets, polychromic_over_all_sets
from verl_setpo.set_rl.clusters import label_clusters
from verl_setpo.set_rl.leave_one_out import Shaping, find_shaping, local_masses
from verl_setpo.set_rl.noise import subtract_mean


def polychromic_decomposition(
    rewards_PN: Tensor,
    clusters_PN: Tensor,
    *,
    set_size: int,
    mask_PN: Tensor | None = None,
    degenerate_cluster: int = -1,
    zero_single_cluster: bool = True,
) -> tuple[Tensor, Tensor]:
    """The two parts of the marginal advantage over all sets, arXiv 2604.17654, Eq. 15.

        product_i    = mean reward x mean diversity of the sets with i, less the same of all sets
        covariance_i = covariance of reward and diversity within the sets with i, less the same of all sets

    They add up to `marginal_set_advantage(..., objective="polychromic")`. A wrong rollout with a rare cluster can owe
    a positive advantage to either. Diversity is distinct clusters / n, or 0 where `zero_single_cluster` says so.

    Args:
        rewards_PN, clusters_PN, set_size, mask_PN, degenerate_cluster, zero_single_cluster: as in
            `marginal_set_advantage`.

    Returns:
        product_PN, covariance_PN: each (P, N), in units of f, 0 at masked places; float64 for float64 rewards, else
        float32.

    Raises:
        ValueError: wrong shape, NaN or infinity in an unmasked reward, or a set_size out of range.
    """
    dtype = output_dtype(rewards_PN)
    rewards_PN, mask_PN = check_rewards(rewards_PN, mask_PN)
    labels_PN = label_clusters(check_clusters(clusters_PN, rewards_PN.shape), mask_PN, degenerate_cluster)
    set_size = check_set_size(set_size, mask_PN)
    one_PN = mask_PN.to(torch.float64)

    reward_PN = mean_over_all_sets(rewards_PN, labels_PN, mask_PN, set_size)
    # With every reward 1 the polychromic objective is the diversity.
    diversity_PN = polychromic_over_all_sets(one_PN, labels_PN, mask_PN, set_size, zero_single_cluster)
    value_PN = polychromic_over_all_sets(rewards_PN, labels_PN, mask_PN, set_size, zero_single_cluster)

    def of_all_sets(values_PN: Tensor) -> Tensor:
        return (values_PN * one_PN).sum(1, keepdim=True) / one_PN.sum(1, keepdim=True).clamp(min=1)

    overall_P1 = of_all_sets(reward_PN) * of_all_sets(diversity_PN)
    product_PN = torch.where(mask_PN, reward_PN * diversity_PN - overall_P1, 0.0)
    advantage_PN = subtract_mean(value_PN, mask_PN)
    return product_PN.to(dtype), (advantage_PN - product_PN).to(dtype)


class CreditTerms(NamedTuple):
    """The three terms of a leave-one-out credit, each (P, N); see `set_loo_decomposition`."""

    own_PN: Tensor
    share_PN: Tensor
    relief_PN: Tensor


def set_loo_decomposition(
    kernel_PNN: Tensor,
    mask_PN: Tensor | None = None,
    shaping: str | Shaping = "neg_log1p",
    *,
    check: bool = True,
) -> CreditTerms:
    """The three terms of SetPO's credit, arXiv 2602.01062, Theorem 4.3.

        own_i    = g(m_i) / N                                          how far from the others i is itself
        share_i  = (1/N - 1/(N-1)) sum_{j != i} g(m_j)                 what the others' mean loses to a larger group
        relief_i = 1/(N-1) sum_{j != i} [g(m_j) - g(m_j(S without i))]  how i crowds (< 0) or relieves the others

    They add up to `set_loo`, without `center`.

    Args:
        kernel_PNN, mask_PN, shaping, check: as in `set_loo`.

    Returns:
        Three (P, N) tensors in units of g, float64 for a float64 kernel, else float32; 0 where the credit is.

    Raises:
        ValueError: as `set_loo`.
    """
    shape, dtype = find_shaping(shaping), output_dtype(kernel_PNN)
    blocks: list[CreditTerms] = []
    for masses in local_masses(kernel_PNN, mask_PN, check):
        shaped_PN = masses.shaped_PN(shape)
        count_P1, rest_P1 = masses.count_P1.clamp(min=1), (masses.count_P1 - 1).clamp(min=1)
        others_PN = shaped_PN.sum(1, keepdim=True) - shaped_PN
        terms = CreditTerms(
            own_PN=shaped_PN / count_P1,
            share_PN=(1 / count_P1 - 1 / rest_P1) * others_PN,
            relief_PN=others_PN / rest_P1 - masses.diversity_without(shape),
        )
        defined_PN = masses.mask_PN & (masses.count_P1 >= 3)
        blocks.append(CreditTerms(*(torch.where(defined_PN, term_PN, 0.0).to(dtype) for term_PN in terms)))
    return CreditTerms(*(torch.cat(term) for term in zip(*blocks, strict=True)))


def set_diversity(
    clusters_PN: Tensor, *, set_size: int, mask_PN: Tensor | None = None, degenerate_cluster: int = -1
) -> Tensor:
    """The mean over all sets of d(G) = distinct clusters / n, arXiv 2604.17654, Eq. 11: Poly-EPO's, not SetPO's D(S).

    Args:
        clusters_PN, set_size, mask_PN, degenerate_cluster: as in `marginal_set_advantage`.

    Returns:
        diversity_P: (P,) float32 in [0, 1]; 0 for a prompt that is masked as a whole.

    Raises:
        ValueError: wrong shape, or a set_size out of range.
    """
    clusters_PN = check_clusters(clusters_PN)
    mask_PN = check_mask(mask_PN, clusters_PN, "clusters_PN")
    set_size = check_set_size(set_size, mask_PN)
    labels_PN = label_clusters(clusters_PN, mask_PN, degenerate_cluster)
    one_PN = mask_PN.to(torch.float64)
    # With every reward 1 the polychromic objective is the diversity; its mean over rollouts is that over sets.
    diversity_PN = polychromic_over_all_sets(one_PN, labels_PN, mask_PN, set_size, zero_single_cluster=False)
    return ((diversity_PN * one_PN).sum(1) / one_PN.sum(1).clamp(min=1)).float()
