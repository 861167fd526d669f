"""Rewards outside `--reward-range`, which would end a run in its first step."""

from __future__ import annotations

from verl_setpo.credit.layout import Rollout, parse_rollout
from verl_setpo.credit.reading import Source, rows_of
from verl_setpo.evaluation.jsonl import BrokenLineError
from verl_setpo.evaluation.text import printable


def check_rewards(source: Source, low: float, high: float) -> None:
    """Raise ValueError with the place of the first reward that a run would refuse in its first step."""
    rewards = [rollout.reward for group in source.groups for rollout in group.rollouts]
    odd = next((r for group in source.groups for r in group.rollouts if not low <= r.reward <= high), None)
    if odd is not None:
        lowest, highest = min(low, *rewards), max(high, *rewards)
        raise ValueError(
            f"{printable(source.path)}, line {line_of(source, odd)}: the reward {odd.reward:g} lies outside "
            f"--reward-range {low:g} {high:g}, as {sum(not low <= r <= high for r in rewards)} of {len(rewards)} do: "
            f"give the lowest and highest reward there is, such as --reward-range {lowest:g} {highest:g}."
        )


def line_of(source: Source, wanted: Rollout) -> int | None:
    """The first line of the file, or element of its array, from 1, with the rollout's prompt and reward."""
    for number, row in rows_of(source.path):
        if not isinstance(row, dict):
            continue
        try:
            found = parse_rollout(row, source.layout, False, text_numbers=source.path.suffix.lower() == ".csv")
        except BrokenLineError:
            continue
        if (found.prompt, found.reward) == (wanted.prompt, wanted.reward):
            return number
    return None
