"""A shard of the store without Ray: what is started when, what is asked again, what is dropped, and never a stale
verdict."""

from __future__ import annotations

import asyncio
import inspect
import random

import pytest

from verl_setpo.signals.store import Ask, Item, Shard, SignalError, Usage, Work
from verl_setpo.signals.store import shard as shard_module
from verl_setpo.signals.store.shard import TRY_AGAIN


class Scripted(Work):
    """Answers text by text with (number of the call, text), once `gate` is open. `errors` are raised first."""

    whole_group = True

    def __init__(self, whole_group: bool = True) -> None:
        self.whole_group = whole_group
        self.asked: list[tuple[str, ...]] = []
        self.questions: list[str] = []
        self.errors: dict[str, list[SignalError]] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.given_up = 0

    async def check(self):
        return

    async def run(self, question, texts):
        self.asked.append(tuple(texts))
        self.questions.append(question)
        number = len(self.asked)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        for text in texts:
            if self.errors.get(text):
                raise self.errors[text].pop(0)
        return [(number, text) for text in texts]

    def drain(self):
        return Usage(calls=len(self.asked))

    async def close(self):
        return


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def item(uid, session, text="", size=3):
    text = text or f"{uid}{session}"
    return Item(uid, session, text.encode(), f"what of {uid}?", text, size)


def group(uid, count=3, size=None):
    return [item(uid, session, size=size or count) for session in range(count)]


def ask(uid, *sessions, **texts):
    """Of sessions with the text that `item` gives them; s1="x" where it is another."""
    digests = {session: f"{uid}{session}".encode() for session in sessions}
    return Ask(uid, digests | {int(name[1:]): text.encode() for name, text in texts.items()})


def shard_of(work, keep_s=100.0, max_bytes=10**9, clock=None):
    return Shard(work, keep_s, max_bytes, clock or Clock())


