"""verl's three trainers with set-level advantages: set_sync, set_colocate_async, set_separate_async.

The only change to training is `_compute_advantage`: verl first computes the base method's advantage with its own code,
then the set estimator reads the group's signal and writes the advantage that is trained on. Checkpoints get one small
file more, the running means of `coef=auto`.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf, open_dict
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.v1 import (
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    PPOTrainerSync,
    register_trainer,
)
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_to_nested

from verl_setpo.signals import Rollout, Run, build_signal, collect_safely, question_of
from verl_setpo.signals.answer import cluster_answers, find_answer
from verl_setpo.trainer.colocated_reward import compute_rewards
from verl_setpo.trainer.estimators import Step, min_group_size
from verl_setpo.trainer.groups import Groups
from verl_setpo.trainer.metrics import StepReport, step_metrics
from verl_setpo.trainer.reward_manager import GROUP_SIZE
from verl_setpo.trainer.rollout_log import rollout_rows, write_rollout_log
from verl_setpo.trainer.schedule import AutoCoef, Schedule
from verl_setpo.trainer.settings import TRAINER_MODES, WITH_COEF, Method, check_config

logger = logging.getLogger(__name__)

AUTO_COEF_FILE = "set_rl_auto_coef.json"
"""In verl's `global_step_N` folder."""
MAX_CAUSES = 5
"""Lines of a step about signals that failed."""


