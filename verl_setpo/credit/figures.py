"""What an estimator does to all rollouts of a file, in a few sums; and the same over the values of a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from verl_setpo.credit.chunks import Chunk, one_reward
from verl_setpo.credit.trainer import Bench, Credited

CORRECT_ABOVE = 0.5
"""Of the reward in [0, 1]: the default of `algorithm.set_rl.correct_threshold`."""


@dataclass(frozen=True)
class Figures:
    """Counts and sums; `a + b` are those of both.

    size: sum of |advantage|. credit_size, rest_size: sums of |credit| and |advantage - credit| over the prompts that
    the estimator could use. zero_prompts: every advantage is 0; vanished_prompts: of those, where rewards differ;
    vanished_alike: of those, where the rollouts are of one strategy.
    correct_negative, wrong_positive: rollouts whose advantage contradicts their reward; ..._mixed: those of them in
    prompts with both correct and wrong rollouts. paid_wrong: wrong rollouts above 0 where all have one reward.
    inverted_prompts: of mixed_prompts, where the wrong rollouts' mean
    advantage is above the correct ones'. too_small, failed: prompts on their base advantage, for want of rollouts or of
    a signal. left_out: rollouts in no drawn set. flips: rollouts whose sign is opposite to that in another result.
    """

    prompts: int = 0
    rollouts: int = 0
    size: float = 0.0
    credit_size: float = 0.0
    rest_size: float = 0.0
    zero_prompts: int = 0
    vanished_prompts: int = 0
    vanished_alike: int = 0
    correct: int = 0
    wrong: int = 0
    correct_negative: int = 0
    wrong_positive: int = 0
    correct_negative_mixed: int = 0
    wrong_positive_mixed: int = 0
    paid_wrong: int = 0
    mixed_prompts: int = 0
    inverted_prompts: int = 0
    too_small: int = 0
    failed: int = 0
    left_out: int = 0
    flips: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def mean_size(self) -> float:
        """Mean |advantage|."""
        return self.size / max(self.rollouts, 1)

    @property
    def credit_share(self) -> float:
        """Share of the advantage's size that diversity brought, as the metric `set_rl/credit_share`."""
        whole = self.credit_size + self.rest_size
        return self.credit_size / whole if whole > 0 else 0.0


@dataclass(frozen=True)
class Signs:
    """Where the signs of a chunk's advantages go against its rewards. (P, N) and (P,) bool.

    against: a correct rollout below 0, a wrong one above. mixed: prompts with correct and wrong rollouts.
    inverted: mixed prompts whose wrong rollouts get more than the correct ones on average.
    vanished: every advantage is 0, though rewards differ.
    """

    correct_PN: torch.Tensor
    against_PN: torch.Tensor
    zero_P: torch.Tensor
    mixed_P: torch.Tensor
    inverted_P: torch.Tensor
    vanished_P: torch.Tensor


def correct_of(chunk: Chunk, reward_range: tuple[float, float]) -> torch.Tensor:
    """(P, N) True for rewards that count as correct, once mapped to [0, 1]."""
    low, high = reward_range
    return (chunk.rewards_PN - low) / (high - low) > CORRECT_ABOVE


def signs_of(chunk: Chunk, advantage_PN: torch.Tensor, correct_PN: torch.Tensor) -> Signs:
    """The signs of one estimator's advantages."""
    zero_P = (advantage_PN == 0).all(-1)
    mixed_P = correct_PN.any(-1) & ~correct_PN.all(-1)
    advantage = advantage_PN.double()
    correct_mean_P, wrong_mean_P = (
        torch.where(which_PN, advantage, 0.0).sum(-1) / which_PN.sum(-1).clamp(min=1)
        for which_PN in (correct_PN, ~correct_PN)
    )
    return Signs(
        correct_PN=correct_PN,
        against_PN=torch.where(correct_PN, advantage_PN < 0, advantage_PN > 0),
        zero_P=zero_P,
        mixed_P=mixed_P,
        inverted_P=mixed_P & (correct_mean_P < wrong_mean_P),
        vanished_P=zero_P & ~one_reward(chunk),
    )


def figures_of(
    bench: Bench,
    credited: Sequence[Credited],
    reward_range: tuple[float, float],
    first: Sequence[Credited] | None = None,
) -> Figures:
    """The figures of one estimator over all chunks of the bench.

    Args:
        first: another result on the same chunks, to count opposite signs against.
    """
    total = Figures()
    for place, (chunk, given) in enumerate(zip(bench.chunks, credited, strict=True)):
        other_PN = None if first is None else first[place].advantage_PN
        total += _of_chunk(chunk, given, correct_of(chunk, reward_range), bench.alike[place], other_PN)
    return total


def _of_chunk(
    chunk: Chunk,
    given: Credited,
    correct_PN: torch.Tensor,
    alike_P: torch.Tensor,
    other_PN: torch.Tensor | None,
) -> Figures:
    signs = signs_of(chunk, given.advantage_PN, correct_PN)
    advantage_PN, credit_PN = given.advantage_PN.double(), given.credit_PN.double()
    mixed_PN = signs.mixed_P[:, None]
    usable = advantage_PN[given.usable_P], credit_PN[given.usable_P]
    return Figures(
        prompts=len(chunk.groups),
        rollouts=advantage_PN.numel(),
        size=advantage_PN.abs().sum().item(),
        credit_size=usable[1].abs().sum().item(),
        rest_size=(usable[0] - usable[1]).abs().sum().item(),
        zero_prompts=_count(signs.zero_P),
        vanished_prompts=_count(signs.vanished_P & given.usable_P),
        vanished_alike=_count(signs.vanished_P & given.usable_P & alike_P),
        correct=_count(correct_PN),
        wrong=_count(~correct_PN),
        correct_negative=_count(signs.against_PN & correct_PN),
        wrong_positive=_count(signs.against_PN & ~correct_PN),
        correct_negative_mixed=_count(signs.against_PN & correct_PN & mixed_PN),
        wrong_positive_mixed=_count(signs.against_PN & ~correct_PN & mixed_PN),
        paid_wrong=_count(signs.against_PN & ~correct_PN & one_reward(chunk)[:, None]),
        mixed_prompts=_count(signs.mixed_P),
        inverted_prompts=_count(signs.inverted_P),
        too_small=_count(~given.usable_P & ~given.failed_P),
        failed=_count(given.failed_P),
        left_out=given.left_out,
        flips=0 if other_PN is None else _count(given.advantage_PN.sign() * other_PN.sign() < 0),
    )


def _count(where: torch.Tensor) -> int:
    return int(where.sum())
