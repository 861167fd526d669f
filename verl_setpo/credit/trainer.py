"""The trainer's own step of advantages, on rollouts from a file: no queue, no workers, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

from verl_setpo.credit.chunks import Chunk, one_strategy
from verl_setpo.credit.methods import BASES, Choice, check
from verl_setpo.signals import Rollout, Signal, SignalBatch
from verl_setpo.trainer.advantages import Base, SetAdvantageMixin
from verl_setpo.trainer.config_check import Method
from verl_setpo.trainer.estimators import steps_from
from verl_setpo.trainer.groups import Groups
from verl_setpo.trainer.rows import Rows, first_token
from verl_setpo.trainer.settings import WITH_COEF


@dataclass(frozen=True)
class Credited:
    """What an estimator gives a chunk.

    advantage_PN: as trained on. credit_PN: the part that diversity brought; 0 for verl's own estimators.
    usable_P: prompts with a signal and enough rollouts; the others keep their base advantage.
    failed_P: prompts without a signal. left_out: rollouts that no drawn set holds. coef, set_size: in force, None
    for an estimator without one.
    """

    advantage_PN: torch.Tensor
    credit_PN: torch.Tensor
    usable_P: torch.Tensor
    failed_P: torch.Tensor
    left_out: int = 0
    coef: float | None = None
    set_size: int | None = None


class _Said(Signal):
    """What a signal said of a chunk, said again, so that it is asked once for all estimators and sweeps."""

    def __init__(self, batch: SignalBatch) -> None:
        self._batch = batch

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        return self._batch


class _SaidClusters(_Said):
    provides = "clusters"


class _SaidKernel(_Said):
    provides = "kernel"


class _FileRows(Rows):
    """Rollouts that nothing but `_Said` looks at."""

    def __init__(self) -> None:
        pass

    def rollout(self, row: int, uid: str, session: int, group_size: int, tokenizer: Any) -> Rollout:
        return _NOBODY


_NOBODY = Rollout(uid="", session=0, token_ids=torch.empty(0, dtype=torch.int64), answer="", text=str)
"""`_Said` looks at no rollout."""


class _DryRun(SetAdvantageMixin):
    """A trainer of which only the step of advantages is there."""

    def __init__(self, config: DictConfig, method: Method, signal: Signal) -> None:
        self.config, self.method, self.settings, self.signal = config, method, method.settings, signal
        self.global_steps = 1
        self.tokenizer = self.auto_coef = None
        self._checked_rewards = False  # an odd reward is refused, as in a run's first step

    def _warn_of_failures(self, failures: Sequence[str | None]) -> None:
        """Told once for the whole file, not for each chunk and value of a sweep."""

    def credit(self, base: Base, groups: Groups) -> Credited:
        """As `_compute_advantage`, once verl has called the estimator, with the base method's advantage at hand."""
        estimator = self.method.estimator
        step, _, counts = self._step(estimator, _FileRows(), base, groups)
        with steps_from(lambda *_: step):
            advantages_BT, _ = get_adv_estimator_fn(estimator)(
                token_level_rewards=base.rewards_BT, response_mask=base.mask_BT, config=self.config.algorithm
            )
        assert step.credit_PN is not None
        return Credited(
            advantage_PN=groups.gather(first_token(advantages_BT, base.mask_BT)),
            credit_PN=torch.where(step.usable_PN, step.credit_PN, 0.0),
            usable_P=step.usable_P,
            failed_P=counts["failed_P"],
            left_out=step.left_out or 0,
            coef=step.coef if estimator in WITH_COEF else None,
            set_size=None if estimator in WITH_COEF else step.set_size,
        )


class Bench:
    """Chunks with their signal, on which any choice can be tried. verl's base advantage is computed once."""

    def __init__(self, chunks: Sequence[Chunk], signals: Sequence[SignalBatch], signal_keys: dict[str, Any]) -> None:
        """signal_keys: name and keys of the signal as a run would have them, for its checks."""
        self.chunks, self.signals, self._signal_keys = list(chunks), list(signals), signal_keys
        self.alike = [one_strategy(batch) for batch in signals]
        self.largest = max(chunk.size for chunk in chunks)
        self._bases: dict[tuple[int, bool], torch.Tensor] = {}

    def credit(self, choice: Choice) -> list[Credited]:
        """What the choice gives each chunk. With `num_sets`, sets are drawn as a first step draws them, by `seed`.

        Raises:
            ValueError: what would stop a run at its start or in its first step.
        """
        if choice.group is None:
            return [self._verls_own(place, BASES[choice.name]) for place in range(len(self.chunks))]
        config, method = check(choice, self.largest, self._signal_keys)
        by_std = bool(config.algorithm.get("norm_adv_by_std_in_grpo", True))
        credited = []
        for place, (chunk, batch) in enumerate(zip(self.chunks, self.signals, strict=True)):
            signal = _SaidKernel(batch) if batch.clusters_PN is None else _SaidClusters(batch)
            credited.append(_DryRun(config, method, signal).credit(self._base_of(place, by_std), _groups(chunk)))
        return credited

    def _verls_own(self, place: int, by_std: bool) -> Credited:
        base_PN = self._base(place, by_std)
        all_P = torch.ones(len(base_PN), dtype=torch.bool)
        return Credited(base_PN, torch.zeros_like(base_PN), all_P, ~all_P)

    def _base_of(self, place: int, by_std: bool) -> Base:
        """A row for each rollout, its response one token long: advantages are the same on all tokens of a response."""
        rewards_BT = self.chunks[place].rewards_PN.reshape(-1, 1)
        advantages_BT = self._base(place, by_std).reshape(-1, 1)
        return Base(rewards_BT, torch.ones_like(rewards_BT), advantages_BT, advantages_BT)

    def _base(self, place: int, by_std: bool) -> torch.Tensor:
        """(P, N) advantages by verl's GRPO."""
        if (place, by_std) not in self._bases:
            rewards_PN = self.chunks[place].rewards_PN
            rewards_BT = rewards_PN.reshape(-1, 1)
            advantages_BT, _ = get_adv_estimator_fn("grpo")(
                token_level_rewards=rewards_BT,
                response_mask=torch.ones_like(rewards_BT),
                index=np.repeat(np.arange(len(rewards_PN)), rewards_PN.shape[1]),
                norm_adv_by_std_in_grpo=by_std,
            )
            self._bases[place, by_std] = advantages_BT.view_as(rewards_PN)
        return self._bases[place, by_std]


def _groups(chunk: Chunk) -> Groups:
    """Rows in order of prompt and session, none missing."""
    rows_PN = torch.arange(chunk.rewards_PN.numel()).view_as(chunk.rewards_PN)
    return Groups(
        uids=[group.uid for group in chunk.groups],
        sessions=[list(range(chunk.size))] * len(chunk.groups),
        rows_PN=rows_PN,
        mask_PN=torch.ones_like(rows_PN, dtype=torch.bool),
        place_B=torch.arange(rows_PN.numel()),
    )
