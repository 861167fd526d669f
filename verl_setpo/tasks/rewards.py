"""The reward function of this package's tasks, for verl:

reward.custom_reward_function.path=pkg://verl_setpo.tasks.rewards
reward.custom_reward_function.name=compute_score
"""

from collections.abc import Mapping
from typing import Any

from verl_setpo.tasks import countdown, multiplication, polynomial
from verl_setpo.tasks.ground_truth import GroundTruth

TASKS = {task.DATA_SOURCE: task for task in (polynomial, countdown, multiplication)}


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: GroundTruth,
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Score one response by the task that the row's `data_source` names.

    Returns `score` (a float in [0, 1]), `acc` (0.0 or 1.0) and `pred` (the canonical answer, "" if there is none).
    Raises ValueError for an unknown `data_source` or a broken `ground_truth`, never for a response.
    """
    task = TASKS.get(data_source)
    if task is None:
        raise ValueError(
            f"unknown data_source {data_source!r}: verl_setpo.tasks.rewards scores {', '.join(sorted(TASKS))}; "
            "for other data name your own reward.custom_reward_function"
        )
    return task.compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)
