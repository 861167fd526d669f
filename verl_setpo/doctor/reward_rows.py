"""A sample of a run's training data, and what is asked of its reward about each row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from verl_setpo.tasks import countdown
from verl_setpo.tasks.countdown_solutions import MAX_SOLVE_COUNT, search
from verl_setpo.tasks.rewards import TASKS

FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
GARBAGE = "\\boxed{\\frac{{{((( ]] <answer> #### <|im_end|> \u202e\u0000 9^9^9^9 Answer: import os" + " }{" * 40
"""What no reward function may pay, or break on."""


class CannotRead(Exception):
    """A file is not to be read here; the message says why."""


def sample(config: DictConfig, count: int) -> tuple[list[dict[str, Any]], int]:
    """Rows of `data.train_files`, evenly spread over all of them, and how many there are.

    A row has the columns that the reward sees, and `at`, its place in words.
    Raises CannotRead.
    """
    import pyarrow.dataset as ds

    value = config.data.train_files
    files = [Path(str(name)).expanduser() for name in (value if isinstance(value, list | ListConfig) else [value])]
    remote = next((str(file) for file in files if ":/" in str(file)), None)
    if remote is not None:
        raise CannotRead(f"data.train_files={remote} is not on this machine")
    tables = []
    for file in files:
        if not file.is_file():
            raise CannotRead(f"there is no file {file}")
        if file.suffix not in FORMATS:
            raise CannotRead(f"{file.name} is neither parquet nor JSON lines")
        try:
            tables.append((file, ds.dataset(str(file), format=FORMATS[file.suffix])))
        except (OSError, ValueError) as error:
            raise CannotRead(f"{file.name} cannot be read ({str(error).splitlines()[0]:.200})") from None
    sizes = [table.count_rows() for _, table in tables]
    total = sum(sizes)
    wanted = [index * total // min(count, total) for index in range(min(count, total))]
    prompt = str(config.data.get("prompt_key", "prompt"))
    columns = {"data_source", "reward_model", "extra_info", prompt}
    rows: list[dict[str, Any]] = []
    for (file, table), size in zip(tables, sizes, strict=True):
        own, wanted = [i for i in wanted if i < size], [i - size for i in wanted if i >= size]
        if own:
            found = table.take(own, columns=[name for name in table.schema.names if name in columns]).to_pylist()
            for index, row in zip(own, found, strict=True):
                # verl's name for the messages once they are in a batch.
                rows.append({"raw_prompt": row.pop(prompt, None), **row, "at": f"row {index} of {file.name}"})
    return rows, total


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
