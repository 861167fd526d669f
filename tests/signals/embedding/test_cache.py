"""What an embedder asks its model for, and what it remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from verl_setpo.signals.embedding import Embedder, EmbeddingError
from verl_setpo.signals.embedding.batching import token_batches
from verl_setpo.signals.embedding.truncate import ByteCounter, Fitted, Truncator


class Letters(Embedder):
    """A model that a test can check in its head: counts of the letters a, b, c."""

    def __init__(self, cache_size: int = 100) -> None:
        super().__init__(Truncator(ByteCounter(), 64), cache_size)
        self.asked: list[list[str]] = []
        self.answer: Any = None
        self.wait = asyncio.Event()
        self.wait.set()

    async def _ask(self, texts: Sequence[Fitted]) -> torch.Tensor:
        self.asked.append([text.text for text in texts])
        await self.wait.wait()
        if self.answer is not None:
            return self.answer
        return torch.tensor([[text.text.count(letter) for letter in "abc"] for text in texts], dtype=torch.float64)


def in_loop(test: Any) -> Any:
    """Run an async test in a loop of its own."""

    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_loop
async def test_repeated_and_known_texts_are_asked_for_once():
    embedder = Letters()
    first = await embedder.embed(["ab", "c", "ab", ""])
    second = await embedder.embed(["c", "aab", "ab"])
    assert embedder.asked == [["ab", "c"], ["aab"]]
    assert first.vectors.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert second.vectors.tolist() == [[0, 0, 1], [2, 1, 0], [1, 1, 0]]
    assert (first.asked, second.asked) == (2, 1)
    assert second.tokens == len("aab") + ByteCounter.SPECIAL
    assert second.vectors.dtype == torch.float32


@in_loop
async def test_calls_at_the_same_time_share_what_they_wait_for():
    embedder = Letters()
    embedder.wait.clear()
    calls = [asyncio.create_task(embedder.embed(["a", text])) for text in "bcb"]
    await asyncio.sleep(0.05)
    embedder.wait.set()
    got = [call.vectors.tolist() for call in await asyncio.gather(*calls)]
    assert sorted(text for texts in embedder.asked for text in texts) == ["a", "b", "c"]
    assert got == [[[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0]]]


@in_loop
async def test_a_caller_that_gives_up_takes_nobodys_answer_with_it():
    embedder = Letters()
    embedder.wait.clear()
    one, other = asyncio.create_task(embedder.embed(["a"])), asyncio.create_task(embedder.embed(["a"]))
    await asyncio.sleep(0.05)
    one.cancel()
    embedder.wait.set()
    assert (await other).vectors.tolist() == [[1, 0, 0]]
    assert len(embedder.asked) == 1


@in_loop
async def test_the_cache_forgets_the_text_used_longest_ago():
    embedder = Letters(cache_size=2)
    for text in ["a", "b", "a", "c", "a", "b"]:
        await embedder.embed([text])
    assert embedder.asked == [["a"], ["b"], ["c"], ["b"]]


@in_loop
async def test_a_call_larger_than_the_cache_is_answered_in_full():
    embedder = Letters(cache_size=2)
    texts = ["a" * i for i in range(1, 10)]
    assert (await embedder.embed(texts)).vectors[:, 0].tolist() == list(range(1, 10))


@in_loop
async def test_a_cache_of_0_keeps_nothing():
    embedder = Letters(cache_size=0)
    assert [(await embedder.embed(["a", "a"])).asked for _ in range(2)] == [1, 1]


@in_loop
async def test_long_texts_that_differ_only_in_the_middle_are_told_apart_and_counted():
    embedder = Letters()
    texts = ["a" * 90 + middle + "b" * 90 for middle in "cd"]
    assert [(await embedder.embed(texts)).truncated for _ in range(2)] == [2, 2]
    assert len(embedder.asked) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(1, 3), r"vectors of \(1, 3\) for 2 texts"),
        (torch.zeros(3, 3), r"vectors of \(3, 3\) for 2 texts"),
        (torch.zeros(6), r"vectors of \(6,\) for 2 texts"),
        (torch.zeros(2, 0), r"vectors of \(2, 0\) for 2 texts"),
        (torch.zeros(2, 4), "vectors of 4 dimensions after 3"),
        (torch.tensor([[1.0, 2.0, 3.0], [1.0, float("nan"), 3.0]]), "NaN or infinity"),
        (torch.full((2, 3), 1e39, dtype=torch.float64), "NaN or infinity"),
    ],
)
def test_a_wrong_answer_is_an_error_and_is_not_remembered(answer, message):
    async def main() -> None:
        embedder = Letters()
        await embedder.embed(["c"])
        embedder.answer = answer
        with pytest.raises(EmbeddingError, match=message) as error:
            await embedder.embed(["a", "b"])
        assert error.value.kind == "bad_answer"
        embedder.answer = None
        assert (await embedder.embed(["a", "b"])).vectors.tolist() == [[1, 0, 0], [0, 1, 0]]

    asyncio.run(main())


@in_loop
async def test_close_ends_calls_under_way():
    embedder = Letters()
    embedder.wait.clear()
    call = asyncio.create_task(embedder.embed(["a"]))
    await asyncio.sleep(0.05)
    await embedder.close()
    with pytest.raises(asyncio.CancelledError):
        await call
    await embedder.close()


def test_batches_keep_order_and_budget():
    assert token_batches([5, 5, 5, 20, 1, 1], 10) == [[0, 1], [2], [3], [4, 5]]
    assert token_batches([1] * 5, 100, max_texts=2) == [[0, 1], [2, 3], [4]]
    assert token_batches([], 10) == []


def test_padded_batches_hold_texts_of_like_length_longest_first():
    assert token_batches([1, 9, 2, 8, 30, 2], 20, padded=True) == [[4], [1, 3], [2, 5, 0]]
