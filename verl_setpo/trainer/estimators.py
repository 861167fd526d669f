"""The advantage estimators that verl finds under `algorithm.adv_estimator`.

verl hands an estimator rewards, masks and prompt ids. A set estimator also needs the group's diversity signal and the
base method's advantage; our trainer modes make both into a `Step`, by `steps_from`. Outside of it an estimator stops
with the key to set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from verl.trainer.ppo.core_algos import register_adv_est

from verl_setpo.set_rl import (
    advantage_from_sets,
    count_left_out,
    equality_kernel,
    get_objective,
    grpo_div,
    has_more_sets,
    marginal_set_advantage,
    sample_sets,
    set_diversity,
    set_loo,
)
from verl_setpo.signals import SignalBatch
from verl_setpo.trainer.config_check import wrong_mode_message
from verl_setpo.trainer.groups import Groups
from verl_setpo.trainer.schedule import AutoCoef
from verl_setpo.trainer.settings import MIN_GROUP_SET_LOO, SetRLSettings, objective_of


@dataclass
class Step:
    """What one training step gives an estimator, and what the estimator leaves for metrics and log.

    rewards_PN: rewards of the rollouts, mapped from `reward_range` to [0, 1] for set objectives.
    base_BT, returns_BT: advantages and returns of `base_estimator`, computed by verl.
    base_PN: the base advantage of each rollout, at its first trained token.
    trained_PN: rollouts with a token that is trained on.
    usable_P: prompts with a signal and enough rollouts; the others keep their base advantage.
    set_size, coef: in force in this step.
    auto_coef: chooses coef once the estimator knows the credit; None where coef is given.
    advantages_BT: set by the estimator: what is trained on.
    credit_PN: set by the estimator: the part of each rollout's advantage that diversity brought.
    left_out: set by the estimator where sets are drawn: rollouts that are in none of them, and get no advantage.
    """

    settings: SetRLSettings
    groups: Groups
    signal: SignalBatch
    rewards_PN: torch.Tensor
    base_BT: torch.Tensor
    returns_BT: torch.Tensor
    base_PN: torch.Tensor
    trained_PN: torch.Tensor
    generator: torch.Generator
    usable_P: torch.Tensor
    set_size: int
    coef: float
    auto_coef: AutoCoef | None = None
    advantages_BT: torch.Tensor | None = None
    credit_PN: torch.Tensor | None = None
    left_out: int | None = None

    @property
    def usable_PN(self) -> torch.Tensor:
        """(P, N) True for the rollouts of usable prompts."""
        return self.groups.mask_PN & self.usable_P[:, None]

    @property
    def kernel_PNN(self) -> torch.Tensor:
        """The signal's kernel, or that of its clusters."""
        if self.signal.kernel_PNN is not None:
            return self.signal.kernel_PNN
        assert self.signal.clusters_PN is not None
        return equality_kernel(self.signal.clusters_PN, self.groups.mask_PN)

    @property
    def counted_PN(self) -> torch.Tensor:
        """(P, N) True for the usable rollouts that are trained on: what `coef=auto` and the credit's figures are of."""
        return self.usable_PN & self.trained_PN

    def settle_coef(self, credit_PN: torch.Tensor, rest_PN: torch.Tensor) -> float:
        """The coef of this step, given the credit at coef 1 and the other part of the advantage."""
        if self.auto_coef is not None:
            # NaN without such a rollout: the running means take nothing in.
            credit, rest = (x[self.counted_PN].double().abs().mean().item() for x in (credit_PN, rest_PN))
            self.coef = self.auto_coef.update(credit, rest)
        return self.coef


Advantages = tuple[torch.Tensor, torch.Tensor]
Estimator = Callable[..., Advantages]
MakeStep = Callable[[torch.Tensor, torch.Tensor, Any], Step]
"""Of verl's token_level_rewards and response_mask (both (B, T)) and index (B prompt ids)."""
_make_step: ContextVar[MakeStep | None] = ContextVar("make_step", default=None)


@contextmanager
def steps_from(make: MakeStep) -> Iterator[None]:
    """Within it, a set estimator that verl calls asks `make` for its step."""
    before = _make_step.set(make)
    try:
        yield
    finally:
        _make_step.reset(before)


def min_group_size(estimator: str, set_size: int) -> int:
    """Rollouts that a prompt needs for the estimator to say anything about it."""
    if estimator == "set_loo":
        return MIN_GROUP_SET_LOO
    # With n = N there is one set, and its advantage is 0 by construction.
    return 2 if estimator == "grpo_div" else set_size + 1


def _register(name: str) -> Callable[[Callable[[Step, torch.Tensor], torch.Tensor]], Estimator]:
    """Register under verl's calling convention a function of (step, response_mask) that gives advantages (B, T).

    The second of the pair is what verl calls returns: those of the base estimator.
    """

    def decorate(function: Callable[[Step, torch.Tensor], torch.Tensor]) -> Estimator:
        def estimator(
            token_level_rewards: torch.Tensor,
            response_mask: torch.Tensor,
            index: Any = None,
            **kwargs: Any,
        ) -> Advantages:
            make = _make_step.get()
            if make is None:
                raise ValueError(wrong_mode_message(name))
            step = make(token_level_rewards, response_mask, index)
            step.advantages_BT = function(step, response_mask)
            return step.advantages_BT, step.returns_BT

        estimator.__name__ = f"{name}_advantage"
        estimator.__doc__ = function.__doc__
        return register_adv_est(name)(estimator)

    return decorate


