"""verl's replay buffer with a shorter wait between looks at the queue.

The stock 2 s is small beside a step on GPUs, and longer than a whole step of a tiny model.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from verl_setpo.evaluation.text import printable


def replay_buffer(*, sampler_kwargs: Any, refill_fn: MethodType, **kwargs: Any) -> ReplayBuffer:
    """The buffer that verl itself would build, polled every `trainer.v1.sampler.sampler_kwargs.poll_interval` seconds.

    verl hands a custom sampler none of the keys of DAPO's group filter or of the refill of failed groups, so one that
    was built from these arguments would drop both in silence. `refill_fn` is the trainer's method; the trainer builds.
    """
    trainer: Any = refill_fn.__self__
    check_no_adapter(trainer.config)
    if trainer.trainer_mode == "separate_async":
        check_separate_async(trainer.config)
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


def check_no_adapter(config: DictConfig) -> None:
    """Raise ValueError for LoRA.

    Where vLLM held the adapter, the first weights had not arrived after four minutes; where it was merged into the
    other weights, the rollout's token probabilities were up to 0.03 off the trainer's.
    """
    model = config.actor_rollout_ref.model
    for key in ("lora_rank", "lora.rank", "lora_adapter_path"):
        value = OmegaConf.select(model, key)
        if value:
            raise ValueError(
                f"actor_rollout_ref.model.{key}={printable(value)} asks for LoRA, which platform=cpu does not support: "
                "leave it out, or train on a GPU."
            )


def check_separate_async(config: DictConfig) -> None:
    """Raise ValueError where verl would take old log probs from other weights than those that it means.

    For updates after the first of a step, verl goes back to weights that it has copied "to the CPU". Of weights that
    are there already that copy is no copy, but the weights themselves, which the first update changed.
    """
    updates = config.trainer.v1.separate_async.parameter_sync_step
    bypassed = (config.algorithm.get("rollout_correction") or {}).get("bypass_mode", False)
    if updates > 1 and not bypassed:
        raise ValueError(
            f"trainer.v1.separate_async.parameter_sync_step={updates} gives wrong old log probs on platform=cpu: set "
            "it 1, or algorithm.rollout_correction.bypass_mode=True, which takes those of the rollout."
        )
