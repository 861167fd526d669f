"""One part of the signal store, without Ray: takes finished rollouts, starts their work, and gives back what came."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from verl_setpo.signals.store.usage import SignalError, Usage
from verl_setpo.signals.store.work import Work

TRY_AGAIN = ("connection", "rate_limit", "server", "timeout")
"""Kinds of failure that pass: at `collect` such work is started again, until the time is up."""
PAUSE_S = 1.0
RESULT_BYTES = 4096
"""What a result is taken to need in memory: an embedding of 1,024 dimensions."""


@dataclass(frozen=True)
class Item:
    """A finished rollout. digest: of its tokens. group_size: rollouts that its prompt will have, if none fails."""

    uid: str
    session: int
    digest: bytes
    question: str
    text: str
    group_size: int


@dataclass(frozen=True)
class Ask:
    """A group whose results are wanted: session -> digest of the response that is trained on."""

    uid: str
    digests: Mapping[int, bytes]


@dataclass(frozen=True)
class Reply:
    """results: one for each session of the `Ask`, in its order; None where the group failed, for the reason `failure`.

    ready: whether they were there when they were asked for.
    """

    results: list[Any] | None
    failure: SignalError | None = None
    ready: bool = False


@dataclass(frozen=True)
class Collected:
    """replies: one an `Ask`. usage: since the last collect. held_groups, held_bytes: kept for later.

    dropped: groups that nobody collected, given up since the last collect as too old or for lack of memory.
    """

    replies: list[Reply]
    usage: Usage
    held_groups: int
    held_bytes: int
    dropped: int


@dataclass
class _Job:
    """Work under way or done for these sessions; its result by session. before: why the same work failed before."""

    digests: dict[int, bytes]
    task: asyncio.Task[dict[int, Any]]
    before: SignalError | None = None

    @property
    def failure(self) -> SignalError | None:
        if not self.task.done():
            return None
        if self.task.cancelled():
            return SignalError("timeout", "was given up")
        error = self.task.exception()
        return None if error is None else SignalError.of(error)

    @property
    def succeeded(self) -> bool:
        return self.task.done() and self.failure is None


@dataclass
class _Group:
    size: int
    question: str
    items: dict[int, Item] = field(default_factory=dict)
    jobs: dict[int, _Job] = field(default_factory=dict)
    touched: float = 0.0

    @property
    def bytes(self) -> int:
        texts = sum(sys.getsizeof(item.text) + RESULT_BYTES for item in self.items.values())
        return texts + sys.getsizeof(self.question)

    def cancel(self) -> None:
        for job in self.jobs.values():
            job.task.cancel()


class Shard:
    """Holds the groups of some prompts. Belongs to one event loop.

    Work starts as soon as a group is whole, or a rollout is there (`Work.whole_group`), and nobody waits for it before
    `collect`. A group is dropped once it is collected, after `keep_s` seconds without news, and, oldest first, when
    all texts held take more than `max_bytes`.
    """

    def __init__(self, work: Work, keep_s: float, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._work, self._keep_s, self._max_bytes, self._clock = work, keep_s, max_bytes, clock
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._bytes = 0
        self._dropped = 0

    async def submit(self, items: Sequence[Item]) -> None:
        """Take rollouts and start what can be started. The same one again changes nothing; another text replaces."""
        for item in items:
            group = self._groups.setdefault(item.uid, _Group(item.group_size, item.question))
            self._bytes -= group.bytes if group.items else 0
            group.size, group.question = item.group_size, item.question
            held = group.items.get(item.session)
            group.items[item.session] = replace(item, question="")  # one for all is enough
            if held is not None and held.digest != item.digest:
                self._forget(group, item.session)
            self._bytes += group.bytes
            self._touch(item.uid)
            if not self._work.whole_group:
                self._start(group, [item.session])
            elif len(group.items) >= group.size:
                self._start(group, list(group.items))
        self._drop_old()

    async def settle(self, uid: str, session: int) -> None:
        """Wait for the work that this rollout started, if it did: the last one of a group does, or every one."""
        group = self._groups.get(uid)
        job = group.jobs.get(session) if group else None
        if job is not None:
            await asyncio.wait([job.task])

    def missing(self, asks: Sequence[Ask]) -> list[tuple[str, int]]:
        """(uid, session) of what was asked for and is not here, or is here with another text."""
        absent = []
        for ask in asks:
            group = self._groups.get(ask.uid)
            for session, digest in ask.digests.items():
                item = group.items.get(session) if group else None
                if item is None or item.digest != digest:
                    absent.append((ask.uid, session))
        return absent

    async def collect(self, asks: Sequence[Ask], wait_s: float) -> Collected:
        """Results of groups, waited for at most `wait_s` seconds altogether; what is asked for is dropped.

        What failed for a reason that passes, or was never started since a rollout of the group failed, is started now.
        """
        end = self._clock() + wait_s
        replies = await asyncio.gather(*(self._reply(ask, end) for ask in asks))
        for ask in asks:
            self._drop(ask.uid)
        self._drop_old()
        dropped, self._dropped = self._dropped, 0
        return Collected(list(replies), self._work.drain(), len(self._groups), self._bytes, dropped)

    async def close(self) -> None:
        for uid in list(self._groups):
            self._drop(uid)
        await self._work.close()

    async def _reply(self, ask: Ask, end: float) -> Reply:
        group = self._groups.get(ask.uid)
        lost = Reply(None, SignalError("lost", "the store did not hold all of its responses (signal.max_memory_mb)"))
        if group is None or self.missing([ask]):
            return lost
        self._touch(ask.uid)
        sessions = list(ask.digests)
        ready = self._is_ready(group, sessions)
        while True:
            if any(group.items[session].digest != digest for session, digest in ask.digests.items()):
                return lost  # another response has come meanwhile
            jobs = self._jobs_for(group, sessions)
            pending = {job.task for job in jobs if not job.task.done()}
            if pending:
                _, pending = await asyncio.wait(pending, timeout=max(end - self._clock(), 0))
            if pending:
                known = next((job.before for job in jobs if job.before is not None), self._work.trouble)
                return Reply(None, known or SignalError("timeout", "there was no result in time (signal.wait_s)"))
            failure = next((job.failure for job in jobs if job.failure is not None), None)
            if failure is None:
                results = {session: result for job in jobs for session, result in job.task.result().items()}
                return Reply([results[session] for session in sessions], ready=ready)
            if failure.kind not in TRY_AGAIN or self._clock() + PAUSE_S >= end:
                return Reply(None, failure)
            await asyncio.sleep(PAUSE_S)

    def _is_ready(self, group: _Group, sessions: Sequence[int]) -> bool:
        return all(session in group.jobs and group.jobs[session].succeeded for session in sessions)

    def _jobs_for(self, group: _Group, sessions: Sequence[int]) -> list[_Job]:
        """The jobs whose results answer for `sessions`; what is missing, or failed and may pass, is started."""
        if self._work.whole_group:
            jobs = {id(group.jobs.get(session)) for session in sessions}
            # One verdict for all: clusters of two verdicts cannot be compared.
            if len(jobs) > 1 or sessions[0] not in group.jobs or self._passes(group.jobs[sessions[0]]):
                self._start(group, sessions)
        else:
            self._start(group, sessions)  # nothing that is under way or done
        return list({id(group.jobs[session]): group.jobs[session] for session in sessions}.values())

    @staticmethod
    def _passes(job: _Job) -> bool:
        return job.failure is not None and job.failure.kind in TRY_AGAIN

    def _start(self, group: _Group, sessions: Sequence[int]) -> None:
        """Start work for these sessions, unless it is under way, or done, for the very same texts."""
        parts = [list(sessions)] if self._work.whole_group else [[session] for session in sessions]
        for part in parts:
            digests = {session: group.items[session].digest for session in part}
            if not part:
                continue
            known = group.jobs.get(part[0])
            if known is not None and known.digests == digests and not self._passes(known):
                continue
            texts = [group.items[session].text for session in part]
            before = known.failure if known is not None and known.digests == digests else None
            job = _Job(digests, asyncio.create_task(self._run(group.question, part, texts)), before)
            job.task.add_done_callback(_seen)
            for session in part:
                group.jobs[session] = job

    async def _run(self, question: str, sessions: Sequence[int], texts: Sequence[str]) -> dict[int, Any]:
        return dict(zip(sessions, await self._work.run(question, texts), strict=True))

    def _forget(self, group: _Group, session: int) -> None:
        """Another text has come for a session: what was found out with the old one holds no more."""
        job = group.jobs.get(session)
        if job is not None:
            job.task.cancel()
            group.jobs = {s: other for s, other in group.jobs.items() if other is not job}

    def _touch(self, uid: str) -> None:
        self._groups[uid].touched = self._clock()
        self._groups.move_to_end(uid)

    def _drop(self, uid: str) -> None:
        group = self._groups.pop(uid, None)
        if group is not None:
            self._bytes -= group.bytes
            group.cancel()

    def _drop_old(self) -> None:
        """Oldest first: what nobody asked for in `keep_s`, and what there is no memory for."""
        while self._groups:
            uid, group = next(iter(self._groups.items()))
            if self._clock() - group.touched <= self._keep_s and self._bytes <= self._max_bytes:
                return
            self._drop(uid)
            self._dropped += 1


def _seen(task: asyncio.Task[Any]) -> None:
    """Of a task whose failure nobody asked for, asyncio would complain."""
    if not task.cancelled():
        task.exception()
