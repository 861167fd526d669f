"""Clusters of mathematically equal answers: few questions, each with a time limit, and all within one bound."""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cachetools import LRUCache

from verl_setpo.equivalence.process import StartError, Verdict, Worker

MAX_CHARS = 1000
"""A longer answer is compared by its text only."""
MAX_WORKERS = 8
CACHE_SIZE = 1 << 16
# A killed process may have been the victim of something else, and time that was short may not be next time.
_NOT_CACHED = (Verdict.CRASHED, Verdict.UNASKED)


@dataclass
class EqualityCounts:
    """What one call of `MathEquality.merge` did.

    asked, cached: questions put to a worker, and answered from earlier ones. timed_out, crashed, raised, unasked:
    questions without an answer, because of the time limit, the end of the worker, an error in math-verify, and the
    bound on the whole call. by_text: distinct answers of a group that therefore, or for their length, were compared by
    their text only. unreadable: those in which math-verify sees no mathematics. seconds: wall clock of the call.
    """

    asked: int = 0
    cached: int = 0
    timed_out: int = 0
    crashed: int = 0
    raised: int = 0
    unasked: int = 0
    by_text: int = 0
    unreadable: int = 0
    seconds: float = 0.0


class MathEquality:
    """Sorts answers by mathematical equality as math-verify sees it, in up to MAX_WORKERS processes.

    They start with the first question and live until `close`, or until this object or its process ends, however that
    ends. math-verify is neither symmetric nor transitive: both orders of a pair are tried, and the distinct answers of
    a group are taken from the shortest on, each compared with the first member of each cluster.
    """

    def __init__(self, timeout_s: float, budget_s: float) -> None:
        """timeout_s: for each question. budget_s: for all questions of one `merge`."""
        self.timeout_s = timeout_s
        self.budget_s = budget_s
        self.counts = EqualityCounts()
        self._cache: LRUCache[tuple[str, str], Verdict] = LRUCache(CACHE_SIZE)
        self._lock = threading.Lock()
        self._workers = [Worker() for _ in range(min(MAX_WORKERS, os.cpu_count() or 1))]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the last used first, so that few are started
        for worker in self._workers:
            self._idle.put(worker)
        self._deadline = 0.0
        self._start_error: StartError | None = None
        weakref.finalize(self, _kill_all, self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def close(self) -> None:
        """End all workers. A later `merge` starts new ones."""
        _kill_all(self._workers)

    def merge(self, groups: Sequence[Iterable[str]]) -> list[dict[str, str] | StartError]:
        """For each group of answers {answer: the answer that stands for all that are equal to it}.

        Takes `budget_s` at most (and what it takes to end processes). An answer whose comparison fails stands for
        itself; `counts` has how many. A group for which no worker starts has the error instead.
        """
        start = time.monotonic()
        self.counts, self._start_error = EqualityCounts(), None
        self._deadline = start + self.budget_s
        with ThreadPoolExecutor(len(self._workers)) as threads:
            try:
                merged = list(threads.map(self._merge_group, groups))
            except BaseException:
                self._deadline = 0.0  # Ctrl-C: let the threads find no time left
                raise
        self.counts.seconds = time.monotonic() - start
        return merged

    def _merge_group(self, answers: Iterable[str]) -> dict[str, str] | StartError:
        # Sorted, so that no order of rollouts changes a cluster; short ones first, which are the likeliest to be sane.
        distinct = sorted({answer for answer in answers if answer}, key=lambda text: (len(text), text))
        short = [text for text in distinct if len(text) <= MAX_CHARS]
        names = {text: text for text in distinct}
        if len(distinct) < 2:
            return names
        by_text = set(distinct) - set(short)
        worker = self._idle.get()
        try:
            if len(short) > 1:
                self._sort(short, names, by_text, lambda one, other: self._ask(worker, one, other))
        except StartError as error:
            self._start_error = error  # what does not start for one group does not for the next
            return error
        finally:
            self._idle.put(worker)
        self._count(by_text=len(by_text))
        return names

    def _sort(
        self, texts: list[str], names: dict[str, str], by_text: set[str], ask: Callable[[str, str], Verdict]
    ) -> None:
        """Write to `names` what each text is equal to, and add to `by_text` those that could not be compared."""
        clusters: list[list[str]] = []
        for text in texts:
            verdict = ask(text, text)
            if verdict is Verdict.UNREADABLE:
                self._count(unreadable=1)
                continue
            if verdict is not Verdict.EQUAL:
                by_text.add(text)
                continue
            for members in clusters:
                verdict = ask(members[0], text)
                if verdict is Verdict.EQUAL:
                    names[text] = names[members[0]]
                    members.append(text)
                    break
                if verdict in (Verdict.TIMED_OUT, Verdict.CRASHED):
                    # Nobody knows which of the two is to blame. Neither is asked about again, so that one hostile
                    # answer costs its group one limit and one other answer, not all.
                    by_text |= {text, members.pop(0)}
                    break
                if verdict is Verdict.UNASKED:
                    by_text.add(text)
                    break
            else:
                clusters.append([text])
            clusters = [members for members in clusters if members]

    def _ask(self, worker: Worker, one: str, other: str) -> Verdict:
        pair = (one, other) if one <= other else (other, one)
        with self._lock:
            known = self._cache.get(pair)
        if known is not None:
            self._count(cached=1)
            return known
        if self._start_error is not None:
            raise self._start_error
        verdict = worker.ask(*pair, self.timeout_s, self._deadline)
        if verdict is Verdict.UNASKED:
            self._count(unasked=1)
        else:
            self._count(asked=1)
        if verdict in (Verdict.TIMED_OUT, Verdict.CRASHED, Verdict.RAISED):
            self._count(**{verdict.name.lower(): 1})
        if verdict not in _NOT_CACHED:
            with self._lock:
                self._cache[pair] = verdict
        return verdict

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)


def _kill_all(workers: Iterable[Worker]) -> None:
    for worker in workers:
        worker.kill()
