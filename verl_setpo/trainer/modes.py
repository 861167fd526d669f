"""verl's three trainers with set-level advantages: set_sync, set_colocate_async, set_separate_async.

The only change to training is `_compute_advantage`: the signal of each group is there when verl calls the set
estimator, which has verl's own code compute the base method's advantage first. Checkpoints get one small file more, the
running means of `coef=auto`.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import (
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    PPOTrainerSync,
    register_trainer,
)
from verl.utils import tensordict_utils as tu

from verl_setpo.signals import Run, build_signal
from verl_setpo.trainer.advantages import SetAdvantageMixin
from verl_setpo.trainer.colocated_reward import compute_rewards
from verl_setpo.trainer.config_check import check_config
from verl_setpo.trainer.prepare import count_nodes, keep_warnings, prepare_config
from verl_setpo.trainer.reward_manager import GROUP_SIZE
from verl_setpo.trainer.schedule import AutoCoef
from verl_setpo.trainer.settings import WITH_COEF

logger = logging.getLogger(__name__)

AUTO_COEF_FILE = "set_rl_auto_coef.json"
"""In verl's `global_step_N` folder."""


class SetRLMixin(SetAdvantageMixin):
    """Set-level advantages for a verl trainer; mixed in before verl's class."""

    reward_loop_manager: Any
    resource_pool_manager: Any

    def __init__(self, config: DictConfig) -> None:
        keep_warnings()
        self._read_method(config)
        if not self.signal.needs_workers:
            # Before the models are loaded, which takes minutes: here a wrong address ends the run at once.
            self.signal.start(self.run)
        super().__init__(config)  # type: ignore[call-arg]
        if config.reward.reward_model.enable and config.reward.custom_reward_function.path is None:
            logger.warning(
                "verl_setpo: verl takes rewards from reward.reward_model, so that the signal %s gets no rollout before "
                "all of them are there",
                self.settings.signal.name,
            )
        logger.warning(
            "verl_setpo: %s on base estimator %s, signal %s, %s",
            self.method.estimator,
            self.method.base_estimator,
            self.settings.signal.name,
            f"coef {self.settings.coef_text}"
            if self.method.estimator in WITH_COEF
            else f"set_size {self.settings.set_size}",
        )

    def _read_method(self, config: DictConfig) -> None:
        self.method = check_config(config)
        self.settings = self.method.settings
        self.signal = build_signal(self.settings.signal.name, self.settings.signal_keys)
        self.auto_coef = None
        if self.settings.coef == "auto":
            assert self.settings.target_share is not None, "checked at start"
            self.auto_coef = AutoCoef(self.settings.target_share, self.settings.max_coef)
        self._checked_rewards = False
        self.run = Run(uuid.uuid4().hex[:12], count_nodes())
        prepare_config(config, self.method, self.run)

    def on_init_end(self) -> None:
        """A signal that needs verl's workers starts once they are there, before the first step."""
        if self.signal.needs_workers:
            with self._reward_model_awake():
                self.signal.start(self._run_with_workers())
        super().on_init_end()  # type: ignore[misc]

    def _run_with_workers(self) -> Run:
        address = self.reward_loop_manager.reward_router_address
        pools = self.resource_pool_manager.resource_pool_dict.values()
        return replace(
            self.run,
            reward_model_url=f"http://{address}/v1" if address else "",
            reward_model=str(self.config.reward.reward_model.model_path or ""),
            placement_groups=[group for pool in pools for group in pool.get_placement_groups()],
            asleep_at_collect=bool(address) and self.reward_loop_manager.reward_loop_worker_handles is None,
        )

    @contextmanager
    def _reward_model_awake(self) -> Iterator[None]:
        """A colocated reward model sleeps whenever verl does not compute rewards with it."""
        manager = self.reward_loop_manager.reward_model_manager
        asleep = manager is not None and self.reward_loop_manager.reward_loop_worker_handles is None
        if asleep:
            manager.wake_up()
        try:
            yield
        finally:
            if asleep:
                manager.sleep()

    def _compute_reward_colocate(self, batch: KVBatchMeta, metrics: dict | None = None) -> KVBatchMeta:
        """Rewards of a batch with a colocated reward model: by verl, or by a reward function while it serves us."""
        if self.config.reward.custom_reward_function.path is None:
            return super()._compute_reward_colocate(batch, metrics)  # type: ignore[misc]
        return compute_rewards(batch, self.reward_loop_manager.compute_rm_score, self.tokenizer.pad_token_id)

    def fit(self, agent_loop_manager: Any) -> None:
        """verl's training, after which the signal gives back what it holds."""
        try:
            super().fit(agent_loop_manager)  # type: ignore[misc]
        finally:
            self.signal.close()

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        """verl's batch, with the number of rollouts a prompt: what a group is whole with, and no validation prompt
        has."""
        batch = super()._next_train_batch(num_prompts)  # type: ignore[misc]
        sizes = [self.config.actor_rollout_ref.rollout.n] * len(batch)
        if "__rollout_n__" in batch:  # verl's own column, for prompts with another number
            sizes = [int(n) for n in batch["__rollout_n__"]]
        tu.assign_non_tensor_stack(batch, GROUP_SIZE, sizes)
        return batch

    def _save_checkpoint(self) -> None:
        """verl's checkpoint, and in its folder the running means of `coef=auto`.

        Written first: what verl writes last marks the folder as complete, and may upload it.
        """
        if self.auto_coef is not None:
            folder = os.path.join(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}")
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, AUTO_COEF_FILE), "w", encoding="ascii") as file:
                json.dump(self.auto_coef.state_dict(), file)
        super()._save_checkpoint()  # type: ignore[misc]

    def _load_checkpoint(self) -> None:
        """verl's checkpoint, and from its folder the running means of `coef=auto`.

        A checkpoint without them, or with what cannot be read, starts them afresh, with a warning.
        """
        super()._load_checkpoint()  # type: ignore[misc]
        if self.auto_coef is None or self.global_steps == 0:  # 0: nothing was resumed
            return
        trainer = self.config.trainer
        if trainer.resume_mode == "resume_path":
            folder = trainer.resume_from_path
        else:
            folder = os.path.join(trainer.default_local_dir, f"global_step_{self.global_steps}")
        path = os.path.join(folder, AUTO_COEF_FILE)
        try:
            with open(path, encoding="ascii") as file:
                self.auto_coef.load_state_dict(json.load(file))
        except (OSError, ValueError) as error:
            cause = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be used ({error})"
            logger.warning(
                "verl_setpo: %s %s: algorithm.set_rl.coef=auto starts its running means afresh.", path, cause
            )


@register_trainer("set_sync")
class SetSyncTrainer(SetRLMixin, PPOTrainerSync):
    """verl's synchronous trainer with set-level advantages."""


@register_trainer("set_colocate_async")
class SetColocateAsyncTrainer(SetRLMixin, PPOTrainerColocateAsync):
    """verl's colocated asynchronous trainer (partial rollouts) with set-level advantages."""


@register_trainer("set_separate_async")
class SetSeparateAsyncTrainer(SetRLMixin, PPOTrainerSeparateAsync):
    """verl's fully asynchronous trainer (separate rollout machines) with set-level advantages."""
