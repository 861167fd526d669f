"""The signal `embedding`: how alike two rollouts are, by the cosine of their embeddings (SetPO, section 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from verl_setpo.set_rl import cosine_kernel
from verl_setpo.signals.base import Rollout, Run, SignalBatch, register_signal
from verl_setpo.signals.embedding import KINDS as EMBEDDERS
from verl_setpo.signals.embedding import EmbedderSettings, build_embedder, part_of, read_embedder
from verl_setpo.signals.store.settings import PREFIX, refuse_gpus_unless, refuse_server_keys, shared, split_keys
from verl_setpo.signals.store.shard import Reply
from verl_setpo.signals.store.signal import StoreSignal
from verl_setpo.signals.store.usage import SignalError, Usage, drain_endpoint
from verl_setpo.signals.store.work import Batcher, Work

KINDS = (*EMBEDDERS, "reward_model")
MERGE_S = 0.02
"""Rollouts that finish within it share a request."""


@register_signal("embedding")
class EmbeddingSignal(StoreSignal):
    """SetPO's kernel, clamp(cos(e(y), e(y')), 0, 1), each response embedded as soon as it is finished.

    kind: `endpoint`, an OpenAI-compatible server; `local`, a sentence-transformers model in the store's actors; or
    `reward_model`, the server that verl starts for `reward.reward_model`. Keys are those of the kind's settings (see
    `verl_setpo.signals.embedding`) and of `StoreSettings`.

    A response without text (or, with part=answer, without an answer) is taken to be like every other: a model's
    embedding of nothing is like nothing, and silence would be the most diverse thing to say.
    """

    provides = "kernel"

    def __init__(self, kind: str = "endpoint", **keys: Any) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"{PREFIX}kind={kind} is unknown; the kinds of an embedder are {', '.join(KINDS)}.")
        self.settings, self._keys = split_keys(keys)
        self.kind = kind
        refuse_gpus_unless(kind == "local", self.settings)
        self._embedder = self._embedder_keys("http://reward-model/v1", "reward-model")

    @property
    def needs_workers(self) -> bool:
        return self.kind == "reward_model" or self.settings.num_gpus > 0

    def _embedder_keys(self, url: str, model: str) -> EmbedderSettings:
        if self.kind != "reward_model":
            return read_embedder(self.kind, self._keys)
        refuse_server_keys(self._keys)
        return read_embedder("endpoint", {**self._keys, "base_url": url, "model": model})

    def _work(self, run: Run, shards: int) -> Callable[[], Work]:
        keys = self._embedder_keys(run.reward_model_url, run.reward_model).model_dump()
        return partial(EmbeddingWork, "local" if self.kind == "local" else "endpoint", shared(keys, shards))

    def _text(self, rollout: Rollout) -> str:
        return part_of(rollout.text(), self._embedder.part)

    def _batch(self, groups: Sequence[Sequence[Rollout]], replies: Sequence[Reply]) -> SignalBatch:
        width = max((len(group) for group in groups), default=0)
        kernel_PNN = torch.eye(width).repeat(len(groups), 1, 1)
        failures: list[str | None] = []
        for p, (group, reply) in enumerate(zip(groups, replies, strict=True)):
            failure = str(reply.failure) if reply.failure else None
            if reply.results is not None:
                if len({len(vector) for vector in reply.results}) > 1:
                    failure = "bad_answer: the embeddings of its responses have different dimensions"
                else:
                    kernel_PNN[p, : len(group), : len(group)] = _kernel(np.stack(reply.results))
            failures.append(failure)
        return SignalBatch(kernel_PNN=kernel_PNN, failures=tuple(failures))


def _kernel(vectors_ND: np.ndarray) -> torch.Tensor:
    """(N, N) cosines, clamped to [0, 1]; a zero vector, which stands for no text, is like every other."""
    if not vectors_ND.any():
        return torch.ones(len(vectors_ND), len(vectors_ND))
    kernel_NN = cosine_kernel(torch.from_numpy(vectors_ND)[None])[0]
    empty_N = torch.from_numpy(~vectors_ND.any(-1))
    kernel_NN[empty_N] = 1.0
    kernel_NN[:, empty_N] = 1.0
    return kernel_NN


class EmbeddingWork(Work):
    """An embedder in an actor of the store; a result is a vector (D,) float32, 0 for no text."""

    whole_group = False

    def __init__(self, kind: str, keys: dict[str, Any]) -> None:
        self._embedder = build_embedder(kind, keys)
        self._batcher: Batcher[np.ndarray] = Batcher(self._embed, MERGE_S)
        self._usage = Usage()

    async def check(self) -> None:
        await self._embedder.check()
        self.drain()

    async def run(self, question: str, texts: Sequence[str]) -> list[np.ndarray]:
        return [await self._batcher(text) for text in texts]

    async def _embed(self, texts: list[str]) -> list[np.ndarray]:
        try:
            embedded = await self._embedder.embed(texts)
        except Exception as error:
            if not hasattr(self._embedder, "endpoint"):
                self._usage += Usage(calls=1, failures=Counter([SignalError.of(error).kind]))
            raise
        there = sum(bool(text.strip()) for text in texts)
        self._usage += Usage(asked=len(texts), cached=there - embedded.asked, shortened=embedded.truncated)
        if not hasattr(self._embedder, "endpoint") and embedded.asked:
            self._usage += Usage(calls=1, seconds=[embedded.seconds], prompt_tokens=embedded.tokens)
        return [row.copy() for row in embedded.vectors.numpy()]  # one that is kept must not keep them all

    def drain(self) -> Usage:
        usage, self._usage = self._usage, Usage()
        endpoint = getattr(self._embedder, "endpoint", None)
        return usage if endpoint is None else usage + drain_endpoint(endpoint)

    @property
    def trouble(self) -> SignalError | None:
        failure = getattr(getattr(self._embedder, "endpoint", None), "trouble", None)
        return SignalError.of(failure) if failure else None

    async def close(self) -> None:
        await self._embedder.close()


__all__ = ["EmbeddingSignal", "EmbeddingWork"]
