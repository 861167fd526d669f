"""What a shard of the store does with rollouts: ask a judge about a whole group, or embed each response."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from verl_setpo.signals.store.usage import SignalError, Usage

R = TypeVar("R")
MAX_SUSPECTS = 10_000


class Work(ABC):
    """Belongs to one event loop, which it never blocks. Errors have a `kind` and a `message`, see `SignalError`."""

    whole_group: ClassVar[bool]
    """Whether it takes all responses of a prompt together, or each as soon as it is there."""

    @abstractmethod
    async def check(self) -> None:
        """Do the smallest piece of work, so that what is wrong shows before a run starts."""

    @abstractmethod
    async def run(self, question: str, texts: Sequence[str]) -> Sequence[Any]:
        """One result for each text, to be pickled."""

    @abstractmethod
    def drain(self) -> Usage:
        """What was done since the last call."""

    @property
    def trouble(self) -> SignalError | None:
        """What its server's last answer was wrong with, None where nothing is known to be wrong."""
        return None

    @abstractmethod
    async def close(self) -> None: ...


class Batcher(Generic[R]):
    """Merges calls that come within `wait_s` of each other into one.

    One text can spoil a request that others share: a batch that fails for what is in it is halved, until each text
    stands for itself. Where the failure may as well be the server's, each text is asked for alone when it comes again.
    """

    OF_THE_TEXT = ("refused", "bad_answer", "model")
    """Kinds of failure that another text need not meet."""
    OF_EITHER = ("server", "timeout")
    """Kinds that a text may cause too; verl's own router makes a 500 of all that a server refuses."""

    def __init__(self, run: Callable[[list[str]], Awaitable[Sequence[R]]], wait_s: float) -> None:
        self._run, self._wait_s = run, wait_s
        self._waiting: list[tuple[str, asyncio.Future[R]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._suspects: set[str] = set()

    async def __call__(self, text: str) -> R:
        if text in self._suspects:
            self._suspects.discard(text)
            return (await self._run([text]))[0]
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        if len(self._waiting) == 1:
            task = asyncio.create_task(self._flush())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _flush(self) -> None:
        await asyncio.sleep(self._wait_s)
        batch, self._waiting = self._waiting, []
        await self._settle(batch)

    async def _settle(self, batch: list[tuple[str, asyncio.Future[R]]]) -> None:
        batch = [(text, future) for text, future in batch if not future.done()]  # given up meanwhile
        if not batch:
            return
        try:
            results = await self._run([text for text, _ in batch])
            if len(results) != len(batch):
                raise SignalError("bad_answer", f"{len(results)} results for {len(batch)} texts")
        except Exception as error:
            failure = SignalError.of(error)
            if len(batch) > 1 and failure.kind in self.OF_THE_TEXT:
                half = len(batch) // 2
                await asyncio.gather(self._settle(batch[:half]), self._settle(batch[half:]))
                return
            if len(batch) > 1 and failure.kind in self.OF_EITHER:
                if len(self._suspects) > MAX_SUSPECTS:
                    self._suspects.clear()  # of texts that nobody asked for again
                self._suspects.update(text for text, _ in batch)
            for _, future in batch:
                if not future.done():
                    future.set_exception(failure)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
