"""The groups of a file as tensors: prompts with equally many rollouts together, and no more than fit into memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from verl_setpo.credit.reading import Group
from verl_setpo.signals import SignalBatch

MOST_KERNEL_ENTRIES = 2**24
"""Of a chunk: 128 MiB in float64."""


@dataclass(frozen=True)
class Chunk:
    """P prompts with N rollouts each. rewards_PN: (P, N) float32, as verl keeps rewards."""

    groups: list[Group]
    rewards_PN: torch.Tensor

    @property
    def size(self) -> int:
        return self.rewards_PN.shape[1]


def chunks_of(groups: Sequence[Group], most_entries: int = MOST_KERNEL_ENTRIES) -> list[Chunk]:
    """Chunks of at most `most_entries` pairs of rollouts, and of at least one prompt."""
    by_size: dict[int, list[Group]] = defaultdict(list)
    for group in groups:
        by_size[len(group.rollouts)].append(group)
    chunks = []
    for size, alike in sorted(by_size.items()):
        width = max(1, most_entries // size**2)
        for first in range(0, len(alike), width):
            some = alike[first : first + width]
            rewards_PN = torch.tensor([[r.reward for r in g.rollouts] for g in some], dtype=torch.float32)
            chunks.append(Chunk(some, rewards_PN))
    return chunks


def one_reward(chunk: Chunk) -> torch.Tensor:
    """(P,) True for prompts whose rollouts all have one reward."""
    return chunk.rewards_PN.amax(-1) == chunk.rewards_PN.amin(-1)


def one_strategy(signal: SignalBatch) -> torch.Tensor:
    """(P,) True for prompts whose rollouts are all alike: one cluster, or all degenerate; under a kernel, all 1."""
    failed_P = torch.tensor([cause is not None for cause in signal.failures], dtype=torch.bool)
    if signal.kernel_PNN is not None:
        return (signal.kernel_PNN > 1 - 1e-6).flatten(1).all(-1) & ~failed_P
    assert signal.clusters_PN is not None
    return (signal.clusters_PN == signal.clusters_PN[:, :1]).all(-1) & ~failed_P


def degenerate(signal: SignalBatch) -> bool:
    """Whether no rollout has a cluster; False under a kernel."""
    return signal.clusters_PN is not None and bool((signal.clusters_PN < 0).all())
