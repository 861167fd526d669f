"""Whether the signal of a run can work: the same probe that the run makes at its start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from verl_setpo.doctor.check import Check
from verl_setpo.signals import Run, Signal, build_signal
from verl_setpo.signals.store.signal import StoreSignal
from verl_setpo.trainer.settings import SetRLSettings

_RUN = Run(name="doctor")


def signal_check(settings: SetRLSettings) -> Iterator[Check]:
    """A judge or an embedder does the smallest piece of work; a local model is loaded for it."""
    name = settings.signal.name
    signal = build_signal(name, settings.signal_keys)
    kind = settings.signal_keys.get("kind", "endpoint")
    if kind == "reward_model":
        yield Check("signal", "not done", f"{name}: its server is started by the run (reward.reward_model)")
        return
    started = time.monotonic()
    problem = asyncio.run(_probe(signal)) if isinstance(signal, StoreSignal) else _start(signal)
    seconds = time.monotonic() - started
    if problem is not None:
        yield Check("signal", "fail", f"{name}: {problem}", "A run stops here before its first step.")
    elif not isinstance(signal, StoreSignal):
        yield Check("signal", "ok", f"{name} works in the trainer's process: no server, no model")
    else:
        where = "its model is loaded and answers" if kind == "local" else "its server answers"
        yield Check("signal", "ok", f"{name}: {where}, {seconds:.1f} s")


async def _probe(signal: StoreSignal) -> str | None:
    """As an actor of the store at the start of a run, in this process."""
    from verl_setpo.signals.store.store import ShardActor

    actor = ShardActor(signal._work(_RUN, 1), signal.settings.keep_s, max_bytes=2**20)
    try:
        return await actor.check()
    finally:
        await actor.close()


def _start(signal: Signal) -> str | None:
    try:
        signal.start(_RUN)
    except ValueError as error:
        return str(error)
    finally:
        signal.close()
    return None
