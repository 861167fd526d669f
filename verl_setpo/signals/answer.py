"""Clusters of equal answers, or of whatever else the reward function reads from a response, such as its strategy."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from verl_setpo.equivalence.clusters import MAX_CHARS, EqualityCounts, MathEquality
from verl_setpo.signals.base import Rollout, Signal, SignalBatch, register_signal
from verl_setpo.tasks.answers import last_boxed, last_tagged

logger = logging.getLogger(__name__)

DEGENERATE = -1
EQUAL = ("text", "math")
ANSWER_FIELD = "pred"
"""verl's name for the answer among what a reward function returns."""


@register_signal("answer")
class AnswerClusters(Signal):
    """A rollout's cluster is its canonical answer, as Poly-EPO clusters its synthetic tasks (section 6.2).

    field: the key under which the reward function returns what is compared, as text. With `pred`, verl's conventional
    name for the answer, a response for which the reward function returns none is read for its last `\\boxed{...}`,
    `<answer>...</answer>` or `#### ...`. Any other, such as `strategy` of the multiplication task, stands for itself: a
    group in which no rollout has it has no signal, and a cause that names the key. A rollout without it, or with "", is
    degenerate. The rollout log then has it as "strategy".
    equal: `text`, equal character for character, which leaves the canonical form to the reward function; or `math`,
    mathematically equal as the library math-verify sees it, so that 1/2, 0.5 and \\frac{1}{2} share a cluster.
    Not for tasks whose answers are equal by design: every solution of a Countdown problem equals its target.
    timeout_s, budget_s: with `math`, seconds for one comparison, and for all of a step. An answer whose comparison
    takes longer or fails, or that is longer than MAX_CHARS, is compared by its text; `counts` has how many, of the
    last `collect`. Groups have no signal only where math-verify's process does not start.

    Raises ValueError for a wrong value, and where math-verify is not installed.
    """

    provides = "clusters"

    def __init__(
        self, equal: str = "text", timeout_s: float = 5.0, budget_s: float = 60.0, field: str = ANSWER_FIELD
    ) -> None:
        if not isinstance(field, str) or not field:
            raise ValueError(f"signal.field is {field!r}, but must be a key that the reward function returns.")
        if equal not in EQUAL:
            raise ValueError(f"signal.equal is {equal!r}, but must be {' or '.join(EQUAL)}.")
        for key, value in (("timeout_s", timeout_s), ("budget_s", budget_s)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"signal.{key} is {value!r}, but must be a number of seconds above 0.")
        if equal == "math" and importlib.util.find_spec("math_verify") is None:
            raise ValueError("signal.equal=math needs the package math-verify: pip install math-verify.")
        self.equal = equal
        self.field = field
        self._math = MathEquality(timeout_s, budget_s) if equal == "math" else None

    @property
    def counts(self) -> EqualityCounts:
        """What `equal=math` did in the last `collect`; zeros with `equal=text`."""
        return EqualityCounts() if self._math is None else self._math.counts

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        if self.field == ANSWER_FIELD:
            return self._by_answer(groups)
        named = [[self._with_field(rollout) for rollout in group] for group in groups]
        batch = self._by_answer(named)
        failures = tuple(self._lack(group) or cause for group, cause in zip(groups, batch.failures, strict=True))
        return replace(batch, failures=failures, notes=[[rollout.answer for rollout in group] for group in named])

    def _by_answer(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        if self._math is None:
            return SignalBatch(clusters_PN=cluster_answers(groups), failures=(None,) * len(groups))
        merged = self._math.merge([[rollout.answer for rollout in group] for group in groups])
        self._warn(self._math.counts)
        clusters_PN = cluster_answers(groups, [names if isinstance(names, dict) else {} for names in merged])
        failures = tuple(None if isinstance(names, dict) else str(names) for names in merged)
        for p, failure in enumerate(failures):
            if failure is not None:
                clusters_PN[p] = DEGENERATE
        return SignalBatch(clusters_PN=clusters_PN, failures=failures)

    def _with_field(self, rollout: Rollout) -> Rollout:
        """The rollout with what the reward function returned under the field, as text, for its answer."""
        value = rollout.reward_extra_info.get(self.field)
        return replace(rollout, answer="" if value is None else str(value))

    def _lack(self, group: Sequence[Rollout]) -> str | None:
        """Why there is nothing to compare in a group; None where the reward function gave one rollout the field."""
        if any(rollout.reward_extra_info.get(self.field) is not None for rollout in group):
            return None
        found = sorted({str(key) for rollout in group for key in rollout.reward_extra_info})
        return (
            f"the reward function returns no {self.field!r}, which algorithm.set_rl.signal.field names: set it to one "
            f"of those that it returns ({', '.join(found)}), or choose a reward function that returns it"
        )

    def metrics(self) -> dict[str, float]:
        if self._math is None:
            return {}
        counts = self._math.counts
        unsettled = counts.timed_out + counts.crashed + counts.raised + counts.unasked
        return {"by_text": float(counts.by_text), "unsettled": float(unsettled), "seconds": counts.seconds}

    def close(self) -> None:
        """End the processes of math-verify; a later `collect` starts new ones."""
        if self._math is not None:
            self._math.close()

    @staticmethod
    def _warn(counts: EqualityCounts) -> None:
        if counts.by_text or counts.raised:
            logger.warning(
                "verl_setpo: %d answers were compared by their text only, as they are longer than %d characters or "
                "a comparison failed, now or in an earlier step; now %d of %d took too long, %d ended the process, "
                "%d raised, %d had no time left",
                counts.by_text,
                MAX_CHARS,
                counts.timed_out,
                counts.asked,
                counts.crashed,
                counts.raised,
                counts.unasked,
            )


def cluster_answers(
    groups: Sequence[Sequence[Rollout]], equal_to: Sequence[Mapping[str, str]] | None = None
) -> torch.Tensor:
    """(P, N) int64 clusters by equal answers, numbered by first appearance; -1 for no answer and for padding.

    equal_to: for each group the answer that stands for an answer, where it is another one.
    """
    width = max((len(group) for group in groups), default=0)
    clusters_PN = torch.full((len(groups), width), DEGENERATE)
    for p, group in enumerate(groups):
        ids: dict[str, int] = {}
        names = {} if equal_to is None else equal_to[p]
        for i, rollout in enumerate(group):
            if rollout.answer:
                clusters_PN[p, i] = ids.setdefault(names.get(rollout.answer, rollout.answer), len(ids))
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
