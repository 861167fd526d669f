"""The real all-MiniLM-L6-v2 in this process."""

from __future__ import annotations

import asyncio
import builtins
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests.signals.embedding.models import (
    FACTORING,
    MINILM,
    PROBABILITY,
    QUERY_PROMPT,
    TRIANGLE,
    byte_level,
    minilm,
    tiny_qwen3_embedding,
)
from tests.tasks.hostile import HOSTILE_TEXTS
from verl_setpo.set_rl import cosine_kernel, set_loo
from verl_setpo.signals.embedding import Embedded, Embedder, EmbeddingError, build_embedder, read_embedder
from verl_setpo.signals.embedding.truncate import GAP

SOLUTIONS = [*FACTORING, *TRIANGLE, *PROBABILITY]
LONG = "We try another factor of the polynomial, and it fails. " * 100


def local(**keys: Any) -> Embedder:
    return build_embedder("local", {"model": MINILM, **keys})


def run(work: Callable[[Embedder], Awaitable[Any]], **keys: Any) -> Any:
    async def main() -> Any:
        embedder = local(**keys)
        try:
            return await work(embedder)
        finally:
            await embedder.close()

    return asyncio.run(main())


def embed(texts: list[str], **keys: Any) -> Embedded:
    return run(lambda embedder: embedder.embed(texts), **keys)


def encoded(texts: list[str], **keys: Any) -> torch.Tensor:
    """By sentence-transformers itself."""
    return torch.from_numpy(minilm().encode(texts, show_progress_bar=False, **keys))


def close_to(vectors: torch.Tensor, expected: torch.Tensor) -> None:
    # Another batch, another padding: other roundings.
    torch.testing.assert_close(vectors, expected, rtol=0, atol=2e-6)


def test_vectors_are_those_of_sentence_transformers():
    got = embed(SOLUTIONS)
    close_to(got.vectors, encoded(SOLUTIONS))
    assert got.vectors.dtype == torch.float32
    assert got.vectors.shape == (6, 384)
    assert not got.vectors.is_inference()
    assert (got.truncated, got.asked) == (0, 6)
    assert got.tokens == sum(len(minilm().tokenizer(text)["input_ids"]) for text in SOLUTIONS)
    assert got.seconds > 0


def test_a_paraphrase_is_nearer_than_other_mathematics():
    kernel_NN = cosine_kernel(embed(SOLUTIONS).vectors[None])[0]
    same = torch.block_diag(*[torch.ones(2, 2)] * 3).bool()
    pairs = ~torch.eye(6, dtype=torch.bool)
    assert kernel_NN[same & pairs].min() > kernel_NN[~same].max() + 0.1


def test_set_loo_pays_the_one_solution_that_is_different():
    """SetPO, Theorem 4.5, with the embeddings that it is meant for."""
    credit_N = set_loo(cosine_kernel(embed([*FACTORING, FACTORING[0] + " Done.", TRIANGLE[0]]).vectors[None]))[0]
    assert credit_N.argmax() == 3


@pytest.mark.parametrize("batch_tokens", [1, 60, 100000])
def test_batches_and_order_change_nothing(batch_tokens):
    expected = encoded(SOLUTIONS)
    order = [4, 0, 5, 2, 1, 3]
    close_to(embed([SOLUTIONS[i] for i in order], batch_tokens=batch_tokens).vectors, expected[order])


def test_a_long_text_keeps_head_and_tail_within_the_models_limit():
    long, other_end = LONG + "Therefore x = 2.", LONG + "Probability and dice, a triangle: the answer is unknown."
    got = embed([long, "short", other_end])
    assert got.truncated == 2
    assert got.tokens <= 2 * 256 + 3
    head, tail = long[:500], long[-500:]
    assert torch.cosine_similarity(got.vectors[0], encoded([head + GAP + tail])[0], dim=0) > 0.95
    # sentence-transformers alone would drop both ends, and find the two equal.
    assert torch.equal(*encoded([long, other_end]))
    assert torch.cosine_similarity(got.vectors[0], got.vectors[2], dim=0) < 0.99


def test_a_lower_max_tokens_holds():
    got = embed([LONG], max_tokens=40)
    assert (got.truncated, got.tokens <= 40) == (1, True)


def test_hostile_texts_have_finite_vectors_and_empty_ones_are_zero():
    texts = list(HOSTILE_TEXTS.values())
    got = embed(texts, batch_tokens=2048, max_tokens=48)
    assert got.vectors.isfinite().all()
    assert torch.equal((got.vectors == 0).all(-1), torch.tensor([not text.strip() for text in texts]))
    assert cosine_kernel(got.vectors[None]).isfinite().all()


def test_empty_texts_are_not_asked_for_and_their_kernel_is_that_of_zero_vectors():
    got = embed(["", SOLUTIONS[0], " \n\t"])
    assert got.asked == 1
    assert cosine_kernel(got.vectors[None])[0].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_texts_all_empty_or_none_have_the_models_dimension():
    assert torch.equal(embed(["", ""]).vectors, torch.zeros(2, 384))

    async def work(embedder: Embedder) -> tuple[Embedded, Embedded]:
        return await embedder.embed([]), (await embedder.check(), await embedder.embed([]))[1]

    first, second = run(work)
    assert (first.vectors.shape, second.vectors.shape) == ((0, 0), (0, 384))


def test_a_prompt_is_sentence_transformers_prompt():
    prompt = "Instruct: Compare the approach\nQuery: "
    got = embed(SOLUTIONS, prompt=prompt)
    close_to(got.vectors, encoded(SOLUTIONS, prompt=prompt))
    assert not torch.allclose(got.vectors, encoded(SOLUTIONS), atol=1e-3)
    assert got.tokens == sum(len(minilm().tokenizer(prompt + text)["input_ids"]) for text in SOLUTIONS)
    # Its room is reserved.
    assert embed([LONG], prompt=prompt).tokens <= 256


