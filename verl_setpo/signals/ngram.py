"""A kernel that needs no model: the cosine of two responses' n-gram counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from verl_setpo.set_rl import cosine_kernel
from verl_setpo.signals.base import Rollout, Signal, SignalBatch, register_signal


@register_signal("ngram")
class NgramKernel(Signal):
    """k(y, y') is the cosine of the counts of all token n-grams of 1 to `n` tokens.

    Measures wording, not strategy: a stand-in for SetPO's embedding kernel where no embedder runs. Two empty
    responses are alike (1), an empty and another one are not (0).
    """

    provides = "kernel"

    def __init__(self, n: int = 3) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 8:
            raise ValueError(f"signal.n is {n!r}, but must be an integer from 1 to 8.")
        self.n = n

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        width = max((len(group) for group in groups), default=0)
        kernel_PNN = torch.eye(width).repeat(len(groups), 1, 1)
        for p, group in enumerate(groups):
            counts = self._counts([rollout.token_ids for rollout in group])
            kernel_PNN[p, : len(group), : len(group)] = cosine_kernel(counts[None])[0]
        return SignalBatch(kernel_PNN=kernel_PNN, failures=(None,) * len(groups))

    def _counts(self, responses: Sequence[torch.Tensor]) -> torch.Tensor:
        """(N, number of distinct n-grams in the group) float32 counts."""
        rows, grams = [], []
        for size in range(1, self.n + 1):
            for row, tokens in enumerate(responses):
                if len(tokens) < size:
                    continue
                # Shorter grams are filled up with -1, which no token is.
                windows = torch.full((len(tokens) - size + 1, self.n), -1)
                windows[:, :size] = tokens.long().unfold(0, size, 1)
                grams.append(windows)
                rows.append(torch.full((len(windows),), row))
        if not grams:
            return torch.zeros(len(responses), 1)
        distinct, column = torch.unique(torch.cat(grams), dim=0, return_inverse=True)
        counts = torch.zeros(len(responses), len(distinct))
        return counts.index_put_((torch.cat(rows), column), torch.ones(len(column)), accumulate=True)