async def rest():
    """Let all that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def in_a_loop(test):
    """Run an async test in an event loop of its own."""

    def run(**fixtures):
        asyncio.run(asyncio.wait_for(test(**fixtures), 10))

    run.__name__, run.__doc__, run.__signature__ = test.__name__, test.__doc__, inspect.signature(test)
    return run


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(shard_module, "PAUSE_S", 0.0)


# ---- when work starts


@in_a_loop
async def test_a_group_is_judged_in_one_call_as_soon_as_its_last_rollout_is_there_and_not_before():
    work = Scripted()
    shard = shard_of(work)
    await shard.submit(group("a")[:2])
    await rest()
    assert work.asked == []
    await shard.submit(group("a")[2:])
    await rest()
    assert work.asked == [("a0", "a1", "a2")]
    assert work.questions == ["what of a?"]
    (reply,) = (await shard.collect([ask("a", 0, 1, 2)], 5)).replies
    assert reply.results == [(1, "a0"), (1, "a1"), (1, "a2")]
    assert reply.ready
    assert len(work.asked) == 1


@in_a_loop
async def test_an_embedding_is_asked_for_with_each_rollout():
    work = Scripted(whole_group=False)
    shard = shard_of(work)
    for i, one in enumerate(group("a")):
        await shard.submit([one])
        await rest()
        assert len(work.asked) == i + 1
    (reply,) = (await shard.collect([ask("a", 0, 1, 2)], 5)).replies
    assert reply.results == [(1, "a0"), (2, "a1"), (3, "a2")]
    assert len(work.asked) == 3


@pytest.mark.parametrize("whole_group", [True, False])
@in_a_loop
async def test_the_same_rollout_again_starts_nothing(whole_group):
    work = Scripted(whole_group)
    shard = shard_of(work)
    work.gate.clear()
    await shard.submit(group("a"))
    await rest()
    calls = len(work.asked)
    await shard.submit(group("a"))  # while it is under way
    work.gate.set()
    await rest()
    await shard.submit(group("a"))  # when it is done
    await shard.collect([ask("a", 0, 1, 2)], 5)
    assert len(work.asked) == calls == (1 if whole_group else 3)
    assert work.given_up == 0


@in_a_loop
async def test_results_come_in_the_order_that_was_asked_for_whatever_the_order_of_arrival():
    work = Scripted()
    shard = shard_of(work)
    await shard.submit([item("a", 2), item("a", 0), item("a", 1)])
    (reply,) = (await shard.collect([ask("a", 1, 0, 2)], 5)).replies
    assert [text for _, text in reply.results] == ["a1", "a0", "a2"]


# ---- settle


@in_a_loop
async def test_settle_comes_back_when_the_work_that_the_rollout_started_is_done():
    work = Scripted()
    shard = shard_of(work)
    work.gate.clear()
    await shard.submit(group("a"))
    waiting = asyncio.create_task(shard.settle("a", 2))
    await rest()
    assert not waiting.done()
    work.gate.set()
    await waiting


@in_a_loop
async def test_settle_waits_for_nothing_where_the_rollout_started_nothing():
    work = Scripted()
    shard = shard_of(work)
    work.gate.clear()
    await shard.submit(group("a")[:2])
    await shard.settle("a", 1)
    await shard.settle("unknown", 0)


@in_a_loop
async def test_settle_comes_back_after_a_failure_too():
    work = Scripted()
    work.errors["a0"] = [SignalError("refused", "no")]
    shard = shard_of(work)
    await shard.submit(group("a"))
    await shard.settle("a", 2)


# ---- never a stale verdict


@in_a_loop
async def test_what_is_missing_is_what_never_came_or_came_with_another_text():
    shard = shard_of(Scripted())
    await shard.submit([item("a", 0), item("a", 1, "old")])
    assert shard.missing([ask("a", 0, 1, 2), ask("b", 7)]) == [("a", 1), ("a", 2), ("b", 7)]


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize("judged", [True, False])
@in_a_loop
async def test_another_text_under_the_same_session_gets_a_verdict_of_its_own(whole_group, judged):
    work = Scripted(whole_group)
    shard = shard_of(work)
    if not judged:
        work.gate.clear()
    await shard.submit(group("a"))
    await rest()
    await shard.submit([item("a", 1, "new")])
    work.gate.set()
    (reply,) = (await shard.collect([ask("a", 0, 2, s1="new")], 5)).replies
    texts = {text for _, text in reply.results}
    assert texts == {"a0", "new", "a2"}
    if whole_group:
        assert {number for number, _ in reply.results} == {2}
        assert work.asked[1] == ("a0", "new", "a2")


@in_a_loop
async def test_a_verdict_on_a_text_that_is_gone_is_not_given():
    shard = shard_of(Scripted())
    await shard.submit(group("a"))
    await rest()
    (reply,) = (await shard.collect([ask("a", 0, 2, s1="new")], 5)).replies
    assert reply.results is None
    assert reply.failure.kind == "lost"


@in_a_loop
async def test_clusters_never_come_from_two_verdicts():
    """0 and 1 have a verdict of their own when 2 and 3 come, which are not enough to be judged with them."""
    work = Scripted()
    shard = shard_of(work)
    await shard.submit(group("a", 2))
    await rest()
    await shard.submit([item("a", 2, size=5), item("a", 3, size=5)])
    await rest()
    assert work.asked == [("a0", "a1")]
    (reply,) = (await shard.collect([ask("a", 0, 1, 2, 3)], 5)).replies
    assert [number for number, _ in reply.results] == [2, 2, 2, 2]


@pytest.mark.parametrize("seed", range(30))
@in_a_loop
async def test_whatever_comes_in_whatever_order_a_verdict_is_one_and_of_the_texts_asked_for(seed):
    rng = random.Random(seed)
    work = Scripted()
    shard = shard_of(work)
    held = {}
    for _ in range(rng.randint(1, 12)):
        if rng.random() < 0.3:
            work.gate.clear() if rng.random() < 0.5 else work.gate.set()
        session, text = rng.randrange(4), rng.choice(["x", "y", "z"])
        held[session] = text
        await shard.submit([item("a", session, text, size=rng.randint(1, 5))])
        await rest()
    work.gate.set()
    wanted = rng.sample(sorted(held), rng.randint(1, len(held)))
    (reply,) = (await shard.collect([ask("a", **{f"s{s}": held[s] for s in wanted})], 5)).replies
    assert [text for _, text in reply.results] == [held[s] for s in wanted]
    assert len({number for number, _ in reply.results}) == 1


# ---- groups that are not whole


@in_a_loop
async def test_a_group_whose_rollout_failed_is_judged_with_the_rollouts_that_it_has():
    work = Scripted()
    shard = shard_of(work)
    await shard.submit([item("a", 0, size=4), item("a", 2, size=4), item("a", 3, size=4)])
    await rest()
    assert work.asked == []
    (reply,) = (await shard.collect([ask("a", 0, 2, 3)], 5)).replies
    assert reply.results == [(1, "a0"), (1, "a2"), (1, "a3")]
    assert not reply.ready


@in_a_loop
async def test_a_verdict_on_a_larger_group_answers_for_a_part_of_it():
    work = Scripted()
    shard = shard_of(work)
    await shard.submit(group("a", 4))
    (reply,) = (await shard.collect([ask("a", 1, 3)], 5)).replies
    assert reply.results == [(1, "a1"), (1, "a3")]
    assert len(work.asked) == 1


# ---- failures


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize("kind", TRY_AGAIN)
@in_a_loop
async def test_a_failure_that_passes_is_tried_again(kind, whole_group):
    work = Scripted(whole_group)
    work.errors["a1"] = [SignalError(kind, "away")] * 4
    shard = shard_of(work)
    await shard.submit(group("a"))
    await rest()
    (reply,) = (await shard.collect([ask("a", 0, 1, 2)], 5)).replies
    assert reply.failure is None
    assert [text for _, text in reply.results] == ["a0", "a1", "a2"]
    assert work.asked.count(("a1",)) == 5 or work.asked.count(("a0", "a1", "a2")) == 5
    assert whole_group or work.asked.count(("a0",)) == 1  # what succeeded is not asked again


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize("kind", ["refused", "bad_answer", "model", "internal"])
@in_a_loop
async def test_another_failure_costs_its_own_group_at_once_and_no_other(kind, whole_group):
    work = Scripted(whole_group)
    work.errors["a1"] = [SignalError(kind, "too long")]
    shard = shard_of(work)
    await shard.submit(group("a") + group("b"))
    first, second = (await shard.collect([ask("a", 0, 1, 2), ask("b", 0, 1, 2)], 5)).replies
    assert (first.results, str(first.failure)) == (None, f"{kind}: too long")
    assert (second.failure, [text for _, text in second.results]) == (None, ["b0", "b1", "b2"])
    assert sum("a1" in texts for texts in work.asked) == 1


@in_a_loop
async def test_an_error_of_no_kind_is_internal_and_one_line():
    class Broken(Scripted):
        async def run(self, question, texts):
            raise ZeroDivisionError("in\nthe judge")

    shard = shard_of(Broken())
    await shard.submit(group("a"))
    (reply,) = (await shard.collect([ask("a", 0, 1, 2)], 5)).replies
    assert str(reply.failure) == "internal: ZeroDivisionError: in the judge"


@in_a_loop
async def test_tries_end_when_the_time_is_over():
    """A try takes a second of the clock."""
    clock = Clock()

    class Away(Scripted):
        async def run(self, question, texts):
            self.asked.append(tuple(texts))
            clock.now += 1
            raise SignalError("connection", "away")

    work = Away()
    shard = shard_of(work, clock=clock)
    await shard.submit(group("a", 1))
    await rest()
    (reply,) = (await shard.collect([ask("a", 0)], 5)).replies
    assert str(reply.failure) == "connection: away"
    assert 5 <= len(work.asked) <= 7


@in_a_loop
async def test_collect_waits_for_all_groups_together_no_longer_than_it_may():
    work = Scripted()
    shard = Shard(work, 100.0, 10**9)
    await shard.submit(group("done"))
    await rest()
    work.gate.clear()
    names = [f"slow{i}" for i in range(5)]
    for name in names:
        await shard.submit(group(name))
    start = asyncio.get_running_loop().time()
    collected = await shard.collect([ask(name, 0, 1, 2) for name in [*names, "done"]], 1.0)
    assert asyncio.get_running_loop().time() - start < 4
    *slow, done = collected.replies
    assert {reply.failure.kind for reply in slow} == {"timeout"}
    assert done.results is not None
    await rest()
    assert work.given_up == 5


@in_a_loop
async def test_ready_is_what_was_there_when_it_was_asked_for():
    work = Scripted()
    shard = shard_of(work)
    await shard.submit(group("a"))
    await rest()
    work.gate.clear()
    await shard.submit(group("b"))
    await rest()
    asyncio.get_running_loop().call_later(0.01, work.gate.set)
    replies = (await Shard.collect(shard, [ask("a", 0, 1, 2), ask("b", 0, 1, 2)], 5)).replies
    assert [reply.ready for reply in replies] == [True, False]
    assert all(reply.results for reply in replies)


# ---- what is held, and dropped


@in_a_loop
async def test_what_was_collected_is_dropped_failed_or_not():
    work = Scripted()
    work.errors["b0"] = [SignalError("refused", "no")]
    shard = shard_of(work)
    await shard.submit(group("a") + group("b") + group("c"))
    collected = await shard.collect([ask("a", 0, 1, 2), ask("b", 0, 1, 2)], 5)
    assert (collected.held_groups, collected.dropped) == (1, 0)
    assert collected.held_bytes > 0
    assert shard.missing([ask("a", 0), ask("b", 0), ask("c", 0)]) == [("a", 0), ("b", 0)]
    collected = await shard.collect([ask("c", 0, 1, 2)], 5)
    assert (collected.held_groups, collected.held_bytes, collected.dropped) == (0, 0, 0)


@in_a_loop
async def test_what_nobody_collects_is_dropped_after_keep_s_without_news():
    clock = Clock()
    work = Scripted()
    shard = shard_of(work, keep_s=10, clock=clock)
    await shard.submit([item("b", 0), item("a", 0)])
    clock.now += 8
    await shard.submit([item("b", 1)])
    clock.now += 3
    await shard.submit([item("c", 0)])
    assert shard.missing([ask("a", 0), ask("b", 0, 1), ask("c", 0)]) == [("a", 0)]
    collected = await shard.collect([], 5)
    assert (collected.held_groups, collected.dropped) == (2, 1)
    clock.now += 11
    collected = await shard.collect([], 5)
    assert (collected.held_groups, collected.dropped) == (0, 2)  # since the last collect


@in_a_loop
async def test_beyond_the_memory_the_oldest_go_first_and_their_work_ends():
    work = Scripted()
    work.gate.clear()
    shard = shard_of(work, max_bytes=3_200_000)
    for uid in "abcd":
        await shard.submit([Item(uid, 0, uid.encode(), "", "x" * 1_000_000, 1)])
        await rest()
    assert shard.missing([Ask(uid, {0: uid.encode()}) for uid in "abcd"]) == [("a", 0)]
    await rest()
    assert work.given_up == 1
    collected = await shard.collect([], 5)
    assert (collected.held_groups, collected.dropped) == (3, 1)
    assert 3_000_000 < collected.held_bytes <= 3_200_000


@pytest.mark.parametrize("seed", range(10))
@in_a_loop
async def test_the_bytes_held_are_those_of_the_texts_held(seed):
    """Whatever came, was replaced or dropped: a shard that gets the same again holds the same."""
    rng = random.Random(seed)
    shard = shard_of(Scripted(), max_bytes=60_000)
    latest = {}
    for _ in range(60):
        uid, session = rng.choice("abcdef"), rng.randrange(3)
        text = "x" * rng.randint(1, 9000)
        latest[uid, session] = text
        await shard.submit([item(uid, session, text)])
        if rng.random() < 0.1:
            await shard.collect([ask(rng.choice("abcdef"), 0)], 5)
    held = [key for key in latest if not shard.missing([ask(key[0], **{f"s{key[1]}": latest[key]})])]
    fresh = shard_of(Scripted())
    await fresh.submit([item(uid, session, latest[uid, session]) for uid, session in held])
    ours, again = await shard.collect([], 5), await fresh.collect([], 5)
    assert (ours.held_groups, ours.held_bytes) == (again.held_groups, again.held_bytes)
    assert ours.held_bytes <= 60_000


@in_a_loop
async def test_a_group_dropped_while_it_is_collected_is_answered_all_the_same():
    """Rollouts of the next step come in meanwhile, and need its memory."""
    work = Scripted()
    work.gate.clear()
    shard = shard_of(work, max_bytes=3_200_000)
    await shard.submit([Item("a", 0, b"a", "", "x" * 1_000_000, 1)])
    collecting = asyncio.create_task(shard.collect([Ask("a", {0: b"a"})], 5))
    await rest()
    for uid in "bcd":
        await shard.submit([Item(uid, 0, uid.encode(), "", "x" * 1_000_000, 1)])
    work.gate.set()
    (reply,) = (await collecting).replies
    assert reply.failure is None
    assert reply.results[0][1] == "x" * 1_000_000


@in_a_loop
async def test_after_close_nothing_works_on():
    work = Scripted()
    work.gate.clear()
    shard = shard_of(work)
    await shard.submit(group("a"))
    await rest()
    await shard.close()
    await rest()
    assert work.given_up == 1


@pytest.mark.parametrize("whole_group", [True, False])
@in_a_loop
async def test_another_response_that_comes_while_the_group_is_waited_for_gives_no_result_of_its_text(whole_group):
    work = Scripted(whole_group)
    work.gate.clear()
    shard = shard_of(work)
    await shard.submit(group("a", 2))
    waiting = asyncio.create_task(shard.collect([ask("a", 0, 1)], 5.0))
    await rest()
    await shard.submit([item("a", 0, "from elsewhere", size=2)])
    await rest()
    work.gate.set()
    (reply,) = (await waiting).replies
    assert reply.results is None
    assert reply.failure.kind == "lost"


@in_a_loop
async def test_a_question_is_held_once_for_a_group_and_counted():
    shard = shard_of(Scripted())
    question = "q" * 100_000
    await shard.submit([Item("a", s, b"%d" % s, question, "text", 4) for s in range(3)])
    collected = await shard.collect([], 0.0)
    assert 100_000 < collected.held_bytes < 150_000