def alone(texts: list[str], folder: Any, prompt: str = "") -> torch.Tensor:
    """By sentence-transformers, text after text, so that nothing is padded."""
    model = SentenceTransformer(str(folder), device="cpu")
    return torch.stack([torch.from_numpy(model.encode(prompt + text, prompt="", batch_size=1)) for text in texts])


def test_a_causal_model_with_left_padding_and_last_token_pooling(tmp_path):
    """Qwen3-Embedding's kind: its last token, never a pad, is pooled, also of shortened texts."""
    tiny_qwen3_embedding(str(tmp_path))
    texts = ["x = 2", FACTORING[0][:60], "so", "We factor."]
    got = embed(texts, model=str(tmp_path), batch_tokens=10**6)
    close_to(got.vectors, alone(texts, tmp_path))
    close_to(got.vectors.norm(dim=-1), torch.ones(4))
    assert got.tokens == sum(len(byte_level()(text)["input_ids"]) for text in texts)
    long = embed([LONG], model=str(tmp_path))
    assert (long.truncated, 60 <= long.tokens <= 64) == (1, True)


@pytest.mark.parametrize("by", ["prompt_name", "the model's default"])
def test_the_models_own_prompt(tmp_path, by):
    tiny_qwen3_embedding(str(tmp_path), default_prompt=None if by == "prompt_name" else "query")
    keys = {"prompt_name": "query"} if by == "prompt_name" else {}
    texts = ["x = 2", "so"]
    got = embed(texts, model=str(tmp_path), **keys)
    close_to(got.vectors, alone(texts, tmp_path, QUERY_PROMPT))
    assert got.tokens == sum(len(byte_level()(QUERY_PROMPT + text)["input_ids"]) for text in texts)
    close_to(embed(texts, model=str(tmp_path), prompt="").vectors, alone(texts, tmp_path))


def test_dimensions_are_the_first_of_the_model():
    close_to(embed(SOLUTIONS, dimensions=64).vectors, encoded(SOLUTIONS)[:, :64])


def test_the_event_loop_runs_while_the_model_computes():
    async def work(embedder: Embedder) -> tuple[float, float]:
        task = asyncio.create_task(embedder.embed([f"{i}. {LONG}" for i in range(24)]))
        longest, last = 0.0, time.perf_counter()
        while not task.done():
            await asyncio.sleep(0.001)
            longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
        return longest, (await task).seconds

    longest, seconds = run(work, batch_tokens=10**6)
    assert longest < seconds / 2


def test_threads_are_limited_in_the_models_thread_alone():
    here = torch.get_num_threads()

    async def work(embedder: Any) -> int:
        await embedder.check()
        return await asyncio.get_running_loop().run_in_executor(embedder._encoding, torch.get_num_threads)

    assert run(work, threads=here + 1) == here + 1
    assert torch.get_num_threads() == here


def test_close_ends_its_threads():
    before = threading.active_count()
    embed(SOLUTIONS[:1])
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_model_that_fails_is_an_error_of_kind_model():
    async def work(embedder: Any) -> Embedded:
        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("CUDA out of memory.\nTried to allocate ...")

        embedder._model.encode = fail
        return await embedder.embed(["a text"])

    with pytest.raises(EmbeddingError, match=r"^model: LocalEmbedder.* failed \(RuntimeError: CUDA out of memory\)$"):
        run(work)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"model": "/no/such"}, r"signal\.model=/no/such cannot be loaded on .*device=cpu"),
        ({"device": "abacus"}, r"signal\.model=.* cannot be loaded on algorithm\.set_rl\.signal\.device=abacus"),
        ({"prompt_name": "riddle"}, r"signal\.prompt_name=riddle is not a prompt of .*; it has query, document\."),
        ({"prompt_name": "query", "prompt": "x"}, r"signal\.prompt and .*prompt_name exclude each other: set one"),
        ({"max_tokens": 257}, r"signal\.max_tokens=257 is more than the 256 that .* takes: lower it, or set it null"),
        ({"max_tokens": 9}, r"signal\.max_tokens=9 leaves 4 tokens for a text .*: set it to 21 or more"),
        ({"dimensions": 385}, r"signal\.dimensions=385 is more than the 384"),
    ],
)
def test_what_the_model_cannot_do_names_the_key(keys, sentence):
    with pytest.raises(ValueError, match=r"^algorithm\.set_rl\." + sentence):
        local(**keys)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({}, r"signal\.model is missing: set it\.$"),
        ({"model": "m", "threads": 0}, r"signal\.threads: Input should be greater than or equal to 1 \(found 0\)\.$"),
        ({"model": "m", "treads": 1}, r"signal\.treads is not a key of this embedder; its keys are part, .*threads\.$"),
        ({"model": "m", "part": "x"}, r"signal\.part: Input should be 'response', .* \(found 'x'\)\.$"),
        ({"model": "m", "head_share": 2}, r"signal\.head_share: .*less than or equal to 1 \(found 2\)\.$"),
    ],
)
def test_a_wrong_key_is_one_sentence(keys, sentence):
    with pytest.raises(ValueError, match=r"^algorithm\.set_rl\." + sentence):
        read_embedder("local", keys)


def test_an_unknown_kind_and_a_missing_package_say_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match=r"signal\.kind=cloud is unknown; the kinds are endpoint, local"):
        build_embedder("cloud", {})
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sentence_transformers"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"needs the package sentence-transformers: pip install verl-setpo\[embed\]"):
        local()
