"""A signal whose work is done in the store: the part that judge and embedding share."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from verl_setpo.signals.base import Rollout, Run, Signal, SignalBatch
from verl_setpo.signals.store.settings import StoreSettings
from verl_setpo.signals.store.shard import Ask, Item, Reply
from verl_setpo.signals.store.work import Work

if TYPE_CHECKING:
    from verl_setpo.signals.store.store import Store, StoreReport


class StoreSignal(Signal):
    """Submits to the store as soon as a rollout is there; collects, and asks again for what is missing."""

    settings: StoreSettings

    def __init__(self) -> None:
        self._store: Store | None = None
        self._report: StoreReport | None = None
        self._asleep = False

    @abstractmethod
    def _work(self, run: Run, shards: int) -> Callable[[], Work]:
        """What each actor builds; has to be picklable, and to hold no key."""

    @abstractmethod
    def _batch(self, groups: Sequence[Sequence[Rollout]], replies: Sequence[Reply]) -> SignalBatch:
        """Clusters or kernel of the groups' results."""

    def bind(self, run: Run) -> None:
        from verl_setpo.signals.store.store import Store  # Ray, which is not needed to check the keys

        self._store = Store(f"verl_setpo_{run.name}", self.settings.shards or run.nodes, self.settings)

    def start(self, run: Run) -> None:
        self.bind(run)
        self._asleep = run.asleep_at_collect
        assert self._store is not None
        self._store.start(self._work(run, self._store.shards), run.placement_groups)

    async def submit(self, rollout: Rollout, settle: bool = False) -> None:
        assert self._store is not None, "bound by the reward manager"
        # In a thread: decoding a long response must not hold up the other rollouts.
        item = await asyncio.get_running_loop().run_in_executor(None, self._item, rollout)
        await self._store.submit(item, settle)

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        assert self._store is not None, "started by the trainer"
        self._report = None
        rollouts = {(rollout.uid, rollout.session): rollout for group in groups for rollout in group}
        sizes = {group[0].uid: len(group) for group in groups if group}
        asks = [Ask(group[0].uid, {r.session: r.digest for r in group}) for group in groups if group]
        replies, self._report = self._store.collect(
            asks, lambda uid, session: self._item(rollouts[uid, session], sizes[uid]), wait=not self._asleep
        )
        return self._batch([group for group in groups if group], replies)

    def metrics(self) -> dict[str, float]:
        return {} if self._report is None else self._report.metrics()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _item(self, rollout: Rollout, group_size: int | None = None) -> Item:
        size = group_size or rollout.group_size
        question = rollout.question if self.needs_question else ""
        return Item(rollout.uid, rollout.session, rollout.digest, question, self._text(rollout), size)

    def _text(self, rollout: Rollout) -> str:
        """What of a rollout is sent to the store."""
        return rollout.text()
