"""The store as real Ray actors, both of its ends, with a judge behind a real HTTP server that asks for a key."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal as signals
import time

import pytest
import ray
import torch
from fastapi.responses import StreamingResponse

from tests.conftest import KEY, KEY_ENV, WRONG_KEY, WRONG_KEY_ENV
from tests.signals.fake_server import fails, says, serve
from tests.signals.judge.test_judge import by_first_word, seen
from verl_setpo.signals import Rollout, Run, build_signal

WAIT_S = 20
TEXTS = ("factor 1", "formula 1", "factor 2")
CLUSTERS = [0, 1, 0]


@pytest.fixture(scope="module")
def server():
    with serve(by_first_word, key=KEY) as running:
        yield running


def judge_of(server, **keys):
    """A judge that asks once and leaves further tries to the store."""
    fast = {"max_retries": 0, "bad_answer_retries": 0, "timeout_s": 10, "wait_s": WAIT_S, "shards": 3, "concurrency": 3}
    return build_signal("judge", {"base_url": server.url, "model": "judge", "api_key_env": KEY_ENV, **fast, **keys})


@pytest.fixture(scope="module")
def started(ray_logs, server):
    """The trainer's end, with its three actors."""
    judge = judge_of(server)
    judge.start(Run("test_store"))
    yield judge
    judge.close()


@pytest.fixture
def judge(started, server):
    server.then.clear()
    server.always = by_first_word
    started.collect([])  # what an earlier test left of figures
    server.asked.clear()
    server.most_in_flight = 0
    return started


def worker_end(server, **keys):
    judge = judge_of(server, **keys)
    judge.bind(Run("test_store"))
    return judge


def rollout(uid, session, text, size=3):
    return Rollout(uid, session, torch.tensor([ord(c) for c in text]), "", lambda: text, "Solve it.", size)


def group(uid, texts=TEXTS, size=None):
    return [rollout(uid, i, f"{text} of {uid}", size or len(texts)) for i, text in enumerate(texts)]


def submit(judge, rollouts, settle=False):
    """As a reward worker does; the seconds that each took."""

    async def main():
        seconds = []
        for one in rollouts:
            start = time.monotonic()
            await judge.submit(one, settle)
            seconds.append(time.monotonic() - start)
        await asyncio.sleep(0)
        return seconds

    return asyncio.run(main())


def until(condition, seconds=WAIT_S):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


class Held:
    """An answer that comes once `let_go` is called: a byte now and then before."""

    def __init__(self, answer=by_first_word):
        self.answer, self.free = answer, False

    def __call__(self, body):
        async def slowly():
            while not self.free:
                yield b" "
                await asyncio.sleep(0.01)
            yield self.answer(body).body

        return StreamingResponse(slowly(), media_type="application/json")

    def let_go(self):
        self.free = True


def uids_of_shard(judge, index, count):
    found = (f"uid{index}-{i}-{time.monotonic_ns()}" for i in range(10_000))
    return [uid for uid in found if judge._store._index(uid) == index][:count]


def pid_of(judge, index):
    return ray.get(judge._store._actor(index).__ray_call__.remote(lambda self: os.getpid()))


def kill_process(judge, index):
    os.kill(pid_of(judge, index), signals.SIGKILL)


def kill_actor(judge, index):
    ray.kill(judge._store._actor(index))


def kill_process_and_actor(judge, index):
    kill_process(judge, index)
    kill_actor(judge, index)


def as_they_appear(clusters):
    """The same clusters, numbered by first appearance: a verdict numbers them in the order of arrival."""
    distinct = list(dict.fromkeys(clusters))
    return [distinct.index(c) if c >= 0 else c for c in clusters]


def assert_judged(batch, *groups):
    assert batch.failures == (None,) * len(groups)
    assert [as_they_appear(row) for row in batch.clusters_PN.tolist()] == [CLUSTERS] * len(groups)
    for notes in batch.notes:
        assert notes == ["by factor", "by formula", "by factor"]


# ---- submit


def test_submit_returns_before_the_server_answers_and_collect_finds_the_verdict_ready(judge, server):
    worker, held = worker_end(server), Held()
    server.then = [held]
    seconds = submit(worker, group("early"))
    until(lambda: server.asked)  # nobody collects
    assert not held.free
    assert max(seconds) < 5
    held.let_go()
    submit(worker, [rollout("early", 2, "factor 2 of early")], settle=True)
    assert_judged(judge.collect([group("early")]), "early")
    assert len(server.asked) == 1
    assert sorted(seen(server.asked[0]).values()) == sorted(r.text() for r in group("early"))
    assert "Solve it." in server.asked[0]["messages"][-1]["content"]
    found = judge.metrics()
    assert (found["ready"], found["sent_again"], found["calls"]) == (1, 0, 1)


