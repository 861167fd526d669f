"""The signal `judge`: which rollouts share a strategy, by an LLM that sees the whole group (Poly-EPO, section 5.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from verl_setpo.signals.base import Rollout, Run, SignalBatch, register_signal
from verl_setpo.signals.judge.judge import DEGENERATE, Judge, JudgeSettings
from verl_setpo.signals.store.settings import PREFIX, refuse_gpus_unless, refuse_server_keys, shared, split_keys
from verl_setpo.signals.store.shard import Reply
from verl_setpo.signals.store.signal import StoreSignal
from verl_setpo.signals.store.usage import SignalError, Usage, drain_endpoint
from verl_setpo.signals.store.work import Work

KINDS = ("endpoint", "reward_model")


@register_signal("judge")
class JudgeSignal(StoreSignal):
    """Clusters by an LLM judge, asked once a prompt as soon as its last rollout is finished.

    kind: `endpoint`, an OpenAI-compatible server, with the keys of `JudgeSettings` (base_url, model, ...); or
    `reward_model`, the server that verl starts for `reward.reward_model`, with the same keys but those two.
    The store's keys are those of `StoreSettings`.
    """

    provides = "clusters"
    needs_question = True

    def __init__(self, kind: str = "endpoint", **keys: Any) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"{PREFIX}kind={kind} is unknown; the kinds of a judge are {', '.join(KINDS)}.")
        self.settings, self._keys = split_keys(keys)
        refuse_gpus_unless(False, self.settings)
        self.kind = kind
        self._judge_keys("http://reward-model/v1", "reward-model")

    @property
    def needs_workers(self) -> bool:
        return self.kind == "reward_model"

    def _judge_keys(self, url: str, model: str) -> JudgeSettings:
        if self.kind == "endpoint":
            return JudgeSettings.from_keys(self._keys, PREFIX)
        refuse_server_keys(self._keys)
        return JudgeSettings.from_keys({**self._keys, "base_url": url, "model": model}, PREFIX)

    def _work(self, run: Run, shards: int) -> Callable[[], Work]:
        settings = self._judge_keys(run.reward_model_url, run.reward_model)
        return partial(JudgeWork, JudgeSettings(**shared(settings.model_dump(), shards)))

    def _batch(self, groups: Sequence[Sequence[Rollout]], replies: Sequence[Reply]) -> SignalBatch:
        width = max((len(group) for group in groups), default=0)
        clusters_PN = torch.full((len(groups), width), DEGENERATE)
        notes: list[list[str]] = []
        for p, (group, reply) in enumerate(zip(groups, replies, strict=True)):
            results = reply.results or [(DEGENERATE, "")] * len(group)
            clusters_PN[p, : len(group)] = torch.tensor([cluster for cluster, _ in results])
            notes.append([strategy for _, strategy in results])
        failures = tuple(str(reply.failure) if reply.failure else None for reply in replies)
        return SignalBatch(clusters_PN=clusters_PN, failures=failures, notes=notes)


class JudgeWork(Work):
    """A judge in an actor of the store; a result is (cluster, strategy in the judge's words)."""

    whole_group = True

    def __init__(self, settings: JudgeSettings) -> None:
        try:
            self._judge = Judge(settings)
        except ValueError as error:
            raise ValueError(f"{PREFIX}{str(error).rstrip('.')}.") from None

    async def check(self) -> None:
        await self._judge.check(PREFIX)
        self.drain()

    async def run(self, question: str, texts: Sequence[str]) -> list[tuple[int, str]]:
        verdict = await self._judge.cluster(question, texts)
        return list(zip(verdict.clusters, verdict.strategies, strict=True))

    def drain(self) -> Usage:
        stats, self._judge.stats = self._judge.stats, type(self._judge.stats)()
        usage = drain_endpoint(self._judge.endpoint)
        usage.asked, usage.cached, usage.shortened = stats.groups, stats.cached, stats.shortened
        usage.answers, usage.bad_answers = stats.answers, stats.bad_answers
        return usage

    @property
    def trouble(self) -> SignalError | None:
        failure = self._judge.endpoint.trouble
        return SignalError.of(failure) if failure else None

    async def close(self) -> None:
        await self._judge.close()


__all__ = ["JudgeSignal", "JudgeWork"]
