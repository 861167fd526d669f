"""The step of a trainer in which advantages are computed: verl calls the set estimator, which builds on verl's base."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl import DataProto
from verl.trainer.ppo.core_algos import AdvantageEstimator
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from verl_setpo.signals import Rollout, Signal, collect_safely
from verl_setpo.signals.answer import cluster_answers
from verl_setpo.trainer.config_check import Method
from verl_setpo.trainer.estimators import Step, min_group_size, steps_from
from verl_setpo.trainer.groups import Groups
from verl_setpo.trainer.metrics import StepReport, step_metrics
from verl_setpo.trainer.rollout_log import rollout_rows, write_rollout_log
from verl_setpo.trainer.rows import GRADER_FAILED, Rows, first_token
from verl_setpo.trainer.schedule import AutoCoef, Schedule
from verl_setpo.trainer.settings import SetRLSettings

logger = logging.getLogger(__name__)

MAX_CAUSES = 5
"""Lines of a step about signals that failed."""


@dataclass(frozen=True)
class Base:
    """What verl's base method makes of a batch: rewards and mask as verl hands them to it, and what it returns.

    All (B, T), padded.
    """

    rewards_BT: torch.Tensor
    mask_BT: torch.Tensor
    advantages_BT: torch.Tensor
    returns_BT: torch.Tensor


class SetAdvantageMixin:
    """`_compute_advantage` of a verl trainer with set-level advantages; `SetRLMixin` sets the attributes up."""

    config: DictConfig
    global_steps: int
    tokenizer: Any
    method: Method
    settings: SetRLSettings
    signal: Signal
    auto_coef: AutoCoef | None
    _checked_rewards: bool
    _logged_step: int | None = None

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """verl's own step of advantages, in which it calls the set estimator as one of its own.

        So rewards and masks are read, and advantages written, once and by verl.
        """
        rows = Rows.read(
            batch,
            with_prompt=self.signal.needs_question,
            with_log=bool(self.settings.rollout_log),
            with_values=self.method.base_estimator == AdvantageEstimator.GAE,
        )
        groups = Groups.of(batch.keys, batch.tags)
        made: list[tuple[Base, Step, list[list[Rollout]], dict[str, Any]]] = []

        def make_step(rewards_BT: torch.Tensor, mask_BT: torch.Tensor, index: Any) -> Step:
            base = self._base(rewards_BT, mask_BT, index, rows.values_BT, batch.keys)
            made.append((base, *self._step(self.method.estimator, rows, base, groups)))
            return made[-1][1]

        with steps_from(make_step):
            batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        base, step, rollouts, counts = made.pop()
        self._report(self.method.estimator, step, rows, base, rollouts, counts, metrics, batch)
        return batch

    def _base(
        self,
        rewards_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        index: Any,
        values_BT: torch.Tensor | None,
        keys: list[str],
    ) -> Base:
        """The base method's advantages, by verl's own code."""
        algorithm = self.config.algorithm
        columns = {"token_level_rewards": rewards_BT, "response_mask": mask_BT}
        if values_BT is not None:
            columns["values"] = values_BT
        with _estimator(algorithm, self.method.base_estimator):
            data = compute_advantage_for_multi_trajectories(
                DataProto(TensorDict(columns, batch_size=len(keys)), {"uid": index}),
                batch_keys=keys,
                adv_estimator=self.method.base_estimator,
                gamma=algorithm.gamma,
                lam=algorithm.lam,
                num_repeat=self.config.actor_rollout_ref.rollout.n,
                norm_adv_by_std_in_grpo=algorithm.get("norm_adv_by_std_in_grpo", True),
                config=algorithm,
            ).batch
        return Base(rewards_BT, mask_BT, data["advantages"], data["returns"])

    def _step(
        self, estimator: str, rows: Rows, base: Base, groups: Groups
    ) -> tuple[Step, list[list[Rollout]], dict[str, Any]]:
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
        raw_PN = groups.gather(base.rewards_BT.sum(-1))
        rewards_PN, odd_PN = self._check_rewards(estimator, raw_PN, groups.mask_PN)
        base_BT, lost_P = base.advantages_BT, torch.zeros_like(failed_P)
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
            returns_BT=base.returns_BT,
            base_PN=groups.gather(first_token(base_BT, base.mask_BT)),
            trained_PN=groups.gather(base.mask_BT.any(-1)),
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
        rows: Rows,
        base: Base,
        rollouts: list[list[Rollout]],
        counts: dict[str, Any],
        metrics: dict,
        batch: KVBatchMeta,
    ) -> None:
        """Metrics for verl's loggers and, when asked for, one line per rollout."""
        clusters_PN = step.signal.clusters_PN
        assert step.advantages_BT is not None, "set by the estimator"
        report = StepReport(
            estimator=estimator,
            step=step,
            advantage_PN=step.groups.gather(first_token(step.advantages_BT, base.mask_BT)),
            clusters_PN=cluster_answers(rollouts) if clusters_PN is None else clusters_PN,
            **counts,
        )
        metrics.update(step_metrics(report))
        metrics.update(self._signal_metrics(step.signal.failures))
        graded = [rows.reward_says(row, GRADER_FAILED) for members in step.groups.members() for row in members]
        if any(failed is not None for failed in graded):
            # verl shows what a reward function returns for validation only.
            metrics["set_rl/grader_failed"] = float(sum(map(bool, graded)))
        if self.settings.rollout_log:
            extras = rows.log_extras(batch.keys, self.config.data.max_response_length, self.tokenizer.eos_token_id)
            lines, again = rollout_rows(report, extras, self.global_steps), self._logged_step == self.global_steps
            write_rollout_log(self.settings.rollout_log, lines, self.global_steps, again)
            self._logged_step = self.global_steps

    def _signal_metrics(self, failures: Sequence[str | None]) -> dict[str, float]:
        """Figures of the signal, under its name: every step says which one it used, and for how many prompts."""
        found = {"groups": float(sum(cause is None for cause in failures)), **self.signal.metrics()}
        return {f"set_rl/{self.settings.signal.name}/{name}": value for name, value in found.items()}


@contextmanager
def _estimator(algorithm: DictConfig, base: str) -> Iterator[None]:
    """Let verl's own code see the base estimator's name while it computes the base advantage."""
    ours = algorithm.adv_estimator
    algorithm.adv_estimator = base
    try:
        yield
    finally:
        algorithm.adv_estimator = ours
