"""What the bandit showed: figures with intervals over seeds, as a table for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from verl_setpo.demo.bandit import MODES, REWARDED, Settings, Trace
from verl_setpo.evaluation import bootstrap_interval
from verl_setpo.evaluation.comparison import CONFIDENCE, Estimate

if TYPE_CHECKING:
    from rich.table import Table

THRESHOLD = 0.05  # the probability above which a mode counts as kept


@dataclass(frozen=True)
class Summary:
    """Means over seeds of one method."""

    method: str
    effective_modes: Estimate
    modes_kept: Estimate
    mean_reward: Estimate
    probability: tuple[Estimate, ...]  # of each mode: the rewarded ones by rank within their seed, then the others
    steps: tuple[int, ...]
    effective_modes_over_training: tuple[Estimate, ...]
    mean_reward_over_training: tuple[Estimate, ...]


def summarise(method: str, trace: Trace) -> Summary:
    # Sorted within each seed: which mode wins is chance, so that unsorted bars would hide a collapse in the mean.
    final_PM = trace.probability_TPM[-1].clone()
    final_PM[:, :REWARDED] = final_PM[:, :REWARDED].sort(1, descending=True).values
    effective_modes = tuple(_estimate(values_P) for values_P in trace.effective_modes_TP)
    mean_reward = tuple(_estimate(values_P) for values_P in trace.mean_reward_TP)
    return Summary(
        method=method,
        effective_modes=effective_modes[-1],
        modes_kept=_estimate(trace.modes_above_TP(THRESHOLD)[-1]),
        mean_reward=mean_reward[-1],
        probability=tuple(_estimate(values_P) for values_P in final_PM.T),
        steps=tuple(trace.steps_T),
        effective_modes_over_training=effective_modes,
        mean_reward_over_training=mean_reward,
    )


def _estimate(values_P: Any) -> Estimate:
    values = np.asarray(values_P, dtype=np.float64)
    return Estimate(float(values.mean()), *bootstrap_interval(values, CONFIDENCE))


def caption(settings: Settings) -> str:
    """What the figures are measured on."""
    return (
        f"{settings.seeds} seeds, {settings.steps} steps of {settings.rollouts} rollouts, {settings.optimizer} with "
        f"learning rate {settings.chosen_learning_rate:g}; {CONFIDENCE:.0%} bootstrap intervals over seeds"
    )


def rich_table(summaries: list[Summary], settings: Settings) -> Table:
    """For the terminal, 80 columns wide."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.caption_justify = "left"
    table.caption = Text(
        f"{caption(settings)}. Effective modes: exp of the entropy of the policy given a rewarded mode, 1 to "
        f"{REWARDED}. Kept: more than {THRESHOLD:.0%} of the policy. Mean reward: the probability of rewarded modes."
    )
    table.add_column("method")
    for header in ("effective\nrewarded modes", f"rewarded modes\nkept (of {REWARDED})", "mean reward"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in summaries:
        table.add_row(row.method, _cell(row.effective_modes, 2), _cell(row.modes_kept, 2), _cell(row.mean_reward, 3))
    return table


def _cell(estimate: Estimate, digits: int) -> str:
    mean, low, high = (f"{value:.{digits}f}" for value in estimate)
    return f"{mean} [dim]{low}-{high}[/]"


def json_summary(summaries: list[Summary], settings: Settings, method_settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same figures and the curves as plain JSON values."""
    return {
        "settings": {
            "seeds": settings.seeds,
            "steps": settings.steps,
            "rollouts": settings.rollouts,
            **method_settings,
            "optimizer": settings.optimizer,
            "learning_rate": settings.chosen_learning_rate,
            "modes": MODES,
            "rewarded_modes": REWARDED,
            "kept_above": THRESHOLD,
            "confidence": CONFIDENCE,
        },
        "methods": [
            {
                "method": row.method,
                "effective_modes": row.effective_modes._asdict(),
                "modes_kept": row.modes_kept._asdict(),
                "mean_reward": row.mean_reward._asdict(),
                "probability": [estimate._asdict() for estimate in row.probability],
                "training": [
                    {"step": step, "effective_modes": effective._asdict(), "mean_reward": reward._asdict()}
                    for step, effective, reward in zip(
                        row.steps, row.effective_modes_over_training, row.mean_reward_over_training, strict=True
                    )
                ],
            }
            for row in summaries
        ],
    }