class SetRLMixin:
    """Set-level advantages for a verl trainer; mixed in before verl's class."""

    config: DictConfig
    global_steps: int
    tokenizer: Any
    reward_loop_manager: Any
    resource_pool_manager: Any

    def __init__(self, config: DictConfig) -> None:
        _keep_warnings()
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
        self.auto_coef: AutoCoef | None = None
        if self.settings.coef == "auto":
            assert self.settings.target_share is not None, "checked at start"
            self.auto_coef = AutoCoef(self.settings.target_share, self.settings.max_coef)
        self._checked_rewards = False
        self.run = Run(uuid.uuid4().hex[:12], _count_nodes())
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

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Base advantage by verl, then the set estimator over it; both end up in TransferQueue."""
        estimator = self.method.estimator
        with _estimator(self.config.algorithm, self.method.base_estimator):
            batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]

        rows = _Rows.read(batch, self.config.algorithm.use_kl_in_reward, self.signal.needs_question)
        groups = Groups.of(batch.keys, batch.tags)
        step, rollouts, counts = self._step(estimator, rows, groups)
        advantages_BT, _ = get_adv_estimator_fn(estimator)(
            token_level_rewards=rows.rewards_BT,
            response_mask=rows.mask_BT,
            index=[key.rsplit("_", 2)[0] for key in batch.keys],
            config=self.config.algorithm,
            step=step,
        )
        self._report(estimator, step, rows, rollouts, advantages_BT, counts, metrics, batch)
        advantages = response_to_nested(advantages_BT, rows.nested_mask)
        return tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict({"advantages": advantages}, batch_size=len(batch)),
        )

    def _step(self, estimator: str, rows: _Rows, groups: Groups) -> tuple[Step, list[list[Rollout]], dict[str, Any]]:
        """Collect the signal and decide which prompts can use it."""
        rollouts = [
            [
                rows.rollout(row, uid, session, len(members), self.tokenizer)
                for row, session in zip(members, sessions, strict=True)
            ]
            for uid, members, sessions in zip(groups.uids, groups.members(), groups.sessions, strict=True)
        ]
        signal = collect_safely(self.signal, rollouts, groups.mask_PN)
        failed_P = torch.tensor([cause is not None for cause in signal.failures], dtype=torch.bool)
        set_size = self.settings.set_size_at(self.global_steps)
        small_P = groups.sizes_P < min_group_size(estimator, set_size)
        self._check_failures(signal.failures)
        self._warn_of_failures(signal.failures)
        raw_PN = groups.gather(rows.rewards_BT.sum(-1))
        rewards_PN, odd_PN = self._check_rewards(estimator, raw_PN, groups.mask_PN)
        base_BT, lost_P = rows.advantages_BT, torch.zeros_like(failed_P)
        # verl's own estimators spread a NaN reward over the group, or the batch: no advantage is better than that.
        # Without one, padding rows are left as verl made them (opo divides by their length of 0).
        lost_B = ~torch.isfinite(base_BT).all(-1) & (groups.place_B >= 0)
        if lost_B.any():
            if estimator == "set_loo":
                lost_P = (groups.gather(lost_B.long()) > 0).any(-1)
            base_BT = base_BT.nan_to_num(0.0, 0.0, 0.0)
        step = Step(
            settings=self.settings,
            groups=groups,
            signal=signal,
            rewards_PN=rewards_PN,
            base_BT=base_BT,
            base_PN=groups.gather(_first_token(base_BT, rows.mask_BT)),
            trained_PN=groups.gather(rows.mask_BT.any(-1)),
            returns_BT=rows.returns_BT,
            generator=torch.Generator().manual_seed(self.settings.seed + self.global_steps),
            usable_P=~failed_P & ~small_P & ~lost_P,
            set_size=set_size,
            coef=self._coef(),
            auto_coef=self.auto_coef,
        )
        counts = {
            "failed_P": failed_P,
            "too_small": int((small_P & ~failed_P).sum()),
            "out_of_range": int(odd_PN.sum()),
        }
        return step, rollouts, counts

    def _warn_of_failures(self, failures: Sequence[str | None]) -> None:
        """One line for each of the commonest causes."""
        counts = Counter(cause for cause in failures if cause is not None)
        for cause, count in counts.most_common(MAX_CAUSES):
            logger.warning(
                "verl_setpo: step %s: %d prompts have no signal from %s and train on their base advantage: %s",
                self.global_steps,
                count,
                self.settings.signal.name,
                cause,
            )
        if len(counts) > MAX_CAUSES:
            logger.warning("verl_setpo: step %s: and %d causes more", self.global_steps, len(counts) - MAX_CAUSES)

    def _coef(self) -> float:
        """The coef of this step; under `auto` that of the batches so far, until the estimator adds this one."""
        coef = self.settings.coef
        if self.auto_coef is not None:
            return self.auto_coef.coef
        return coef.at(self.global_steps) if isinstance(coef, Schedule) else float(coef)

    def _check_failures(self, failures: Sequence[str | None]) -> None:
        """Raise RuntimeError where so many groups lack their signal that the run would no longer be the method."""
        causes = [cause for cause in failures if cause is not None]
        settings, name = self.settings, self.settings.signal.name
        if causes and settings.on_signal_failure == "error":
            raise RuntimeError(
                f"step {self.global_steps}: {len(causes)} of {len(failures)} prompts have no signal from {name} and "
                f"algorithm.set_rl.on_signal_failure=error: {causes[-1]}"
            )
        if len(causes) > settings.max_failed_fraction * len(failures):
            raise RuntimeError(
                f"step {self.global_steps}: {len(causes)} of {len(failures)} prompts have no signal from {name}, more "
                f"than algorithm.set_rl.max_failed_fraction={settings.max_failed_fraction:g} allows: {causes[-1]}"
            )

    def _check_rewards(
        self, estimator: str, raw_PN: torch.Tensor, mask_PN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards for the estimator, and where they are odd: outside `reward_range`, or not finite.

        Set objectives get them mapped to [0, 1]. set_loo's base method takes any finite reward as it is.

        Raises ValueError for an odd reward in the first step: that is a wrong key or a broken reward function. Later
        ones are clamped (NaN to the lowest) and counted, so that one of them does not end a long run.
        """
        if estimator == "set_loo":
            odd_PN = mask_PN & ~torch.isfinite(raw_PN)
            rewards_PN, cure = raw_PN.nan_to_num(0.0, 0.0, 0.0), "mend the reward function"
            what = "rewards are NaN or infinite"
        else:
            low, high = self.settings.reward_range
            odd_PN = mask_PN & ~((raw_PN >= low) & (raw_PN <= high))
            unit_PN = ((raw_PN - low) / (high - low)).nan_to_num(0.0).clamp(0.0, 1.0)
            rewards_PN = torch.where(mask_PN, unit_PN, 0.0)
            cure = f"set it to the lowest and highest reward there is, which {estimator} maps to [0, 1]"
            what = f"rewards lie outside algorithm.set_rl.reward_range=[{low}, {high}]"
        if odd_PN.any():
            message = f"{int(odd_PN.sum())} {what}, for example {raw_PN[odd_PN][0].item():g}: {cure}."
            if not self._checked_rewards:
                raise ValueError(message)
            logger.warning("verl_setpo: step %s: %s", self.global_steps, message)
        self._checked_rewards = True
        return rewards_PN, odd_PN

    def _report(
        self,
        estimator: str,
        step: Step,
        rows: _Rows,
        rollouts: list[list[Rollout]],
        advantages_BT: torch.Tensor,
        counts: dict[str, Any],
        metrics: dict,
        batch: KVBatchMeta,
    ) -> None:
        """Metrics for verl's loggers and, when asked for, one line per rollout."""
        clusters_PN = step.signal.clusters_PN
        report = StepReport(
            estimator=estimator,
            step=step,
            advantage_PN=step.groups.gather(_first_token(advantages_BT, rows.mask_BT)),
            clusters_PN=cluster_answers(rollouts) if clusters_PN is None else clusters_PN,
            **counts,
        )
        metrics.update(step_metrics(report))
        metrics.update(self._signal_metrics(step.signal.failures))
        if self.settings.rollout_log:
            extras = rows.log_extras(batch.keys, self.config.data.max_response_length, self.tokenizer.eos_token_id)
            write_rollout_log(
                self.settings.rollout_log, rollout_rows(report, extras, self.global_steps), self.global_steps
            )

    def _signal_metrics(self, failures: Sequence[str | None]) -> dict[str, float]:
        """Figures of the signal, under its name: every step says which one it used, and for how many prompts."""
        found = {"groups": float(sum(cause is None for cause in failures)), **self.signal.metrics()}
        return {f"set_rl/{self.settings.signal.name}/{name}": value for name, value in found.items()}