def test_settle_returns_when_the_work_that_the_rollout_started_is_done(judge, server):
    worker = worker_end(server)
    submit(worker, group("settled"), settle=True)
    assert len(server.asked) == 1
    judge.collect([group("settled")])
    assert judge.metrics()["ready"] == 1


def test_settle_returns_no_later_than_wait_s(judge, server):
    held = Held()
    server.then = [held]
    worker = worker_end(server, wait_s=0.5)
    *first, last = submit(worker, group("late"), settle=True)
    held.let_go()
    assert max(first) < 0.5 <= last < 2
    assert_judged(judge.collect([group("late")]), "late")


# ---- collect


def test_what_was_never_submitted_is_sent_at_collect_and_counted(judge, server):
    submit(worker_end(server), group("half")[:1], settle=True)
    assert_judged(judge.collect([group("half"), group("none")]), "half", "none")
    found = judge.metrics()
    assert (found["sent_again"], found["ready"], found["calls"]) == (5, 0, 2)


def test_what_collect_sends_is_there_when_it_asks_for_it(judge, server):
    """Ray starts the calls of an asynchronous actor in any order."""
    for i in range(100):
        batch = judge.collect([[rollout(f"order{i}-{p}", 0, "factor", 1)] for p in range(3)])
        assert batch.failures == (None, None, None)
    assert judge.metrics()["held_groups"] == 0
    worker = worker_end(server)
    for i in range(30):
        calls = len(server.asked)
        submit(worker, [rollout("settles", i, f"way {i}", 1)], settle=True)
        assert len(server.asked) == calls + 1
    judge.collect([[rollout("settles", i, f"way {i}", 1) for i in range(30)]])


def test_a_group_whose_rollout_failed_is_judged_with_the_rollouts_that_it_has(judge, server):
    """Four were to come, three did."""
    submit(worker_end(server), group("three", size=4), settle=True)
    assert_judged(judge.collect([group("three", size=3)]), "three")
    assert judge.metrics()["sent_again"] == 0


def test_another_text_under_the_same_session_is_judged_anew(judge, server):
    submit(worker_end(server), group("restarted", ("junk", "junk", "junk")), settle=True)
    assert_judged(judge.collect([group("restarted")]), "restarted")
    assert judge.metrics()["sent_again"] == 3


def test_a_server_that_is_away_for_less_than_wait_s_costs_no_group(judge, server):
    server.then = [fails(503), fails(429)]
    submit(worker_end(server), group("away"))
    until(lambda: server.asked)
    assert_judged(judge.collect([group("away")]), "away")
    found = judge.metrics()
    assert (found["calls"], found["failed_calls"]) == (3, 2)
    assert (found["failed_calls/server"], found["failed_calls/rate_limit"]) == (1, 1)
    assert found["ready"] == 0
    assert not [name for name in found if name.startswith("failed_groups/")]


@pytest.mark.parametrize(("answer", "kind"), [(fails(400, "too long"), "refused"), (says("{}"), "bad_answer")])
def test_another_failure_costs_its_group_only_and_says_why(judge, server, answer, kind):
    server.always = lambda body: (answer if "poison" in str(body["messages"]) else by_first_word)(body)
    batch = judge.collect([group(f"good {kind}"), group(f"poison {kind}"), group(f"fine {kind}")])
    assert (batch.failures[0], batch.failures[2]) == (None, None)
    assert batch.failures[1].startswith(f"{kind}: ")
    assert batch.clusters_PN.tolist() == [CLUSTERS, [-1, -1, -1], CLUSTERS]
    assert batch.notes[1] == ["", "", ""]
    assert judge.metrics()[f"failed_groups/{kind}"] == 1
    assert judge.metrics()["parse_rate"] == pytest.approx(2 / 3 if kind == "bad_answer" else 1)


def test_collect_waits_no_longer_than_wait_s_and_the_other_groups_have_their_verdicts(started, judge, server):
    impatient = worker_end(server, wait_s=1.0)
    held = Held()
    server.always = lambda body: (held if "never" in str(body["messages"]) else by_first_word)(body)
    start = time.monotonic()
    batch = impatient.collect([group("quick"), group("never")])
    seconds = time.monotonic() - start
    held.let_go()
    assert 0.9 < seconds < 10
    assert batch.failures[0] is None
    assert batch.failures[1].startswith("timeout: ")
    assert 0.9 < impatient.metrics()["collect_wait_s"] <= seconds


