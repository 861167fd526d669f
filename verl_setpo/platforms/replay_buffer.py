"""verl's replay buffer with a shorter wait between looks at the queue.

The stock 2 s is small beside a step on GPUs, and longer than a whole step of a tiny model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import open_dict
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer


def replay_buffer(*, sampler_kwargs: Any, refill_fn: Callable[[int], int], **kwargs: Any) -> ReplayBuffer:
    """The buffer that verl itself would build, polled every `trainer.v1.sampler.sampler_kwargs.poll_interval` seconds.

    verl hands a custom sampler none of the keys of DAPO's group filter or of the refill of failed groups, so one that
    was built from these arguments would drop both in silence. `refill_fn` is the trainer's method; the trainer builds.
    """
    trainer = refill_fn.__self__  # type: ignore[attr-defined]
    custom_sampler = trainer.config.trainer.v1.sampler.custom_sampler
    path = custom_sampler.path
    with open_dict(custom_sampler):
        custom_sampler.path = None
        try:
            buffer = trainer._build_replay_buffer()
        finally:
            custom_sampler.path = path
    buffer.poll_interval = float(sampler_kwargs.get("poll_interval", 0.05))
    return buffer
