"""Cluster ids to dense labels, and sums over the clusters of a prompt, without a rollouts x clusters tensor."""

import torch
from torch import Tensor


def dense_labels(clusters_PN: Tensor, mask_PN: Tensor, degenerate_cluster: int) -> Tensor:
    """Labels 0, 1, ... per prompt in place of any ids; -1 for degenerate rollouts and masked places.

    O(N log N) per prompt.
    """
    unlabelled_PN = ~mask_PN | (clusters_PN == degenerate_cluster)
    # The largest integer sorts the unlabelled last. An id that equals it does no harm: it keeps the last label.
    sorted_PN, order_PN = clusters_PN.masked_fill(unlabelled_PN, torch.iinfo(torch.int64).max).sort(1)
    label_sorted_PN = torch.zeros_like(sorted_PN)
    label_sorted_PN[:, 1:] = (sorted_PN[:, 1:] != sorted_PN[:, :-1]).cumsum(1)
    labels_PN = torch.empty_like(sorted_PN).scatter(1, order_PN, label_sorted_PN)
    return labels_PN.masked_fill(unlabelled_PN, -1)


def sum_by_cluster(values_PN: Tensor, labels_PN: Tensor) -> Tensor:
    """sum_PC: the sum of the values in each cluster; C = N slots, 0 in the empty ones. Label -1 is left out."""
    slots = labels_PN.shape[1]
    sum_PC = values_PN.new_zeros(labels_PN.shape[0], slots + 1)
    return sum_PC.scatter_add(1, labels_PN.masked_fill(labels_PN < 0, slots), values_PN)[:, :slots]


def of_own_cluster(values_PC: Tensor, labels_PN: Tensor) -> Tensor:
    """value_PN: for each rollout the value of its cluster, 0 with label -1."""
    return torch.where(labels_PN >= 0, values_PC.gather(1, labels_PN.clamp(min=0)), 0.0)


def count_distinct(labels_n: Tensor) -> Tensor:
    """Number of distinct labels along the last axis, -1 not counted."""
    sorted_n = labels_n.sort(-1).values
    new_n = torch.ones_like(sorted_n, dtype=torch.bool)
    new_n[..., 1:] = sorted_n[..., 1:] != sorted_n[..., :-1]
    return (new_n & (sorted_n >= 0)).sum(-1)
