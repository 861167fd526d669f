"""Cluster ids to labels, and sums over the clusters of a prompt, without a rollouts x clusters tensor."""

import torch
from torch import Tensor


def label_clusters(clusters_PN: Tensor, mask_PN: Tensor, degenerate_cluster: int) -> Tensor:
    """Labels from 0 to N-1 per prompt in place of any ids; -1 for degenerate rollouts and masked places."""
    unlabelled_PN = ~mask_PN | (clusters_PN == degenerate_cluster)
    if clusters_PN.numel() == 0:
        return clusters_PN
    low, high = clusters_PN.masked_fill(unlabelled_PN, 0).aminmax()
    if low >= 0 and high < clusters_PN.shape[1]:
        return clusters_PN.masked_fill(unlabelled_PN, -1)  # such ids, which a signal gives, need no sort
    # The largest integer sorts the unlabelled last. An id that equals it does no harm: it keeps the last label.
    sorted_PN, order_PN = clusters_PN.masked_fill(unlabelled_PN, torch.iinfo(torch.int64).max).sort(1)
    label_sorted_PN = torch.zeros_like(sorted_PN)
    label_sorted_PN[:, 1:] = (sorted_PN[:, 1:] != sorted_PN[:, :-1]).cumsum(1)
    labels_PN = torch.empty_like(sorted_PN).scatter(1, order_PN, label_sorted_PN)
    return labels_PN.masked_fill(unlabelled_PN, -1)


class Slots:
    """S slots per prompt: one for each label in use anywhere in the batch, empty where the prompt does not use it, and
    the last for the unlabelled (degenerates and masked places)."""

    def __init__(self, labels_PN: Tensor) -> None:
        last = int(labels_PN.max()) + 1 if labels_PN.numel() else 0
        self._slot_PN = labels_PN.masked_fill(labels_PN < 0, last)
        self.is_cluster_S = (torch.arange(last + 1, device=labels_PN.device) < last).to(torch.float64)

    def sum(self, values_PN: Tensor) -> Tensor:
        """sum_PS: the sum of the values in each slot."""
        sum_PS = values_PN.new_zeros(len(values_PN), len(self.is_cluster_S))
        return sum_PS.scatter_add(1, self._slot_PN, values_PN)

    def spread(self, values_PS: Tensor) -> Tensor:
        """value_PN: for each rollout the value of its slot."""
        return values_PS.gather(1, self._slot_PN)


def count_distinct(labels_n: Tensor) -> Tensor:
    """Number of distinct labels along the last axis, -1 not counted."""
    sorted_n = labels_n.sort(-1).values
    new_n = torch.ones_like(sorted_n, dtype=torch.bool)
    new_n[..., 1:] = sorted_n[..., 1:] != sorted_n[..., :-1]
    return (new_n & (sorted_n >= 0)).sum(-1)
