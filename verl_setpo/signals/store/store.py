"""The signal store: Ray actors that work on rollouts while others still generate, and the two ends that reach them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from verl_setpo.signals.store.settings import StoreSettings
from verl_setpo.signals.store.shard import Ask, Collected, Item, Reply, Shard
from verl_setpo.signals.store.usage import SignalError, Usage
from verl_setpo.signals.store.work import Work

logger = logging.getLogger(__name__)

GRACE_S = 10.0
"""What an actor may take beyond `wait_s` to answer at all, before it counts as dead."""
AGAIN_S = 0.5
MAX_CALLS = 100_000
"""Calls that wait in one actor at a time; Ray's 1,000 would hold up a large step."""
CLOSE_S = 2.0
WARN_S = 10.0
"""After so long a wait a line in the log says what the step waits for."""


class ShardActor:
    """A `Shard` in a Ray actor. Built at its first call, in the actor's event loop, and anew when Ray restarts it."""

    def __init__(self, build: Callable[[], Work], keep_s: float, max_bytes: int) -> None:
        self._build, self._keep_s, self._max_bytes = build, keep_s, max_bytes
        self._made: Shard | None = None
        self._work: Work | None = None
        # The library of the endpoints' client logs each request.
        for name in ("httpx", "httpcore", "openai"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def _shard(self) -> Shard:
        if self._made is None:
            self._work = self._build()
            self._made = Shard(self._work, self._keep_s, self._max_bytes)
        return self._made

    async def check(self) -> str | None:
        """None, or the sentence that says why this signal cannot work."""
        try:
            self._shard()
            assert self._work is not None
            await self._work.check()
        except Exception as error:
            failure = SignalError.of(error)
            return str(error) if isinstance(error, ValueError) else failure.message
        return None

    # Ray starts the calls of an asynchronous actor in any order: what must come after a submit is in the same call.

    async def submit(self, items: Sequence[Item], settle: bool = False) -> None:
        await self._shard().submit(items)
        for item in items if settle else ():
            await self._shard().settle(item.uid, item.session)

    async def missing(self, asks: Sequence[Ask]) -> list[tuple[str, int]]:
        return self._shard().missing(asks)

    async def collect(self, asks: Sequence[Ask], wait_s: float, items: Sequence[Item]) -> Collected:
        await self._shard().submit(items)
        return await self._shard().collect(asks, wait_s)

    async def close(self) -> None:
        if self._made is not None:
            await self._made.close()


class Store:
    """One end of the store: the trainer's, which starts it and collects, or a reward worker's, which submits.

    name: of this run's store, the same at both ends. A rollout's shard follows from its prompt's uid.
    """

    def __init__(self, name: str, shards: int, settings: StoreSettings) -> None:
        self.name, self.shards, self.settings = name, shards, settings
        self._actors: dict[int, Any] = {}
        self._sent: set[asyncio.Future[Any]] = set()
        self._make: Callable[[int], Any] | None = None
        # Ray ends an actor with the handle that made it, one that it has just restarted too.
        self._made: dict[int, Any] = {}

    # ---- the trainer's end

    def start(self, build: Callable[[], Work], placement_groups: Sequence[Any] = ()) -> None:
        """Start the actors, spread over the nodes, and check that each can work.

        Raises:
            ValueError: one sentence that says why a run would have no signal.
        """
        settings = self.settings
        max_bytes = int(settings.max_memory_mb * 2**20 / self.shards)
        nodes = alive_nodes()
        remote = ray.remote(ShardActor)

        def make(index: int) -> Any:
            strategy: Any = NodeAffinitySchedulingStrategy(nodes[index % len(nodes)], soft=True)
            if settings.num_gpus and placement_groups:
                # verl's pools hold all GPUs; a share of one is left beside the workers in them.
                strategy = PlacementGroupSchedulingStrategy(placement_groups[index % len(placement_groups)])
            actor = remote.options(
                name=self._name(index),
                get_if_exists=True,
                num_cpus=settings.num_cpus,
                num_gpus=settings.num_gpus,
                scheduling_strategy=strategy,
                max_restarts=-1,
                max_concurrency=MAX_CALLS,
            ).remote(build, settings.keep_s, max_bytes)
            self._made.setdefault(index, actor)
            return actor

        self._make = make
        self._actors = {index: make(index) for index in range(self.shards)}
        try:
            checks = [actor.check.remote() for actor in self._actors.values()]
            problems = ray.get(checks, timeout=settings.start_timeout_s)
        except ray.exceptions.GetTimeoutError:
            problems = [
                f"algorithm.set_rl.signal: its {self.shards} actors did not start within {settings.start_timeout_s:g} s"
                f" (signal.start_timeout_s): has the cluster {settings.num_cpus:g} CPUs and {settings.num_gpus:g} GPUs "
                "left for each (signal.num_cpus, signal.num_gpus)?"
            ]
        except ray.exceptions.RayError as error:
            problems = [f"algorithm.set_rl.signal: its actors do not start ({SignalError.of(error).message})"]
        found = next((problem for problem in problems if problem), None)
        if found:
            self.close()
            raise ValueError(found)

    def collect(
        self, asks: Sequence[Ask], item_of: Callable[[str, int], Item], wait: bool = True
    ) -> tuple[list[Reply], StoreReport]:
        """The results of groups, in order, waited for at most `wait_s` seconds; what the store lacks is sent again.

        An actor that does not answer at all can add `GRACE_S` to that, twice.

        Args:
            item_of: the rollout of (uid, session), for what a shard lost or never got.
            wait: False takes what is there, and sends nothing.
        """
        start = time.monotonic()
        end = start + (self.settings.wait_s if wait else 0.0)
        by_shard: dict[int, list[int]] = {index: [] for index in range(self.shards)}
        for position, ask in enumerate(asks):
            by_shard[self._index(ask.uid)].append(position)
        replies: list[Reply] = [Reply(None, SignalError("lost", "the store did not answer"))] * len(asks)
        report = StoreReport()
        warning = threading.Timer(WARN_S, self._say_it_waits, [len(asks)])
        warning.daemon = True
        warning.start()
        with ThreadPoolExecutor(self.shards, thread_name_prefix="collect-signals") as threads:
            parts = {
                index: threads.submit(
                    self._collect_one, index, [asks[p] for p in positions], item_of if wait else None, end
                )
                for index, positions in by_shard.items()
            }
        warning.cancel()
        for index, positions in by_shard.items():
            try:
                collected, resent = parts[index].result()
            except Exception as error:  # one shard's trouble is not that of the others
                collected, resent = _nothing(len(positions), SignalError.of(error)), 0
            for position, reply in zip(positions, collected.replies, strict=True):
                replies[position] = reply
            report.add(collected, resent)
        report.waited_s = time.monotonic() - start
        return replies, report

    def _say_it_waits(self, groups: int) -> None:
        logger.warning(
            "verl_setpo: the step waits for the signals of its %d prompts, up to %g s (signal.wait_s)",
            groups,
            self.settings.wait_s,
        )

    def _collect_one(
        self, index: int, asks: Sequence[Ask], item_of: Callable[[str, int], Item] | None, end: float
    ) -> tuple[Collected, int]:
        """From one shard, until the time `end`; an actor that died is made again, and gets what it had."""
        resent, late = 0, set[str]()
        while True:
            left = max(end - time.monotonic(), 0)
            try:
                actor = self._actor(index)
                absent = ray.get(actor.missing.remote(asks), timeout=left + GRACE_S)
                items = [item_of(uid, session) for uid, session in absent] if item_of else []
                resent += len(items)
                late.update(item.uid for item in items)
                left = max(end - time.monotonic(), 0)
                got: Collected = ray.get(actor.collect.remote(asks, left, items), timeout=left + GRACE_S)
                # What was sent just now may be there at once, from a cache; ready it was not.
                pairs = zip(asks, got.replies, strict=True)
                return replace(got, replies=[replace(r, ready=r.ready and a.uid not in late) for a, r in pairs]), resent
            except ray.exceptions.RayTaskError as error:
                failure = SignalError.of(error.cause if isinstance(error.cause, BaseException) else error)
                break
            except ray.exceptions.RayError as error:
                # The actor, its node or its answer is gone, or it hangs.
                self._actors.pop(index, None)
                failure = SignalError("store", f"a store actor is gone ({type(error).__name__})")
                if time.monotonic() + AGAIN_S > end:
                    break
                logger.warning("verl_setpo: an actor of the signal store is gone; it is started again")
                time.sleep(AGAIN_S)
        return _nothing(len(asks), failure), resent

    def close(self) -> None:
        """End the actors. Only the end that started them does."""
        if self._make is None:
            return
        # Asked first to give up their calls, which may cost money.
        ray.wait([actor.close.remote() for actor in self._actors.values()], num_returns=self.shards, timeout=CLOSE_S)
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors, self._make, self._made = {}, None, {}

    # ---- a reward worker's end

    async def submit(self, item: Item, settle: bool = False) -> None:
        """Send a rollout, without waiting for anything but Ray.

        What does not arrive is sent again at `collect`.

        Args:
            settle: wait until the work that this rollout starts is done, at most `wait_s` seconds.
        """
        index = self._index(item.uid)
        future = self._watch(index, self._actor(index).submit.remote([item], settle))
        if settle:
            await asyncio.wait([future], timeout=self.settings.wait_s)

    def _watch(self, index: int, ref: Any) -> asyncio.Future[Any]:
        """Note when an actor is gone, so that the next rollout looks for the one in its place."""
        future = asyncio.wrap_future(ref.future())
        self._sent.add(future)

        def done(_: asyncio.Future[Any]) -> None:
            self._sent.discard(future)
            if not future.cancelled() and future.exception() is not None:
                self._actors.pop(index, None)

        future.add_done_callback(done)
        return future

    # ---- both

    def _index(self, uid: str) -> int:
        return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8).digest(), "big") % self.shards

    def _name(self, index: int) -> str:
        return f"{self.name}_{index}"

    def _actor(self, index: int) -> Any:
        if index not in self._actors:
            self._actors[index] = self._make(index) if self._make else ray.get_actor(self._name(index))
        return self._actors[index]


