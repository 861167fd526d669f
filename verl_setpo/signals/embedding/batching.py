"""Batches of texts by a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence


def token_batches(
    lengths: Sequence[int], budget: int, *, max_texts: int | None = None, padded: bool = False
) -> list[list[int]]:
    """Split texts of these lengths into batches of at most `budget` tokens, each at least one text.

    Args:
        lengths: tokens of each text.
        budget: tokens of a batch. A longer text is a batch of its own.
        max_texts: also a bound on the texts of a batch.
        padded: count every text with the length of the longest in its batch, and batch texts of like length together,
            longest first: what a forward pass costs, and what it needs most memory for comes first. Otherwise texts
            stay in order.

    Returns:
        The texts' positions, batch after batch; each position once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)) if padded else range(len(lengths))
    batches: list[list[int]] = []
    used = 0
    for i in order:
        # Padded batches begin with their longest text.
        cost = lengths[batches[-1][0]] if padded and batches else lengths[i]
        if not batches or used + cost > budget or len(batches[-1]) == max_texts:
            batches.append([])
            used, cost = 0, lengths[i]
        batches[-1].append(i)
        used += cost
    return batches
