"""Embeddings by an OpenAI-compatible endpoint: vLLM, SGLang, text-embeddings-inference, hosted ones."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Any

import openai
import torch
from pydantic import Field

from verl_setpo.signals.embedding.batching import token_batches
from verl_setpo.signals.embedding.embedder import PROBE, Embedder, EmbeddingError
from verl_setpo.signals.embedding.settings import PREFIX, EmbedderSettings
from verl_setpo.signals.embedding.truncate import ByteCounter, Fitted, TokenCounter, TokenizerCounter, Truncator
from verl_setpo.signals.endpoint import Endpoint, EndpointError, EndpointSettings


class EndpointEmbedderSettings(EndpointSettings, EmbedderSettings):
    """Keys of a served model: those of `EndpointSettings` (base_url, model, api_key_env, ...) and these.

    tokenizer: the model's folder or its name on the hub, to count tokens with; None: one token per UTF-8 byte is
        assumed, which shortens English text three times as early as needed, and fills a third of each batch.
    max_tokens: must not be above what the server takes (vLLM's --max-model-len). Most servers refuse longer texts, some
        drop their end and say nothing. Qwen3-Embedding takes 32,768.
    batch_tokens, batch_texts: of one request. Requests go out in parallel. 32 texts is what text-embeddings-inference
        takes unless told otherwise.
    """

    tokenizer: str | None = None
    max_tokens: int | None = Field(8192, ge=1)
    batch_texts: int = Field(32, ge=1)


class EndpointEmbedder(Embedder):
    """A served embedding model. Retries, limits and keys are `Endpoint`'s."""

    def __init__(self, settings: EndpointEmbedderSettings) -> None:
        """ValueError is one sentence that names the key and the cure; no server is asked yet, see `check`."""
        self.settings = settings
        if settings.max_tokens is None:
            raise ValueError(f"{PREFIX}max_tokens must be set: a server does not say how many tokens its model takes.")
        counter: TokenCounter = TokenizerCounter.load(settings.tokenizer) if settings.tokenizer else ByteCounter()
        self._prompt = settings.prompt or ""
        super().__init__(
            Truncator(counter, settings.max_tokens, self._prompt, settings.head_share), settings.cache_size
        )
        try:
            self.endpoint = Endpoint(settings)
        except ValueError as error:
            raise ValueError(f"{PREFIX}{str(error).rstrip('.')}.") from None

    def __repr__(self) -> str:
        return f"EndpointEmbedder({self.settings.model} at {', '.join(self.settings.urls)})"

    async def check(self) -> None:
        """Ask every server whether it serves the model, and for one embedding; EmbeddingError."""
        try:
            await self.endpoint.check(PREFIX, lambda client: self._create(client, [PROBE]))
        except EndpointError as error:
            failure = EmbeddingError(error.kind, error.message)
        else:
            return await super().check()
        raise failure

    async def _ask(self, texts: Sequence[Fitted]) -> torch.Tensor:
        batches = token_batches(
            [text.tokens for text in texts], self.settings.batch_tokens, max_texts=self.settings.batch_texts
        )
        requests = [asyncio.ensure_future(self._request([texts[i] for i in batch])) for batch in batches]
        try:
            parts = await asyncio.gather(*requests)
        finally:
            for request in requests:
                request.cancel()  # after a failure the others are of no use; a finished one does not mind
        widths = sorted({part.shape[1] for part in parts})
        if len(widths) > 1:
            raise EmbeddingError("bad_answer", f"{self!r} gave vectors of {widths} dimensions: is it one model?")
        return torch.cat(parts)

    async def _request(self, texts: Sequence[Fitted]) -> torch.Tensor:
        """(len(texts), D) float32 by one request and its retries."""
        inputs = [self._prompt + text.text for text in texts]
        try:
            answer = await self.endpoint.call(
                lambda client: self._create(client, inputs), tokens=sum(text.tokens for text in texts)
            )
        except EndpointError as error:
            # Raised below, outside of `except`: nothing of the request, which holds the key, in the chain.
            failure = EmbeddingError(error.kind, error.message)
        else:
            return answer.vectors
        raise failure

    async def _create(self, client: openai.AsyncOpenAI, inputs: list[str]) -> _Answer:
        """One request. What is not an answer is an EndpointError here, so that it is retried, on another server too."""
        response = await client.embeddings.create(
            model=self.settings.model,
            input=inputs,
            dimensions=self.settings.dimensions or openai.omit,
            # Named, the library leaves decoding, and the errors of it, to us. A third of the bytes of decimals.
            encoding_format="base64",
        )
        try:
            return _Answer(_vectors(response, len(inputs)), getattr(response, "usage", None))
        except ValueError as error:
            failure = EndpointError("bad_answer", f"{client.base_url} sent no embeddings ({error})")
        raise failure

    async def close(self) -> None:
        await super().close()
        await self.endpoint.close()


class _Answer:
    """vectors (n, D) float32, and the server's `usage`, which `Endpoint.stats` counts."""

    def __init__(self, vectors: torch.Tensor, usage: Any) -> None:
        self.vectors, self.usage = vectors, usage


def _vectors(response: Any, count: int) -> torch.Tensor:
    """(count, D) float32 in the order of the inputs, of a response that may be anything; ValueError says what is wrong.

    Servers may answer in any order; `index` tells.
    """
    data = getattr(response, "data", None)
    if not isinstance(data, list):
        raise ValueError("no list under data")
    given = {index: item for item in data if type(index := getattr(item, "index", None)) is int}
    if len(data) != count or given.keys() != set(range(count)):
        raise ValueError(f"{len(data)} vectors for {count} texts, or indices that are not 0 to {count - 1}")
    rows = [_vector(getattr(given[i], "embedding", None)) for i in range(count)]
    if len({len(row) for row in rows}) != 1 or len(rows[0]) == 0:
        raise ValueError(f"vectors of {sorted({len(row) for row in rows})} dimensions")
    vectors = torch.stack(rows)
    if not bool(torch.isfinite(vectors).all()):
        raise ValueError("NaN or infinity in a vector")
    return vectors


def _vector(embedding: Any) -> torch.Tensor:
    """(D,) float32 of base64, or of a list of numbers, which servers send that do not know base64."""
    try:
        if isinstance(embedding, str):
            packed = bytearray(base64.b64decode(embedding, validate=True))
            return torch.frombuffer(packed, dtype=torch.float32) if packed else torch.empty(0)
        if isinstance(embedding, list):
            return torch.tensor([float(number) for number in embedding], dtype=torch.float32)
    except (binascii.Error, ValueError, TypeError, OverflowError):
        pass
    raise ValueError("a vector that is neither base64 of 32-bit floats nor a list of numbers")
