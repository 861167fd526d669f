"""A task of one's own: a Python file with the names that `verl_setpo.tasks.polynomial` and the other tasks have."""

import importlib.util
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from verl_setpo.tasks.math_sets import SETS
from verl_setpo.tasks.rewards import TASKS

NEEDED = ("DATA_SOURCE", "Problem", "generate", "compute_score")
OF_PROBLEM = ("prompt", "ground_truth", "from_ground_truth", "sample_answer")
_EXAMPLE = "scripts/experiments/coins.py is a whole one"


def find_task(task: str) -> Any:
    """The module of one of `TASKS`, or of a file such as my_task.py, which is run.

    Raises ValueError for another name, and for a file that is not there or lacks something.
    """
    if task in TASKS:
        return TASKS[task]
    if not task.endswith(".py"):
        raise ValueError(f"--task is {task!r}: give {' or '.join(sorted(TASKS))}, or a Python file of your own")
    path = Path(task)
    if not path.is_file():
        raise ValueError(f"there is no file {task}, which was named as a task")
    name = f"verl_setpo_own_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the file ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a dataclass looks for its annotations
    with _named(task):
        spec.loader.exec_module(module)
    missing = [needed for needed in NEEDED if not hasattr(module, needed)]
    if hasattr(module, "Problem"):
        missing += [f"Problem.{needed}" for needed in OF_PROBLEM if not hasattr(module.Problem, needed)]
    if missing:
        raise ValueError(f"{task} has no {', '.join(missing)}: {_EXAMPLE}")
    if module.DATA_SOURCE in {*TASKS, *SETS}:
        raise ValueError(f"{task} has DATA_SOURCE {module.DATA_SOURCE!r}, which is a task of verl_setpo: rename it")
    return module


def generate(module: Any, count: int, seed: int, style: str, options: dict[str, Any]) -> list[Any]:
    """A task's `count` problems. Raises ValueError where one's own gives another number of them, or one twice."""
    if module.DATA_SOURCE in TASKS:
        return module.generate(count, seed, **options)
    with _named(f"{module.__file__}: generate"):
        problems = list(module.generate(count, seed, **options))
    with _named(f"{module.__file__}: Problem.prompt"):
        different = len({problem.prompt(style) for problem in problems})
    if not len(problems) == different == count:
        raise ValueError(
            f"{module.__file__}: generate gave {len(problems)} problems, {different} different ones, not {count}"
        )
    return problems


def check_answers(module: Any, ground_truths: Sequence[str], rng: random.Random) -> None:
    """Whether what a starting model is to learn from is what the reward pays for.

    Raises ValueError where `sample_answer` or `compute_score` fails, where what it gives is not a mapping with `score`,
    `acc` and `pred`, and where no answer is correct.
    """
    correct = 0.0
    for ground_truth in ground_truths:
        with _named(f"{module.__file__}: Problem.sample_answer"):
            answer = module.Problem.from_ground_truth(ground_truth).sample_answer(rng, 0.0)
        with _named(f"{module.__file__}: compute_score"):
            score = module.compute_score(module.DATA_SOURCE, answer, ground_truth)
        if not isinstance(score, Mapping) or not {"score", "acc", "pred"} <= set(score):
            raise ValueError(
                f"{module.__file__}: compute_score gave {score!r:.200}, which must be a dict with score, acc and pred"
            )
        correct += score["acc"]
    if not correct:
        raise ValueError(
            f"{module.__file__}: of {len(ground_truths)} answers of Problem.sample_answer none is correct by "
            f"compute_score, such as {answer!r:.100} to {ground_truth!r:.100}"
        )


@contextmanager
def _named(where: str) -> Iterator[None]:
    """What a user's code raises, as a ValueError that names it."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{where} raised {type(error).__name__}: {error}") from error
