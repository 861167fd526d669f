"""The training curves of the page: which figures of metrics.jsonl, and how a noisy one is made readable."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MOST_POINTS = 400  # of a curve; longer runs are averaged over equal spans of steps
SMOOTH_OVER = 15  # the smooth line is the mean over about a fifteenth of the run


class TrainingFigure(NamedTuple):
    key: str  # in metrics.jsonl
    title: str
    percent: bool = False


FIGURES = (
    TrainingFigure("critic/score/mean", "Reward"),
    TrainingFigure("set_rl/correct_clusters_per_prompt/mean", "Distinct clusters among the correct"),
    TrainingFigure("set_rl/prompts_with_correct", "Coverage: prompts with a correct rollout", percent=True),
    TrainingFigure("actor/entropy", "Entropy of the policy"),
    TrainingFigure("set_rl/credit_share", "Share of the advantage that is credit", percent=True),
    TrainingFigure("set_rl/zero_advantage_prompts", "Prompts that teach nothing", percent=True),
)


class Curve(NamedTuple):
    """S points, by step."""

    step_S: list[float]
    value_S: list[float]  # as logged, or means over spans of steps
    smooth_S: list[float]  # running mean


def training_curve(values: dict[int, float]) -> Curve:
    """A curve of at most MOST_POINTS points from the figures by step, of which there is at least one."""
    step_S = np.array(sorted(values), dtype=np.float64)
    value_S = np.array([values[int(step)] for step in step_S])
    if len(step_S) > MOST_POINTS:
        parts = np.array_split(np.arange(len(step_S)), MOST_POINTS)
        step_S = np.array([step_S[part].mean() for part in parts])
        value_S = np.array([value_S[part].mean() for part in parts])
    return Curve(step_S.tolist(), value_S.tolist(), running_mean(value_S, len(value_S) // SMOOTH_OVER).tolist())


def running_mean(value_S: np.ndarray, reach: int) -> np.ndarray:
    """(S,) mean over up to `reach` points on either side, as many on both, so that the ends are not bent."""
    total = np.concatenate([[0.0], np.cumsum(value_S)])
    position = np.arange(len(value_S))
    reach_S = np.minimum(np.minimum(position, len(value_S) - 1 - position), reach)
    return (total[position + reach_S + 1] - total[position - reach_S]) / (2 * reach_S + 1)