def test_figures_are_of_one_collect_and_what_waits_for_the_next_one_is_held(judge, server):
    submit(worker_end(server), group("now") + group("next"), settle=True)
    judge.collect([group("now")])
    first = judge.metrics()
    judge.collect([group("next")])
    second = judge.metrics()
    assert (first["held_groups"], second["held_groups"]) == (1, 0)
    assert first["held_mb"] > 0 == second["held_mb"]
    assert first["calls"] + second["calls"] == 2
    assert (first["prompt_tokens"], first["completion_tokens"]) == (20, 10)
    assert (second["calls"], second["prompt_tokens"], second["dropped_groups"]) == (0, 0, 0)
    assert second["ready"] == 1
    assert 0 < first["seconds/p50"] <= first["seconds/p95"] < 10
    judge.collect([])
    assert "seconds/p50" not in judge.metrics()


def test_the_same_texts_again_are_no_second_call(judge, server):
    one, other = uids_of_shard(judge, 0, 2)
    texts = [rollout(one, i, text) for i, text in enumerate(TEXTS)]
    again = [rollout(other, i, text) for i, text in enumerate(reversed(TEXTS))]
    judge.collect([texts])
    assert judge.metrics()["cache_hits"] == 0
    batch = judge.collect([again])
    assert batch.clusters_PN.tolist() == [[0, 1, 0]]
    assert (judge.metrics()["cache_hits"], judge.metrics()["calls"]) == (1, 0)
    assert len(server.asked) == 1


def test_of_a_server_that_sleeps_nothing_is_asked_at_collect(judge, server, monkeypatch):
    monkeypatch.setattr(judge, "_asleep", True)
    start = time.monotonic()
    batch = judge.collect([group("never-seen")])
    assert time.monotonic() - start < 5
    assert batch.failures[0].startswith("lost: ")
    assert not server.asked


# ---- shards


def test_rollouts_of_a_prompt_go_to_one_shard_and_prompts_to_all(judge, server):
    groups = [group(f"spread{i}") for i in range(12)]
    submit(worker_end(server), [one for members in zip(*groups, strict=True) for one in members], settle=True)
    held = ray.get(
        [
            judge._store._actor(i).__ray_call__.remote(
                lambda self: {} if self._made is None else {u: len(g.items) for u, g in self._made._groups.items()}
            )
            for i in range(3)
        ]
    )
    assert all(held)
    assert {uid: count for shard in held for uid, count in shard.items()} == {g[0].uid: 3 for g in groups}
    assert sum(map(len, held)) == 12
    assert_judged(judge.collect(groups), *groups)
    assert judge.metrics()["ready"] == 1


def test_all_shards_together_keep_to_the_limit_of_requests_in_flight(judge, server):
    """concurrency=3 over 3 shards."""
    groups = [group(f"many{i}") for i in range(30)]
    assert_judged(judge.collect(groups), *groups)
    assert server.most_in_flight <= 3


@pytest.mark.parametrize(("limit", "part"), [("concurrency", 4), ("requests_per_minute", 33), ("tokens_per_minute", 1)])
def test_limits_are_divided_among_the_shards(server, limit, part):
    given = {"concurrency": 12, "requests_per_minute": 100, "tokens_per_minute": 2}
    judge = judge_of(server, **given)
    (settings,) = judge._work(Run("x"), 3).args
    assert getattr(settings, limit) == part
    embedder = build_signal("embedding", {"base_url": server.url, "model": "m", **given})
    _, keys = embedder._work(Run("x"), 3).args
    assert keys[limit] == part


def test_trouble_with_one_shard_costs_the_groups_of_no_other(judge, server, monkeypatch):
    store, broken = judge._store, judge._store._index("a")
    collect_one = type(store)._collect_one

    def breaks(self, index, *rest):
        if index == broken:
            raise ray.exceptions.ObjectLostError("00", "owner", "call site")
        return collect_one(self, index, *rest)

    monkeypatch.setattr(type(store), "_collect_one", breaks)
    uids = ["a", *(f"b{i}" for i in range(20))]
    batch = judge.collect([group(uid) for uid in uids])
    for uid, failure in zip(uids, batch.failures, strict=True):
        assert (failure is not None) == (store._index(uid) == broken)
        assert failure is None or "ObjectLostError" in failure


# ---- killed actors


