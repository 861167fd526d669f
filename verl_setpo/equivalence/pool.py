"""Processes that grade answers for all threads of this process, with a hard limit on the time of each answer."""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import Future

from cachetools import LRUCache

from verl_setpo.equivalence.process import StartError, Verdict, Worker

CACHE_SIZE = 1 << 14
START_S = 120.0
"""A worker that is not ready by then will not be."""
_Question = tuple[str, str]


class GraderPool:
    """Up to `workers` processes, started by the first questions; they end with `close`, this object or its process.

    A question that is asked again gets the answer of the first time, also while that one is still on its way, so that a
    group of equal answers costs one. The limit counts from when a worker takes a question up, not from when it waits
    for one: a hostile answer delays others and costs none of them its answer.
    """

    def __init__(self, workers: int, timeout_s: float, module: str = "verl_setpo.equivalence.worker") -> None:
        """timeout_s: for each question, in seconds. module: see `Worker`."""
        self.timeout_s = timeout_s
        self._workers = [Worker(module) for _ in range(workers)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the last used first, so that few are started
        for worker in self._workers:
            self._idle.put(worker)
        self._lock = threading.Lock()
        self._cache: LRUCache[_Question, Verdict] = LRUCache(CACHE_SIZE)
        self._under_way: dict[_Question, Future[Verdict]] = {}
        weakref.finalize(self, _kill_all, self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def close(self) -> None:
        """End all workers. A later question starts new ones."""
        _kill_all(self._workers)

    def grade(self, gold: str, answer: str) -> Verdict:
        """Whether the answer is the gold one: EQUAL, DIFFERENT, UNREADABLE (one is no mathematics), or what went wrong:
        RAISED, TIMED_OUT, CRASHED. Raises StartError when no worker starts."""
        asked = (gold, answer)
        with self._lock:
            known = self._cache.get(asked)
            if known is not None:
                return known
            under_way = self._under_way.get(asked)
            mine: Future[Verdict] = Future()
            if under_way is None:
                self._under_way[asked] = mine
        if under_way is not None:
            return under_way.result()
        try:
            verdict = self._ask(asked)
        except BaseException as error:
            self._settle(asked)
            mine.set_exception(error)
            raise
        self._settle(asked, verdict)
        mine.set_result(verdict)
        return verdict

    def _settle(self, asked: _Question, verdict: Verdict = Verdict.CRASHED) -> None:
        with self._lock:
            del self._under_way[asked]
            if verdict is not Verdict.CRASHED:  # which may have had another cause than this answer
                self._cache[asked] = verdict

    def _ask(self, asked: _Question) -> Verdict:
        worker = self._idle.get()
        try:
            verdict = self._ask_worker(worker, asked)
            # Something else may have killed it: the memory of this machine, a scheduler.
            return self._ask_worker(worker, asked) if verdict is Verdict.CRASHED else verdict
        finally:
            self._idle.put(worker)

    def _ask_worker(self, worker: Worker, asked: _Question) -> Verdict:
        if not worker.start(time.monotonic() + START_S):
            worker.kill()
            raise StartError(f"the process that grades answers was not ready after {START_S:.0f} s")
        return worker.ask(*asked, self.timeout_s, time.monotonic() + 2 * self.timeout_s, gold_first=True)


def _kill_all(workers: Iterable[Worker]) -> None:
    for worker in workers:
        worker.kill()


_POOLS: dict[tuple[int, float], GraderPool] = {}
_POOLS_LOCK = threading.Lock()


def shared_pool(workers: int, timeout_s: float) -> GraderPool:
    """The one pool of this process with these settings; a forked copy of the process has its own."""
    with _POOLS_LOCK:
        pool = _POOLS.get((workers, timeout_s))
        if pool is None:
            pool = _POOLS[workers, timeout_s] = GraderPool(workers, timeout_s)
        return pool


def _start_anew() -> None:
    """In a forked copy: locks may be held and workers taken by threads that are not there."""
    global _POOLS_LOCK
    _POOLS_LOCK = threading.Lock()
    _POOLS.clear()


os.register_at_fork(after_in_child=_start_anew)