@_register("set_loo")
def set_loo_advantage(step: Step, response_mask_BT: torch.Tensor) -> torch.Tensor:
    """SetPO: the base advantage plus coef times the leave-one-out credit, raw (arXiv 2602.01062, Alg. 1)."""
    unit_PN = set_loo(step.kernel_PNN, step.usable_PN, step.settings.shaping, center=step.settings.center)
    coef = step.settle_coef(unit_PN, step.base_PN)
    step.credit_PN = coef * unit_PN
    if coef == 0:
        return step.base_BT  # not even a signed zero differs from the base method
    return step.base_BT + step.groups.scatter(step.credit_PN)[:, None] * response_mask_BT


@_register("poly_epo")
def poly_epo_advantage(step: Step, response_mask_BT: torch.Tensor) -> torch.Tensor:
    """Poly-EPO: the marginal advantage of the polychromic objective (arXiv 2604.17654, Eq. 8 and 10)."""
    return _set_rl(step, response_mask_BT, objective_of("poly_epo", step.settings))


@_register("set_rl")
def set_rl_advantage(step: Step, response_mask_BT: torch.Tensor) -> torch.Tensor:
    """Set RL: the marginal advantage of `algorithm.set_rl.objective` (arXiv 2604.17654, Eq. 8)."""
    return _set_rl(step, response_mask_BT, step.settings.objective)


@_register("grpo_div")
def grpo_div_advantage(step: Step, response_mask_BT: torch.Tensor) -> torch.Tensor:
    """GRPO+DIV, Poly-EPO's baseline: a bonus for rare clusters, whatever the reward (arXiv 2604.17654, section 6)."""
    clusters_PN = _clusters(step)
    bonus_PN = grpo_div(torch.zeros_like(step.rewards_PN), clusters_PN, 1.0, step.usable_PN)
    reward_only_PN = grpo_div(step.rewards_PN, clusters_PN, 0.0, step.usable_PN)
    coef = step.settle_coef(bonus_PN, reward_only_PN)
    advantage_PN = grpo_div(step.rewards_PN, clusters_PN, coef, step.usable_PN)
    step.credit_PN = advantage_PN - reward_only_PN
    return _replace(step, advantage_PN, response_mask_BT)


def _set_rl(step: Step, response_mask_BT: torch.Tensor, objective: str) -> torch.Tensor:
    settings, set_size, num_sets = step.settings, step.set_size, step.settings.num_sets
    drawn_P = torch.zeros_like(step.usable_P)
    if num_sets is not None:
        # A ragged group may have no more than num_sets sets, and then uses them all.
        drawn_P = step.usable_P & has_more_sets(step.usable_PN, set_size, num_sets)
    kernel_PNN = step.kernel_PNN if get_objective(objective).needs_kernel else None

    def of(rows_P: torch.Tensor) -> dict[str, Any]:
        clusters_PN = step.signal.clusters_PN
        return {
            "rewards_PN": step.rewards_PN[rows_P],
            "clusters_PN": None if clusters_PN is None else clusters_PN[rows_P],
            "kernel_PNN": None if kernel_PNN is None else kernel_PNN[rows_P],
            "mask_PN": step.usable_PN[rows_P],
            "objective": objective,
            "zero_single_cluster": settings.zero_single_cluster,
            "reduction": settings.reduction,
        }

    advantage_PN = torch.zeros_like(step.rewards_PN)
    whole_P = step.usable_P & ~drawn_P
    advantage_PN[whole_P] = marginal_set_advantage(**of(whole_P), set_size=set_size)
    if num_sets is not None:
        drawn = of(drawn_P)
        sets_PKn = sample_sets(drawn["mask_PN"], set_size, num_sets, step.generator)
        advantage_PN[drawn_P] = advantage_from_sets(**drawn, sets_PKn=sets_PKn)
        step.left_out = int(count_left_out(sets_PKn, drawn["mask_PN"]).sum())
    step.credit_PN = advantage_PN - _reward_part(step, objective)
    return _replace(step, advantage_PN, response_mask_BT)


def _reward_part(step: Step, objective: str) -> torch.Tensor:
    """What the advantage would be if only mean reward varied between sets, and diversity stayed at its mean."""
    settings, mask_PN = step.settings, step.usable_PN
    reward_PN = marginal_set_advantage(
        step.rewards_PN[step.usable_P],
        set_size=step.set_size,
        objective="mean",
        mask_PN=mask_PN[step.usable_P],
        reduction=settings.reduction,
    )
    part_PN = torch.zeros_like(step.rewards_PN)
    part_PN[step.usable_P] = reward_PN
    if objective == "polychromic":
        part_PN *= expected_diversity(_clusters(step), mask_PN, step.set_size)[:, None]
    return part_PN


def expected_diversity(clusters_PN: torch.Tensor, mask_PN: torch.Tensor, set_size: int) -> torch.Tensor:
    """(P,) mean over all sets of distinct clusters / n (Poly-EPO Eq. 11); 0 for prompts with fewer than n rollouts."""
    diversity_P = torch.zeros(len(mask_PN))
    enough_P = mask_PN.sum(-1) >= set_size
    if enough_P.any():
        diversity_P[enough_P] = set_diversity(clusters_PN[enough_P], set_size=set_size, mask_PN=mask_PN[enough_P])
    return diversity_P


def _clusters(step: Step) -> torch.Tensor:
    assert step.signal.clusters_PN is not None, "checked at start: this estimator takes a signal of clusters"
    return step.signal.clusters_PN


def _replace(step: Step, advantage_PN: torch.Tensor, response_mask_BT: torch.Tensor) -> torch.Tensor:
    """The set advantage on the rows of usable prompts, the base advantage on the others."""
    ours_BT = step.groups.scatter(advantage_PN)[:, None] * response_mask_BT
    usable_B = step.groups.scatter(step.usable_PN)
    return torch.where(usable_B[:, None], ours_BT.to(step.base_BT.dtype), step.base_BT)
