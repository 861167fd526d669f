"""The embedder of an endpoint and a real vLLM that serves the real all-MiniLM-L6-v2."""

from __future__ import annotations

import asyncio

import pytest
import torch

from tests.signals.embedding.models import FACTORING, MINILM, PROBABILITY, TRIANGLE, minilm
from verl_setpo.signals.embedding import EmbeddingError, build_embedder

pytestmark = pytest.mark.slow

TEXTS = [*FACTORING, *TRIANGLE, *PROBABILITY]
LIMIT = 256
"""Tokens that the model takes."""


def embed(kind, keys, *calls):
    """What an embedder gives for calls of texts, one after the other, and the embedder."""

    async def main():
        embedder = build_embedder(kind, keys)
        try:
            return [await embedder.embed(texts) for texts in calls], embedder
        finally:
            await embedder.close()

    return asyncio.run(main())


def keys_of(server, **keys):
    base = {"base_url": server.url, "model": server.model, "tokenizer": server.folder, "max_tokens": LIMIT}
    return {**base, "max_retries": 0, **keys}


def cosines(a, b):
    return torch.nn.functional.cosine_similarity(a, b)


def in_process(texts):
    return minilm().encode(texts, convert_to_tensor=True, show_progress_bar=False)


def test_short_texts_have_the_vectors_of_sentence_transformers(vllm_embeddings):
    (result,), embedder = embed("endpoint", keys_of(vllm_embeddings), [*TEXTS, "x", "日本の数学", "[SEP] a\x00b"])
    expected = in_process([*TEXTS, "x", "日本の数学", "[SEP] a\x00b"])
    assert cosines(result.vectors, expected).min() > 0.999
    assert cosines(result.vectors, expected.roll(1, 0)).max() < 0.95  # no other text's
    assert result.truncated == 0
    assert result.tokens == embedder.endpoint.stats.prompt_tokens  # the server counts as we do


def test_long_texts_are_shortened_to_the_models_limit_as_a_local_model_does(vllm_embeddings):
    # Beginning and end differ, so that a vector of the beginning alone is another one.
    texts = [" ".join([*FACTORING * 8, *PROBABILITY]), "x = 3. " * 3000, "日本の数学 " * 400, FACTORING[0]]
    (result,), embedder = embed("endpoint", keys_of(vllm_embeddings), texts)
    (local,), _ = embed("local", {"model": MINILM}, texts)
    assert (result.truncated, local.truncated) == (3, 3)
    assert cosines(result.vectors, local.vectors).min() > 0.999
    assert cosines(result.vectors[:1], in_process(texts[:1])) < 0.99
    assert LIMIT * 2.9 < result.tokens == embedder.endpoint.stats.prompt_tokens


def test_many_texts_go_in_several_requests_and_come_back_in_order(vllm_embeddings):
    texts = [f"{text} Case {i}. " + "So. " * (i * 7 % 60) for i in range(16) for text in TEXTS]
    (first, again), embedder = embed("endpoint", keys_of(vllm_embeddings, batch_texts=20), texts, texts[::-1])
    assert cosines(first.vectors, in_process(texts)).min() > 0.999
    assert torch.equal(again.vectors, first.vectors.flip(0))
    assert (first.asked, again.asked) == (len(texts), 0)
    assert embedder.endpoint.stats.calls == 5  # 96 texts


def test_without_a_tokenizer_no_text_is_too_long(vllm_embeddings):
    texts = ["So the root is 2. " * 300, "日本の数学 " * 400, "1" * 2000]
    (result,), embedder = embed("endpoint", keys_of(vllm_embeddings, tokenizer=None), texts)
    assert result.truncated == 3
    assert embedder.endpoint.stats.prompt_tokens < result.tokens <= 3 * LIMIT


def test_a_limit_above_the_servers_is_refused_with_its_reason(vllm_embeddings):
    with pytest.raises(EmbeddingError, match=rf"^refused: .* maximum context length is {LIMIT} tokens"):
        embed("endpoint", keys_of(vllm_embeddings, max_tokens=LIMIT + 50), ["So the root is 2. " * 300])


def check(keys):
    async def main():
        embedder = build_embedder("endpoint", keys)
        try:
            await embedder.check()
        finally:
            await embedder.close()

    asyncio.run(main())


def test_check_passes_and_names_the_key_of_a_wrong_model(vllm_embeddings):
    check(keys_of(vllm_embeddings))
    with pytest.raises(EmbeddingError) as error:
        check(keys_of(vllm_embeddings, model="all-MiniLM"))
    assert error.value.message == (
        f"algorithm.set_rl.signal.model=all-MiniLM is not served by {vllm_embeddings.url}; it has all-MiniLM-L6-v2."
    )
