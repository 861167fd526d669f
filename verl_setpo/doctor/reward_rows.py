"""What is asked of a run's reward about a row of its data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from verl_setpo.tasks import countdown
from verl_setpo.tasks.countdown_solutions import MAX_SOLVE_COUNT, search
from verl_setpo.tasks.rewards import TASKS

GARBAGE = "\\boxed{\\frac{{{((( ]] <answer> #### <|im_end|> \u202e\u0000 9^9^9^9 Answer: import os" + " }{" * 40
"""What no reward function may pay, or break on."""


def own_answers(row: dict[str, Any]) -> list[str]:
    """Responses that give the row's own ground truth as their answer: in all forms that reward functions look for, and
    as it stands. Of our tasks whose ground truth is the problem, a solution of it. No response where there is no
    solution, or where none is sought: Countdown with more than MAX_SOLVE_COUNT numbers could take for ever.

    Raises ValueError for a ground truth that is broken or missing.
    """
    gold = (row.get("reward_model") or {}).get("ground_truth")
    if gold is None:
        raise ValueError("it has no reward_model.ground_truth")
    task = TASKS.get(row.get("data_source", ""))
    answer = str(gold)
    if task is countdown:
        # The first solution: to draw from all of them takes 20 times as long with 4 numbers, 200 times with 5.
        puzzle = countdown.Problem.from_ground_truth(gold)
        if len(puzzle.numbers) > MAX_SOLVE_COUNT:
            return []
        found = next(search([(Fraction(number), number) for number in puzzle.numbers], puzzle.target), None)
        if found is None:
            return []
        answer = str(found)
    elif task is not None:
        problem: Any = task.Problem  # each of our tasks has one of its own
        answer = problem.from_ground_truth(gold).sample_answer(random.Random(0), wrong_share=0.0)
    every_form = (
        f"<think>Let me see.</think>\n<answer>{answer}</answer>\n#### {answer}\nAnswer: {answer}\n"
        f"The final answer is $\\boxed{{{answer}}}$."
    )
    return [every_form, answer]


def objects(values: Sequence[Any]) -> Any:
    """A numpy array of the values as they are."""
    import numpy as np

    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
