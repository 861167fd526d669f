"""How early the rollouts of a prompt part: the prefix tree of their tokens (Poly-EPO, arXiv 2604.17654, Figure 3).

Shapes: P prompts, T token positions, counted from 1. numpy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from verl_setpo.evaluation.samples import check_k


def branches_by_position(
    groups_P: Sequence[Sequence[Any]], *, num_positions: int | None = None, keep_finished: bool = True
) -> np.ndarray:
    """Number of different beginnings of t tokens among the rollouts of each prompt, for t = 1, ..., T.

    A rollout that is finished before t stays a branch of its own, as if an end mark followed for ever: the figure never
    falls, and ends at the number of different rollouts. With `keep_finished=False` only rollouts of at least t tokens
    count: the nodes of the prefix tree at depth t, down to 0.

    Args:
        groups_P: for each prompt the token ids of its rollouts, each a list or array of integers, of any length. Ids
            after the end, padding say, must have been removed.
        num_positions: T; None: the longest rollout.
        keep_finished: see above.

    Returns:
        (P, T) int64. All 0 for a prompt without rollouts.

    Raises:
        TypeError: token ids that are not a list of integers: text, or one more list around them.
        ValueError: num_positions below 1.
    """
    rollouts_P = [
        # Sorted, so that each shares with the one before it the longest beginning that it shares with any before.
        sorted({_token_ids(f"rollout {i} of prompt {p}", ids) for i, ids in enumerate(group)})
        for p, group in enumerate(groups_P)
    ]
    longest = max((len(ids) for rollouts in rollouts_P for ids in rollouts), default=0)
    positions = longest if num_positions is None else check_k(num_positions, "num_positions")
    branches_PT = np.zeros((len(rollouts_P), positions), dtype=np.int64)
    for branches_T, rollouts in zip(branches_PT, rollouts_P, strict=True):
        # A rollout adds a branch where it leaves the one before, and takes it away where it ends.
        shared = [0, *(_shared(a, b) for a, b in itertools.pairwise(rollouts))][: len(rollouts)]
        branches_T += _cumulated(shared, positions)
        if not keep_finished:
            branches_T -= _cumulated([len(ids) for ids in rollouts], positions)
    return branches_PT


def parting_position(branches_PT: Any, share: float = 0.5) -> np.ndarray:
    """The token position by which a share of the branches that a prompt ends with have parted.

    One beginning becomes B branches by B - 1 partings; this is the first t with branches(t) - 1 >= share (B - 1). So
    for two rollouts it is the position of their first different token.

    Args:
        branches_PT: (P, T) integers, of `branches_by_position` with `keep_finished=True`.
        share: in (0, 1].

    Returns:
        (P,) float64, from 1; NaN for a prompt whose rollouts are all the same.

    Raises:
        ValueError: wrong shape, a share out of range, or a number of branches that falls.
        TypeError: numbers of branches that are not integers.
    """
    branches_PT = np.asarray(branches_PT)
    if branches_PT.ndim != 2:
        raise ValueError(f"branches_PT must have shape (prompts, positions), not {branches_PT.shape}")
    if not np.issubdtype(branches_PT.dtype, np.integer):
        raise TypeError(f"branches_PT must be integers, not {branches_PT.dtype}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share}")
    if (np.diff(branches_PT, axis=1) < 0).any():
        raise ValueError("branches_PT falls: count the branches with keep_finished=True")
    if branches_PT.shape[1] == 0:
        return np.full(len(branches_PT), np.nan)
    partings_P = branches_PT[:, -1] - 1
    # argmax is the first true one; the last position always is.
    first_P = (branches_PT - 1 >= share * partings_P[:, None]).argmax(axis=1) + 1.0
    return np.where(partings_P >= 1, first_P, np.nan)


def _token_ids(name: str, ids: Any) -> tuple[int, ...]:
    array = np.asarray(ids)
    if array.ndim == 1 and array.size == 0:
        return ()
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must be a list of integer token ids, not {array.dtype} of shape {array.shape}")
    return tuple(array.tolist())


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Tokens that both begin with."""
    pairs = zip(one, other, strict=False)
    return next((t for t, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _cumulated(tokens: Sequence[int], positions: int) -> np.ndarray:
    """(T,): how many of the numbers of tokens are below t, for t = 1, ..., T."""
    counted = np.bincount(np.minimum(np.array(tokens, dtype=np.int64), positions), minlength=positions + 1)
    return counted.cumsum()[:positions]