@pytest.mark.parametrize("kill", [kill_process, kill_actor, kill_process_and_actor])
def test_a_killed_actor_costs_no_group_and_later_rollouts_reach_the_one_in_its_place(judge, server, kill, caplog):
    index = [kill_process, kill_actor, kill_process_and_actor].index(kill)
    worker = worker_end(server)
    one, two, three = (group(uid) for uid in uids_of_shard(judge, index, 3))
    other = group(uids_of_shard(judge, (index + 1) % 3, 1)[0])
    submit(worker, one + two[:2] + other, settle=True)
    kill(judge, index)
    assert_judged(judge.collect([one, two, other]), one, two, other)
    found = judge.metrics()
    # Of the other shard nothing was lost. An actor that is about to die may still say what it lacks.
    assert found["sent_again"] in (6, 7)
    assert found["ready"] == pytest.approx(1 / 3)
    caplog.clear()
    gc.collect()  # Ray ends an actor whose first handle is gone, also where it has just restarted it
    # The worker still has the handle of the one that died: what that costs is sent again, at the latest.
    submit_until_taken(worker, three)
    assert_judged(judge.collect([three]), three)
    assert (judge.metrics()["sent_again"], judge.metrics()["ready"]) == (0, 1)
    assert "is gone" not in caplog.text


def submit_until_taken(worker, rollouts):
    """Until the shard has them all: a handle that has died is noticed by the first submit that fails."""

    async def main():
        for _ in range(100):
            for one in rollouts:
                await worker.submit(one, settle=True)
            index = worker._store._index(rollouts[0].uid)
            asks = [(one.uid, one.session) for one in rollouts]
            try:
                held = await worker._store._actor(index).__ray_call__.remote(
                    lambda self: [(u, s) for u, g in self._made._groups.items() for s in g.items]
                )
            except ray.exceptions.RayError:
                held = []
            if set(asks) <= set(held):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the shard never took them")

    asyncio.run(main())


def test_an_actor_killed_while_the_trainer_waits_for_it_costs_no_group(judge, server):
    (uid,) = uids_of_shard(judge, 2, 1)
    held = Held()
    server.then = [lambda body: (kill_now(), held(body))[1]]
    pid = pid_of(judge, 2)

    def kill_now():
        os.kill(pid, signals.SIGKILL)

    try:
        assert_judged(judge.collect([group(uid)]), uid)
    finally:
        held.let_go()
    assert judge.metrics()["sent_again"] == 6  # three, twice
    assert len(server.asked) == 2


def test_settle_comes_back_when_the_actor_dies_over_the_work(judge, server):
    (uid,) = uids_of_shard(judge, 0, 1)
    held, pid = Held(), pid_of(judge, 0)
    server.then = [lambda body: (os.kill(pid, signals.SIGKILL), held(body))[1]]
    seconds = submit(worker_end(server), group(uid), settle=True)
    held.let_go()
    assert max(seconds) < WAIT_S / 2
    assert_judged(judge.collect([group(uid)]), uid)


# ---- start


def test_start_raises_what_is_wrong_and_shows_no_key(ray_logs, server):
    judge = judge_of(server, api_key_env=WRONG_KEY_ENV, shards=1)
    with pytest.raises(
        ValueError, match=r"^algorithm\.set_rl\.signal\.base_url=.* refuses the key: .*api_key_env"
    ) as e:
        judge.start(Run("test_store_wrong_key"))
    assert WRONG_KEY not in str(e.value) + repr(e.value.__context__) + repr(e.value.__cause__)
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor("verl_setpo_test_store_wrong_key_0")


# ---- keys


def test_the_key_is_sent_to_the_server_and_shown_nowhere(judge, server, ray_logs, caplog, capfd):
    """The server repeats the key in every failure. Last of this module: Ray's logs are of all tests before, too."""
    shown = fails(400, f"bad request with Bearer {KEY}", code=KEY)
    server.always = lambda body: (shown if "poison" in str(body["messages"]) else by_first_word)(body)
    with caplog.at_level(logging.DEBUG):
        worker = worker_end(server)
        submit(worker, group("poison k") + group("fine k"), settle=True)
        batch = judge.collect([group("poison k"), group("fine k")])
        server.then = [fails(500, KEY), fails(401, KEY)]
        again = judge.collect([group("later k")])
    assert batch.failures[0].startswith("refused: ")
    assert batch.failures[1] is None
    assert again.failures[0].startswith("refused: ")
    assert all(h["authorization"] == f"Bearer {KEY}" for h in server.headers)
    time.sleep(0.5)  # Ray brings what actors print a moment later
    said = [repr(batch), repr(again), repr(judge.metrics()), repr(judge), caplog.text, *capfd.readouterr()]
    said += [repr(judge._keys), repr(judge._work(Run("x"), 1)), repr(vars(judge._store))]
    logs = [path.read_text(errors="replace") for path in ray_logs.iterdir() if path.suffix in (".out", ".err", ".log")]
    assert len(logs) > 5
    for text in said + logs:
        assert KEY not in text
        assert WRONG_KEY not in text
