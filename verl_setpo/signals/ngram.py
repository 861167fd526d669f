"""A kernel that needs no model: the cosine of two responses' n-gram counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch.nn.utils.rnn import pad_sequence

from verl_setpo.signals.base import Rollout, Signal, SignalBatch, register_signal

TOKENS_AT_ONCE = 2**21
"""Tokens of the responses that are counted at once, padding included: some 300 bytes each, at n = 3."""


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
        longest = max((len(rollout.token_ids) for group in groups for rollout in group), default=0)
        at_once = max(1, TOKENS_AT_ONCE // max(1, width * longest))
        kernel_PNN = torch.eye(width).repeat(len(groups), 1, 1)
        for first in range(0, len(groups), at_once):
            self._fill(kernel_PNN[first : first + at_once], groups[first : first + at_once])
        return SignalBatch(kernel_PNN=kernel_PNN, failures=(None,) * len(groups))

    def _fill(self, kernel_PNN: torch.Tensor, groups: Sequence[Sequence[Rollout]]) -> None:
        responses = [rollout.token_ids.long() for group in groups for rollout in group]
        if responses:
            p_R, i_R = torch.tensor([(p, i) for p, group in enumerate(groups) for i in range(len(group))]).T
            one, other, cosine = _cosines(_counts(responses, p_R, self.n))
            kernel_PNN[p_R[one], i_R[one], i_R[other]] = cosine


def _counts(responses: list[torch.Tensor], group_R: torch.Tensor, n: int) -> csr_array:
    """(R, distinct n-grams of the groups) counts. The same n-gram in two groups is two columns.

    A response without tokens counts 1 in a column that only those of its group have.
    """
    tokens_RT = pad_sequence(responses, batch_first=True)
    length_R1 = torch.tensor([[len(tokens)] for tokens in responses])
    vocabulary = int(tokens_RT.max()) + 1 if tokens_RT.numel() else 1
    # What begins at each position: the group's number, then that of a gram a token longer each time.
    gram_RT = group_R[:, None].expand_as(tokens_RT)
    empty_R = length_R1[:, 0] == 0
    rows, columns, width = [empty_R.nonzero()[:, 0]], [group_R[empty_R]], int(group_R.max()) + 1
    for size in range(1, min(n, tokens_RT.shape[1]) + 1):
        last_RT = tokens_RT[:, size - 1 :]
        gram_RT = gram_RT[:, : last_RT.shape[1]]
        there_RT = torch.arange(size, tokens_RT.shape[1] + 1) <= length_R1
        # Numbers, not windows: sorting them is several times quicker.
        distinct, column = torch.unique((gram_RT * vocabulary + last_RT)[there_RT], return_inverse=True)
        gram_RT = torch.zeros_like(last_RT).masked_scatter_(there_RT, column)
        rows.append(there_RT.nonzero(as_tuple=True)[0])
        columns.append(width + column)
        width += len(distinct)
    row, column = torch.cat(rows).numpy(), torch.cat(columns).numpy()
    return coo_array((np.ones(len(row)), (row, column)), shape=(len(responses), width)).tocsr()


def _cosines(counts: csr_array) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two rows and their cosine, for all pairs that share an n-gram and each row with itself; exactly symmetric."""
    product = (counts @ counts.T).tocoo()
    norm_R = np.sqrt(counts.power(2).sum(axis=1))
    one, other = product.row, product.col
    cosine = np.minimum(product.data / (norm_R[one] * norm_R[other]), 1.0)
    return torch.from_numpy(one), torch.from_numpy(other), torch.from_numpy(cosine).float()
