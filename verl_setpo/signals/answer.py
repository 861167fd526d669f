"""Clusters of equal answers: two rollouts share a strategy when they end in the same canonical answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from verl_setpo.signals.base import Rollout, Signal, SignalBatch, register_signal
from verl_setpo.tasks.answers import last_boxed, last_tagged

DEGENERATE = -1


@register_signal("answer")
class AnswerClusters(Signal):
    """A rollout's cluster is its canonical answer, as Poly-EPO clusters its synthetic tasks (section 6.2).

    The answer is what the reward function returns under "pred", verl's conventional name; otherwise the last
    `\\boxed{...}`, `<answer>...</answer>` or `#### ...` of the response. A rollout without one is degenerate.
    """

    provides = "clusters"

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        return SignalBatch(clusters_PN=cluster_answers(groups), failures=(None,) * len(groups))


def cluster_answers(groups: Sequence[Sequence[Rollout]]) -> torch.Tensor:
    """(P, N) int64 clusters by equal answers, numbered by first appearance; -1 for no answer and for padding."""
    width = max((len(group) for group in groups), default=0)
    clusters_PN = torch.full((len(groups), width), DEGENERATE)
    for p, group in enumerate(groups):
        ids: dict[str, int] = {}
        for i, rollout in enumerate(group):
            if rollout.answer:
                clusters_PN[p, i] = ids.setdefault(rollout.answer, len(ids))
    return clusters_PN


def find_answer(text: str) -> str:
    """The final answer that a response marks last, whitespace collapsed; "" when it marks none.

    Marks are a complete `\\boxed{...}` or `<answer>...</answer>`, and `####` to the end of its line. Linear in the text
    and never raises: the text is a policy's, which is rewarded for what is found here.
    """
    before, mark, after = text.rpartition("####")
    hashed = (len(before) + len(mark), after.split("\n", 1)[0]) if mark else None
    found = [answer for answer in (last_boxed(text), last_tagged(text), hashed) if answer is not None]
    return " ".join(max(found)[1].split()) if found else ""
