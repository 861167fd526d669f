"""The reward function of this package's tasks, for verl:

reward.custom_reward_function.path=pkg://verl_setpo.tasks.rewards
reward.custom_reward_function.name=compute_score
"""

from collections.abc import Mapping
from typing import Any

from verl_setpo.tasks import countdown, math, multiplication, polynomial
from verl_setpo.tasks.ground_truth import GroundTruth
from verl_setpo.tasks.math_sets import SETS

TASKS = {task.DATA_SOURCE: task for task in (polynomial, countdown, multiplication)}


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: GroundTruth | float,
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Score one response by the task that the row's `data_source` names; all sets of `SETS` are graded by `tasks.math`.

    kwargs: what verl adds, and the options of the task, which `reward.custom_reward_function.reward_kwargs` gives; see
    `verl_setpo.tasks.math.compute_score`.

    Returns `score` (a float in [0, 1]), `acc` (0.0 or 1.0), `pred` (the canonical answer, "" if there is none) and
    `grader_failed` (1.0 where a right answer may have scored 0.0, as it could not be graded).
    Raises ValueError for an unknown `data_source` or a broken `ground_truth`, never for a response.
    """
    task = math if data_source in SETS else TASKS.get(data_source)
    if task is None:
        known = ", ".join(sorted({*TASKS, *SETS}))
        raise ValueError(
            f"unknown data_source {data_source!r}: verl_setpo.tasks.rewards scores {known}; "
            "for other data name your own reward.custom_reward_function"
        )
    score: Any = task.compute_score
    # verl's colocated rewards ask every row of a batch for the keys of its first.
    return {"grader_failed": 0.0, **score(data_source, solution_str, ground_truth, extra_info, **kwargs)}