def _nothing(groups: int, failure: SignalError) -> Collected:
    """For groups that all failed for one reason."""
    return Collected([Reply(None, failure)] * groups, Usage(), 0, 0, 0)


class StoreReport:
    """What one collect cost, over all shards."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.groups = self.ready = self.resent = self.dropped = self.held_groups = self.held_bytes = 0
        self.failures: dict[str, int] = {}
        self.waited_s = 0.0

    def add(self, collected: Collected, resent: int) -> None:
        self.usage = self.usage + collected.usage
        self.groups += len(collected.replies)
        self.ready += sum(reply.ready for reply in collected.replies)
        self.resent += resent
        self.dropped += collected.dropped
        self.held_groups += collected.held_groups
        self.held_bytes += collected.held_bytes
        for reply in collected.replies:
            if reply.failure is not None:
                self.failures[reply.failure.kind] = self.failures.get(reply.failure.kind, 0) + 1

    def metrics(self) -> dict[str, float]:
        """By the names under which they are logged."""
        return {
            **self.usage.metrics(),
            **{f"failed_groups/{kind}": float(count) for kind, count in self.failures.items()},
            "ready": self.ready / self.groups if self.groups else math.nan,
            "collect_wait_s": self.waited_s,
            "sent_again": float(self.resent),
            "dropped_groups": float(self.dropped),
            "held_groups": float(self.held_groups),
            "held_mb": self.held_bytes / 2**20,
        }


def alive_nodes() -> list[str]:
    """Ids of the nodes that can run actors, as verl chooses them for its reward workers."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
