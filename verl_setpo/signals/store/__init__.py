"""Where judges and embedders work on rollouts while others still generate: Ray actors, sharded by prompt."""

from verl_setpo.signals.store.shard import Ask, Collected, Item, Reply, Shard
from verl_setpo.signals.store.usage import SignalError, Usage
from verl_setpo.signals.store.work import Batcher, Work

__all__ = ["Ask", "Batcher", "Collected", "Item", "Reply", "Shard", "SignalError", "Usage", "Work"]
