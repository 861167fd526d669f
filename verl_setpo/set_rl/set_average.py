"""The marginal advantage (Poly-EPO, arXiv 2604.17654, Eq. 8) in three ways: closed form, all sets listed, given sets.

Arguments are checked by the caller.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from verl_setpo.set_rl.checks import all_finite
from verl_setpo.set_rl.noise import clear_noise, largest, subtract_mean
from verl_setpo.set_rl.objectives import Objective
from verl_setpo.set_rl.sets import ENUMERATION_LIMIT, all_sets, rollouts_first

# Rewards held at once while sets are listed: 128 MiB in float64.
_CHUNK = 2**24


class Groups(NamedTuple):
    """Rewards in float64 with 0 at masked places, labels and kernel where there are some, and a bool mask."""

    rewards_PN: Tensor
    labels_PN: Tensor | None
    kernel_PNN: Tensor | None
    mask_PN: Tensor

    def rows(self, rows: Tensor) -> "Groups":
        """The prompts of an index or a mask."""
        labels_PN, kernel_PNN = (None if x is None else x[rows] for x in (self.labels_PN, self.kernel_PNN))
        return Groups(self.rewards_PN[rows], labels_PN, kernel_PNN, self.mask_PN[rows])


def average_over_all_sets(groups: Groups, set_size: int, objective: Objective, reduction: str) -> Tensor:
    """Over all sets: by the objective's closed form where there is one, else one by one."""
    if objective.closed_form is None:
        return _average_over_listed_sets(groups, set_size, objective, reduction)
    return _average_over_closed_form(groups, set_size, objective, reduction)


def _average_over_closed_form(groups: Groups, set_size: int, objective: Objective, reduction: str) -> Tensor:
    rewards_PN, labels_PN, _, mask_PN = groups
    assert objective.closed_form is not None
    value_PN = objective.closed_form(rewards_PN, labels_PN, mask_PN, set_size)
    _check_values(value_PN, rewards_PN.shape, objective.name, mask_PN)
    # The terms that cancel are as large as the rewards, even where the value is not.
    scale_P1 = torch.maximum(largest(value_PN, mask_PN), largest(rewards_PN, mask_PN))
    advantage_PN = subtract_mean(value_PN, mask_PN, scale_P1)
    if reduction == "sum":
        counts = range(mask_PN.shape[1] + 1)
        sets_with_i = torch.tensor([_comb(count - 1, set_size - 1) for count in counts], dtype=torch.float64)
        times_P1 = sets_with_i.to(mask_PN.device)[mask_PN.sum(1, keepdim=True)]
        # 0 stays 0 even if there are more sets than float64 can count.
        advantage_PN = torch.where(advantage_PN == 0, 0.0, advantage_PN * times_P1)
    return advantage_PN


def _comb(items: int, draws: int) -> float:
    try:
        return float(math.comb(max(items, 0), draws))
    except OverflowError:
        return math.inf


def _average_over_listed_sets(groups: Groups, set_size: int, objective: Objective, reduction: str) -> Tensor:
    mask_PN = groups.mask_PN
    count_P = mask_PN.sum(1)
    most = int(count_P.max()) if len(count_P) else 0
    if math.comb(most, set_size) > ENUMERATION_LIMIT:
        raise ValueError(
            f"objective {objective.name!r} has no closed form and a prompt with {most} rollouts has "
            f"{math.comb(most, set_size)} sets of size {set_size}, more than the {ENUMERATION_LIMIT} that are listed: "
            "set num_sets to fewer."
        )
    order_PN = rollouts_first(mask_PN)
    advantage_PN = torch.zeros_like(groups.rewards_PN)
    for count in count_P[count_P > 0].unique().tolist():
        sets_Kn = all_sets(count, set_size).to(order_PN.device)
        entries = sets_Kn.numel() * (set_size if objective.needs_kernel else 1)
        for rows in (count_P == count).nonzero()[:, 0].split(max(1, _CHUNK // entries)):
            advantage_PN[rows] = average_over_sets(groups.rows(rows), order_PN[rows][:, sets_Kn], objective, reduction)
    return advantage_PN


def average_over_sets(groups: Groups, sets_PKn: Tensor, objective: Objective, reduction: str) -> Tensor:
    """Over the given sets, with their mean as baseline."""
    rewards_PN, mask_PN = groups.rewards_PN, groups.mask_PN
    if rewards_PN.numel() == 0:
        return rewards_PN
    # A prompt that is masked as a whole has sets of -1: any column will do, for what comes of it is dropped.
    sets_PKn = sets_PKn.clamp(min=0).to(rewards_PN.device)
    value_PK = _values_of_sets(groups, sets_PKn, objective)
    _check_values(value_PK, sets_PKn.shape[:2], objective.name, mask_PN.any(1, keepdim=True))
    value_PK = value_PK.to(torch.float64)
    set_advantage_PK = value_PK - value_PK.mean(1, keepdim=True)
    member_PM = sets_PKn.flatten(1)
    credit_PM = set_advantage_PK[:, :, None].expand(sets_PKn.shape).flatten(1)
    sum_PN = torch.zeros_like(rewards_PN).scatter_add(1, member_PM, credit_PM)
    times_PN = torch.zeros_like(rewards_PN).scatter_add(1, member_PM, torch.ones_like(credit_PM))
    mean_PN = clear_noise(sum_PN / times_PN.clamp(min=1), value_PK.abs().amax(1, keepdim=True))
    return torch.where(mask_PN, mean_PN * times_PN if reduction == "sum" else mean_PN, 0.0)


def _values_of_sets(groups: Groups, sets_PKn: Tensor, objective: Objective) -> Tensor:
    """value_PK: f of each set."""
    rewards_PN, labels_PN, kernel_PNN, _ = groups

    def of_sets(values_PN: Tensor) -> Tensor:
        return values_PN.gather(1, sets_PKn.flatten(1)).view(sets_PKn.shape)

    arguments = [of_sets(rewards_PN), None if labels_PN is None else of_sets(labels_PN)]
    if objective.needs_kernel:
        assert kernel_PNN is not None
        prompt_P = torch.arange(len(sets_PKn), device=sets_PKn.device)[:, None, None, None]
        arguments.append(kernel_PNN[prompt_P, sets_PKn[..., :, None], sets_PKn[..., None, :]])
    return objective.function(*arguments)


def _check_values(value: Tensor, shape: torch.Size, name: str, valid: Tensor) -> None:
    if not isinstance(value, Tensor) or value.shape != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"objective {name!r} returned {got} where a tensor of shape {tuple(shape)} was due: mend it.")
    if not all_finite(value.masked_fill(~valid, 0)):
        raise ValueError(f"objective {name!r} returned NaN or infinity: mend it, or check the rewards.")
