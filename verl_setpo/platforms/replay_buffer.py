"""verl's replay buffers with a shorter wait between looks at the queue.

The stock 2 s is small beside a step on GPUs, and five times a whole step of a tiny model.
"""

from __future__ import annotations

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync


def replay_buffer(*, trainer_mode: str, sampler_kwargs: Any, **kwargs: Any) -> ReplayBuffer:
    """Build verl's own buffer of the trainer mode; `trainer.v1.sampler.sampler_kwargs.poll_interval` is in seconds."""
    buffer_class = ReplayBuffer if trainer_mode == "sync" else ReplayBufferAsync
    return buffer_class(
        trainer_mode=trainer_mode,
        sampler_kwargs=sampler_kwargs,
        poll_interval=float(sampler_kwargs.get("poll_interval", 0.05)),
        **kwargs,
    )
