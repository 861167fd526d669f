"""Texts that come within a moment of each other share a request, and none of them pays for another."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from fastapi import Response

from tests.signals.embedding.models import FACTORING, TRIANGLE, minilm
from tests.signals.embedding.server import MODEL, embedding_server, unpacked
from tests.signals.store.test_shard import in_a_loop
from verl_setpo.signals.embedding.signal import EmbeddingWork
from verl_setpo.signals.store import Ask, Batcher, Item, Shard, SignalError


class Upper:
    """Answers in capitals; a text in `spoiled` fails every request that it is in."""

    def __init__(self, kind="refused", spoiled=()):
        self.kind, self.spoiled = kind, spoiled
        self.asked = []

    async def __call__(self, texts):
        self.asked.append(list(texts))
        await asyncio.sleep(0)
        if any(text in self.spoiled for text in texts):
            raise SignalError(self.kind, "not this")
        return [text.upper() for text in texts]


def outcome(result):
    return str(result) if isinstance(result, Exception) else result


async def all_at_once(batcher, texts):
    return [outcome(r) for r in await asyncio.gather(*(batcher(t) for t in texts), return_exceptions=True)]


@in_a_loop
async def test_what_comes_at_once_is_one_call_and_each_gets_its_own_result():
    upper = Upper()
    batcher = Batcher(upper, 0.001)
    assert await all_at_once(batcher, ["a", "b", "a"]) == ["A", "B", "A"]
    assert upper.asked == [["a", "b", "a"]]
    assert await batcher("c") == "C"
    assert upper.asked[1:] == [["c"]]


@in_a_loop
async def test_a_later_call_joins_those_that_still_wait_and_no_call_under_way():
    upper = Upper()
    batcher = Batcher(upper, 0.02)
    first = asyncio.create_task(batcher("a"))
    await asyncio.sleep(0.005)
    second = asyncio.create_task(batcher("b"))
    assert (await first, await second) == ("A", "B")
    assert upper.asked == [["a", "b"]]


@pytest.mark.parametrize("spoiled", range(7))
@pytest.mark.parametrize("kind", Batcher.OF_THE_TEXT)
@in_a_loop
async def test_a_text_that_spoils_a_request_fails_alone(kind, spoiled):
    texts = list("abcdefg")
    upper = Upper(kind, spoiled=texts[spoiled])
    results = await all_at_once(Batcher(upper, 0.001), texts)
    expected = [text.upper() for text in texts]
    expected[spoiled] = f"{kind}: not this"
    assert results == expected
    assert len(upper.asked) <= 1 + 2 * 3


@in_a_loop
async def test_of_several_spoiled_texts_each_fails_and_no_other():
    results = await all_at_once(Batcher(Upper(spoiled="bcf"), 0.001), "abcdefg")
    assert [r if len(r) == 1 else "!" for r in results] == ["A", "!", "!", "D", "E", "!", "G"]


@pytest.mark.parametrize("kind", ["connection", "rate_limit", "server", "timeout"])
@in_a_loop
async def test_a_server_that_is_away_is_not_asked_text_by_text(kind):
    upper = Upper(kind, spoiled="abcd")
    assert await all_at_once(Batcher(upper, 0.001), "abcd") == [f"{kind}: not this"] * 4
    assert len(upper.asked) == 1


@in_a_loop
async def test_what_was_given_up_is_not_asked_for():
    upper = Upper()
    batcher = Batcher(upper, 0.005)
    given_up, waiting = asyncio.create_task(batcher("a")), asyncio.create_task(batcher("b"))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await waiting == "B"
    assert upper.asked == [["b"]]


@in_a_loop
async def test_one_that_gives_up_during_the_call_takes_nothing_from_the_others():
    gate = asyncio.Event()

    async def run(texts):
        await gate.wait()
        return texts

    batcher = Batcher(run, 0.0)
    given_up, waiting = asyncio.create_task(batcher("a")), asyncio.create_task(batcher("b"))
    await asyncio.sleep(0.01)
    given_up.cancel()
    gate.set()
    assert await waiting == "b"


# ---- with a real embedder behind it


@pytest.fixture(scope="module")
def server():
    with embedding_server() as running:
        yield running


@pytest.fixture
def work_of(server):
    server.fault, server.seconds = None, 0.0
    server.inputs.clear()

    def make(**keys):
        return EmbeddingWork("endpoint", {"base_url": server.url, "model": MODEL, "max_retries": 0, **keys})

    return make


def refuses(server, text):
    """Every request that holds `text`, which is known by its vector: the server answers several at a time."""
    vector = minilm().encode(text)
    refusal = Response('{"error": {"message": "too long"}}', 400, media_type="application/json")

    def fault(right):
        return (
            refusal if any(np.allclose(unpacked(r["embedding"]), vector, atol=1e-4) for r in right["data"]) else right
        )

    server.fault = fault


def item(uid, session, text):
    return Item(uid, session, text.encode(), "", text, 2)


def ask(uid, *texts):
    return Ask(uid, {session: text.encode() for session, text in enumerate(texts)})


@in_a_loop
async def test_rollouts_that_finish_together_share_a_request_and_later_ones_do_not(work_of, server):
    work = work_of()
    shard = Shard(work, 100, 10**9)
    a, b = FACTORING
    await shard.submit([item("p", 0, a)])
    await asyncio.sleep(0.005)
    await shard.submit([item("q", 0, TRIANGLE[0])])
    await shard.settle("p", 0)
    await shard.submit([item("p", 1, b)])
    await shard.settle("p", 1)
    assert server.inputs == [[a, TRIANGLE[0]], [b]]
    collected = await shard.collect([ask("p", a, b)], 5)
    np.testing.assert_allclose(np.stack(collected.replies[0].results), minilm().encode([a, b]), atol=1e-5)
    assert (collected.usage.calls, collected.usage.asked, collected.usage.cached) == (2, 3, 0)
    await shard.close()


@in_a_loop
async def test_one_text_that_the_server_refuses_costs_its_own_group_only(work_of, server):
    refuses(server, "POISON")
    work = work_of()
    shard = Shard(work, 100, 10**9)
    for uid, texts in {"p": FACTORING, "q": ["POISON", TRIANGLE[0]], "r": TRIANGLE}.items():
        await shard.submit([item(uid, session, text) for session, text in enumerate(texts)])
    asks = [ask("p", *FACTORING), ask("q", "POISON", TRIANGLE[0]), ask("r", *TRIANGLE)]
    p, q, r = (await shard.collect(asks, 5)).replies
    assert len(server.inputs[0]) == 5  # equal texts once, all in one request
    assert (p.failure, r.failure) == (None, None)
    assert q.failure.kind == "refused"
    assert "too long" in str(q.failure)
    await shard.close()


@in_a_loop
async def test_a_text_that_waits_for_the_same_text_of_another_request_does_not_share_its_failure(work_of, server):
    """p's answer is under way in one request with q's refused text when r comes with the same answer as p."""
    refuses(server, "POISON")
    server.seconds = 0.1
    work = work_of()
    shard = Shard(work, 100, 10**9)
    await shard.submit([item("p", 0, "the answer is 7"), item("q", 0, "POISON")])
    while not server.inputs:
        await asyncio.sleep(0.005)
    await shard.submit([item("r", 0, "the answer is 7")])
    p, q, r = (
        await shard.collect([ask("p", "the answer is 7"), ask("q", "POISON"), ask("r", "the answer is 7")], 5)
    ).replies
    assert q.failure.kind == "refused"
    assert (p.failure, r.failure) == (None, None)
    np.testing.assert_array_equal(p.results[0], r.results[0])
    await shard.close()


@in_a_loop
async def test_equal_texts_are_asked_for_once_and_counted_as_hits(work_of, server):
    work = work_of()
    shard = Shard(work, 100, 10**9)
    await shard.submit([item("p", 0, "seven"), item("p", 1, "seven")])
    first = await shard.collect([ask("p", "seven", "seven")], 5)
    await shard.submit([item("q", 0, "seven")])
    second = await shard.collect([ask("q", "seven")], 5)
    assert server.inputs == [["seven"]]
    assert (first.usage.calls, first.usage.cached) == (1, 1)
    assert (second.usage.calls, second.usage.cached) == (0, 1)
    await shard.close()


def broken(change):
    return lambda right: {**right, "data": [{**row, "embedding": change(row["embedding"])} for row in right["data"]]}


@pytest.mark.parametrize(
    "change",
    [lambda e: [float("nan")] * 384, lambda e: [1.0] * 8, lambda e: None],
    ids=["NaN", "another dimension", "nothing"],
)
@in_a_loop
async def test_a_wrong_vector_costs_its_group_and_right_ones_after_it_none(work_of, server, change):
    def fault(right):
        made = broken(change)(right)
        return Response(json.dumps(made), media_type="application/json")

    work = work_of()
    await work.check()
    shard = Shard(work, 100, 10**9)
    server.fault = fault
    await shard.submit([item("p", 0, "one way")])
    (bad,) = (await shard.collect([ask("p", "one way")], 5)).replies
    server.fault = None
    await shard.submit([item("p", 0, "one way")])
    (good,) = (await shard.collect([ask("p", "one way")], 5)).replies
    assert bad.failure.kind == "bad_answer"
    np.testing.assert_allclose(good.results[0], minilm().encode("one way"), atol=1e-5)
    await shard.close()


@in_a_loop
async def test_a_text_of_nothing_is_not_sent_and_has_the_zero_vector(work_of, server):
    work = work_of()
    shard = Shard(work, 100, 10**9)
    await shard.submit([item("p", 0, " \n"), item("p", 1, "one way")])
    (reply,) = (await shard.collect([ask("p", " \n", "one way")], 5)).replies
    assert server.inputs == [["one way"]]
    assert not reply.results[0].any()
    assert reply.results[0].shape == reply.results[1].shape == (384,)
    await shard.close()


def test_texts_that_met_a_failure_of_the_server_are_asked_for_alone_next_time():
    """Through verl's router a text that is refused looks like a server that fails."""
    asked = []

    async def run(texts):
        asked.append(list(texts))
        if "bad" in texts:
            raise SignalError("server", "500")
        return [text.upper() for text in texts]

    async def main():
        batcher = Batcher(run, 0.001)
        for _ in range(2):
            results = await asyncio.gather(*(batcher(t) for t in ("a", "bad", "b")), return_exceptions=True)
        return results

    first, bad, last = asyncio.run(main())
    assert (first, last, bad.kind) == ("A", "B", "server")
    assert asked == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]


def test_a_worker_that_gives_too_few_results_holds_nobody_up():
    async def run(texts):
        return ["one"]

    async def main():
        batcher = Batcher(run, 0.001)
        return await asyncio.wait_for(asyncio.gather(batcher("a"), batcher("b"), return_exceptions=True), 5)

    # Halved, each has its one result.
    assert asyncio.run(main()) == ["one", "one"]
