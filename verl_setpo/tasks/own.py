"""A task of one's own: a Python file with the names that `verl_setpo.tasks.polynomial` and the other tasks have."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from verl_setpo.tasks.math_sets import SETS
from verl_setpo.tasks.rewards import TASKS

NEEDED = ("DATA_SOURCE", "Problem", "generate", "compute_score")
OF_PROBLEM = ("prompt", "ground_truth", "from_ground_truth", "sample_answer")


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
        raise ValueError(f"--task is {task}, and there is no such file")
    name = f"verl_setpo_own_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the file ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a dataclass looks for its annotations
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--task {task} cannot be loaded: {type(error).__name__}: {error}") from error
    missing = [name for name in NEEDED if not hasattr(module, name)]
    if hasattr(module, "Problem"):
        missing += [f"Problem.{name}" for name in OF_PROBLEM if not hasattr(module.Problem, name)]
    if missing:
        raise ValueError(f"--task {task} has no {', '.join(missing)}: verl_setpo/tasks/polynomial.py has them")
    if module.DATA_SOURCE in {*TASKS, *SETS}:
        raise ValueError(f"--task {task} has DATA_SOURCE {module.DATA_SOURCE!r}, which is ours: rename it")
    return module