class _Rows:
    """The columns of one batch that the set estimators need, as padded (B, T) tensors or lists of length B."""

    def __init__(self, data: TensorDict, reward_field: str) -> None:
        self.nested_mask = data["response_mask"]
        self.responses = list(data["responses"].unbind())
        padded = data.select("response_mask", reward_field, "advantages", "returns").to_padded_tensor()
        self.mask_BT = padded["response_mask"]
        self.rewards_BT = padded[reward_field]
        self.advantages_BT = padded["advantages"]
        self.returns_BT = padded["returns"]
        self.extra_fields = list(data["extra_fields"]) if "extra_fields" in data else [{}] * len(self.responses)
        self.extra_info = list(data["extra_info"]) if "extra_info" in data else [{}] * len(self.responses)
        self.prompts = list(data["raw_prompt"]) if "raw_prompt" in data else [None] * len(self.responses)
        self.answers: dict[int, str] = {}

    @classmethod
    def read(cls, batch: KVBatchMeta, kl_in_reward: bool, with_prompt: bool) -> _Rows:
        reward_field = "token_level_rewards" if kl_in_reward else "rm_scores"
        fields = ["response_mask", "responses", reward_field, "advantages", "returns", "extra_fields", "extra_info"]
        if with_prompt:
            fields.append("raw_prompt")
        return cls(
            tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields), reward_field
        )

    def rollout(self, row: int, uid: str, session: int, group_size: int, tokenizer: Any) -> Rollout:
        tokens = self.responses[row]

        def text() -> str:
            return tokenizer.decode(tokens, skip_special_tokens=True)

        info = self.extra_fields[row].get("reward_extra_info") or {}
        answer = info.get("pred")
        # The reward function's own canonical answer, else what the response marks as its answer.
        self.answers[row] = find_answer(text()) if answer is None else str(answer)
        return Rollout(
            uid=uid,
            session=session,
            token_ids=tokens,
            answer=self.answers[row],
            text=text,
            question=question_of(self.prompts[row]),
            group_size=group_size,
            reward_extra_info=info,
        )

    def log_extras(self, keys: list[str], max_length: int, eos_token_id: int) -> list[dict[str, Any]]:
        extras: list[dict[str, Any]] = []
        for row, (key, tokens) in enumerate(zip(keys, self.responses, strict=True)):
            info = self.extra_info[row]
            extras.append(
                {
                    "key": key,
                    "prompt_index": info.get("index") if isinstance(info, dict) else None,
                    "answer": self.answers.get(row),
                    "length": len(tokens),
                    # verl keeps no finish reason: a response that fills the limit and does not end was cut.
                    "truncated": len(tokens) >= max_length and int(tokens[-1]) != eos_token_id,
                }
            )
        return extras


