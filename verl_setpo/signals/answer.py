"""Clusters of equal answers: two rollouts share a strategy when they end in the same canonical answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from verl_setpo.signals.base import Rollout, Signal, SignalBatch, register_signal

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
    """The last final answer that a response marks, whitespace collapsed; "" when it marks none.

    Linear in the text and never raises: the text is a policy's, which is rewarded for what is found here.
    """
    candidates = [(text.rfind(opening), opening) for opening in ("\\boxed{", "<answer>", "####")]
    position, opening = max(candidates)
    if position < 0:
        return ""
    rest = text[position + len(opening) :]
    if opening == "\\boxed{":
        end = _closing_brace(rest)
    elif opening == "<answer>":
        end = rest.find("</answer>")
    else:
        newline = rest.find("\n")
        end = len(rest) if newline < 0 else newline
    return "" if end < 0 else " ".join(rest[:end].split())


def _closing_brace(text: str) -> int:
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return i
    return -1
