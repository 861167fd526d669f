"""The interface of an embedder, and what all of them share: cache, truncation, checks of what a model returns."""

from __future__ import annotations

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from cachetools import LRUCache

from verl_setpo.signals.embedding.text import encodable
from verl_setpo.signals.embedding.truncate import Fitted, Truncator

PROBE = "1 + 1 = 2"
OF_A_TEXT = ("refused", "bad_answer", "model")
"""Kinds of failure that one text of a request can bring about, and another need not meet."""


class EmbeddingError(Exception):
    """Texts that could not be embedded. `kind` is for counting, `message` one line for people, without keys.

    kind: bad_answer (not what an embedding is), model (a local model failed), or one of
    `verl_setpo.signals.endpoint.EndpointError`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class Embedded:
    """What one call of `Embedder.embed` gave.

    vectors: (len(texts), D) float32 on the CPU, as the model gives them (of length 1 or not), 0 for an empty text.
    truncated: how many of the texts are represented by their head and tail only.
    asked: how many texts the model was given in this call: neither empty, repeated, nor known from before.
    tokens: of those, with prompt and special tokens.
    seconds: wall time.
    """

    vectors: torch.Tensor
    truncated: int
    asked: int
    tokens: int
    seconds: float


class _Row(NamedTuple):
    """One text's embedding: vector (D,) float32."""

    vector: torch.Tensor
    shortened: bool
    tokens: int


class Embedder(ABC):
    """Turns texts into vectors. Belongs to one event loop, which it never blocks; calls may overlap.

    A text is asked for once as long as the cache holds it (the last `cache_size` texts, found by their content; one
    embedder has one model and one set of settings), also when a call meets another that waits for the same text: equal
    responses are what a collapsing policy produces.
    """

    def __init__(self, truncator: Truncator, cache_size: int) -> None:
        self._truncator = truncator
        self._cache: LRUCache[bytes, _Row] = LRUCache(cache_size)
        self._pending: dict[bytes, asyncio.Task[dict[bytes, _Row]]] = {}
        self._dimension: int | None = None
        # One thread: a tokenizer must not be used by two at a time.
        self._counting = ThreadPoolExecutor(1, thread_name_prefix="count-tokens")

    @property
    def dimension(self) -> int | None:
        """D, one for all calls; None before the first vector."""
        return self._dimension

    @abstractmethod
    async def _ask(self, texts: Sequence[Fitted]) -> torch.Tensor:
        """(len(texts), D) floats in the order of the texts, which are distinct, not empty, and fit; EmbeddingError."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """The vectors of texts, in their order. Texts may be hostile: none makes this raise.

        An empty text, or one of white space only, has the zero vector, which `cosine_kernel` takes to be like other
        zero vectors and like nothing else. Where only empty texts came so far, a short one is asked for, to learn D.

        Raises:
            EmbeddingError: the model could not be asked, or its answer is not one finite vector of D for each text
                (kind "bad_answer"). A later call asks again.
        """
        start = time.perf_counter()
        clean = [encodable(text) for text in texts]
        keys = [_key(text) if text.strip() else None for text in clean]
        rows, asked = await self._rows({key: text for key, text in zip(keys, clean, strict=True) if key is not None})
        if None in keys and self._dimension is None:
            await self._rows({_key(PROBE): PROBE})
        zero = torch.zeros(self._dimension or 0)
        found = [None if key is None else rows[key] for key in keys]
        vectors = [row.vector if row else zero for row in found]
        return Embedded(
            vectors=torch.stack(vectors) if vectors else torch.zeros(0, len(zero)),
            truncated=sum(row.shortened for row in found if row),
            asked=len(asked),
            tokens=sum(rows[key].tokens for key in asked),
            seconds=time.perf_counter() - start,
        )

    async def check(self) -> None:
        """Embed one short text, so that what is wrong shows before a run starts; EmbeddingError."""
        await self._rows({_key(PROBE): PROBE})

    async def close(self) -> None:
        """Give up calls under way and free threads and connections. May be called twice."""
        tasks = set(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._counting.shutdown(wait=False, cancel_futures=True)

    async def _rows(self, texts: dict[bytes, str]) -> tuple[dict[bytes, _Row], list[bytes]]:
        """The rows of distinct texts by their keys, and the keys of those that this call asked the model for."""
        rows = {key: self._cache[key] for key in texts if key in self._cache}
        tasks = {self._pending[key] for key in texts if key in self._pending}
        others = set(tasks)
        new = {key: text for key, text in texts.items() if key not in rows and key not in self._pending}
        if new:
            # A task of its own: a caller that gives up must take no other caller's answer with it.
            task = asyncio.create_task(self._fill(new))
            self._pending |= dict.fromkeys(new, task)
            task.add_done_callback(lambda done: self._finished(list(new), done))
            tasks.add(task)
        for task in tasks:
            try:
                rows |= await asyncio.shield(task)
            except EmbeddingError as error:
                if task not in others or error.kind not in OF_A_TEXT:
                    raise
        asked = list(new)
        if lost := {key: text for key, text in texts.items() if key not in rows}:
            # The other call's request failed, perhaps for another of its texts: these are asked for again.
            again, asked_again = await self._rows(lost)
            rows, asked = rows | again, asked + asked_again
        return rows, asked

    async def _fill(self, texts: dict[bytes, str]) -> dict[bytes, _Row]:
        loop = asyncio.get_running_loop()
        fitted = await loop.run_in_executor(self._counting, self._truncator.fit, list(texts.values()))
        vectors = self._checked(await self._ask(fitted), len(fitted))
        # clone: a row kept must not keep its whole batch.
        rows = {
            key: _Row(vector.clone(), text.shortened, text.tokens)
            for key, vector, text in zip(texts, vectors, fitted, strict=True)
        }
        if self._cache.maxsize:
            self._cache.update(rows)
        return rows

    def _finished(self, keys: Sequence[bytes], task: asyncio.Task[dict[bytes, _Row]]) -> None:
        for key in keys:
            self._pending.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, also where all callers have given up

    def _checked(self, vectors: torch.Tensor, count: int) -> torch.Tensor:
        """(count, D) float32 on the CPU, all finite, D that of the calls before; else EmbeddingError."""
        if vectors.ndim != 2 or len(vectors) != count or vectors.shape[1] == 0:
            raise EmbeddingError("bad_answer", f"{self!r} gave vectors of {tuple(vectors.shape)} for {count} texts")
        if self._dimension not in (None, vectors.shape[1]):
            raise EmbeddingError(
                "bad_answer",
                f"{self!r} gave vectors of {vectors.shape[1]} dimensions after {self._dimension}: is it one model?",
            )
        vectors = vectors.detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(vectors).all()):
            raise EmbeddingError("bad_answer", f"{self!r} gave NaN or infinity in a vector")
        self._dimension = vectors.shape[1]
        return vectors


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()