def _keep_warnings() -> None:
    """Log where verl's trainer process does: a library that vLLM imports there raises the root's level to ERROR."""
    ours, verls = logging.getLogger("verl_setpo"), logging.getLogger("verl")
    if verls.handlers:
        ours.handlers, ours.propagate = list(verls.handlers), False
        ours.setLevel(logging.WARNING)


def _first_token(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """(B,) each row's value at its first trained token; 0 where no token is trained."""
    first_B = mask_BT.argmax(-1, keepdim=True)
    return torch.where(mask_BT.any(-1), values_BT.gather(-1, first_B)[:, 0], 0.0)


def _count_nodes() -> int:
    """Nodes of the cluster that run actors; 1 where Ray has not started."""
    return max(sum(node["Alive"] for node in ray.nodes()), 1) if ray.is_initialized() else 1


def prepare_config(config: DictConfig, method: Method, run: Run) -> None:
    """Write into verl's config what the rest of verl must see under our method."""
    with open_dict(config):
        config.algorithm.set_rl.run = {"name": run.name, "nodes": run.nodes}
        # verl compares the mode's name and looks up keys by it, so the parent class must see its own.
        config.trainer.v1.trainer_mode = TRAINER_MODES[config.trainer.v1.trainer_mode]
        config.algorithm.adv_estimator = method.estimator
        config.algorithm.set_rl.base_estimator = method.base_estimator
        if method.base_estimator == "gae" and config.critic.enable is None:
            config.critic.enable = True  # verl would decide by adv_estimator, which is ours
        manager = config.reward.reward_manager
        if manager.name != "set_rl":
            # A recipe's own reward manager keeps giving the reward, inside ours.
            config.algorithm.set_rl.reward_manager = OmegaConf.create(OmegaConf.to_container(manager))
            manager.source, manager.name = "register", "set_rl"


@contextmanager
def _estimator(algorithm: DictConfig, base: str) -> Iterator[None]:
    """Let verl's own code see the base estimator's name while it computes the base advantage."""
    ours = algorithm.adv_estimator
    algorithm.adv_estimator = base
    try:
        yield
    finally:
        algorithm.adv_estimator = ours


@register_trainer("set_sync")
class SetSyncTrainer(SetRLMixin, PPOTrainerSync):
    """verl's synchronous trainer with set-level advantages."""


@register_trainer("set_colocate_async")
class SetColocateAsyncTrainer(SetRLMixin, PPOTrainerColocateAsync):
    """verl's colocated asynchronous trainer (partial rollouts) with set-level advantages."""


@register_trainer("set_separate_async")
class SetSeparateAsyncTrainer(SetRLMixin, PPOTrainerSeparateAsync):
    """verl's fully asynchronous trainer (separate rollout machines) with set-level advantages."""
