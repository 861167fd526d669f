"""Rollout text made fit to be shown: cut, without characters that hide or reverse anything, grouped by answer.

The page puts these texts into its document as text only; nothing here has to be HTML.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from verl_setpo.evaluation.generations import marked_answer
from verl_setpo.evaluation.text import printable

HEAD_CHARS, TAIL_CHARS = 2500, 1500  # of a response; its answer is at its end
LABEL_CHARS = 160
MOST_TEXTS = 4  # of a cluster; the others are alike
MOST_CLUSTERS = 24
NO_ANSWER, NO_STRATEGY = "(no answer)", "(no strategy)"


@dataclass(frozen=True)
class Cut:
    """A text without its middle."""

    head: str
    tail: str = ""
    left_out: int = 0  # characters between the two


@dataclass(frozen=True)
class Rollout:
    """One response as the page shows it. What is not known is None."""

    session: int
    cluster: Hashable  # equal for responses that belong together
    label: str  # of the cluster: answer or strategy
    correct: bool
    reward: float | None
    text: Cut | None
    credit: float | None = None
    base: float | None = None
    advantage: float | None = None
    truncated: bool = False


def cut(text: str) -> Cut:
    """A long text to its beginning and end."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return Cut(text)
    return Cut(text[:HEAD_CHARS], text[-TAIL_CHARS:], len(text) - HEAD_CHARS - TAIL_CHARS)


def visible(text: str) -> str:
    r"""`text` in its lines, with all else that does not print (escapes, bidi marks, half surrogates) as \u codes."""
    lines = text.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return "\n".join(printable(line) for line in lines)


def short(text: str, chars: int = LABEL_CHARS) -> str:
    """One printable line of at most so many characters."""
    line = " ".join(text[: 4 * chars].split())
    line = printable(line)
    return line if len(line) <= chars else f"{line[: chars - 1]}\N{HORIZONTAL ELLIPSIS}"


def answer_in(response: str) -> str:
    r"""What to group a response by where no parsed answer is known: its last \boxed or <answer>, else its last line."""
    return marked_answer(response) or " ".join(response[-20_000:].rstrip().rsplit("\n", 1)[-1].split())


def cut_json(text: Cut) -> list[Any]:
    """`[text]` or `[head, characters left out, tail]`."""
    return [visible(text.head), text.left_out, visible(text.tail)] if text.left_out else [visible(text.head)]


def group_json(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The rollouts of one model for one problem, by cluster: right ones first, then the larger."""
    clusters: dict[Hashable, list[Rollout]] = {}
    for rollout in sorted(rollouts, key=lambda rollout: rollout.session):
        clusters.setdefault(rollout.cluster, []).append(rollout)
    ordered = sorted(clusters.values(), key=lambda c: (-sum(r.correct for r in c) / len(c), -len(c)))
    return {
        "clusters": [_cluster_json(cluster) for cluster in ordered[:MOST_CLUSTERS]],
        "more": len(ordered[MOST_CLUSTERS:]),
    }


def _cluster_json(cluster: Sequence[Rollout]) -> dict[str, Any]:
    labels = [rollout.label for rollout in cluster]
    return {
        "label": short(max(set(labels), key=labels.count)),
        "correct": sum(rollout.correct for rollout in cluster),
        "rollouts": [_rollout_json(rollout, i < MOST_TEXTS) for i, rollout in enumerate(cluster)],
    }


def _rollout_json(rollout: Rollout, with_text: bool) -> dict[str, Any]:
    values = {
        "session": rollout.session,
        "reward": rollout.reward,
        "credit": rollout.credit,
        "base": rollout.base,
        "advantage": rollout.advantage,
        "truncated": rollout.truncated or None,
        "text": cut_json(rollout.text) if with_text and rollout.text is not None else None,
    }
    return {name: value for name, value in values.items() if value is not None}
