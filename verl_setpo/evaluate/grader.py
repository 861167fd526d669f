"""The process that grades: `python -m verl_setpo.evaluate.grader` serves one response after the other.

The first line of stdin is {"path", "name", "kwargs", "timeout_s"} of the reward function, each further one a response
with data_source, output, gts and extra_info; stdout gives one line for each, the first {"ready": true}. What the
function itself prints goes to stderr. The one who asks ends this process when a verdict takes too long, and the end of
stdin says that it is gone.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import math
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

OWN = ("pkg://verl_setpo.tasks.rewards", "compute_score")


def load(path: str, name: str) -> Callable[..., Any]:
    """The reward function that verl's `reward.custom_reward_function` would load by this path and name."""
    if (path, name) == OWN:
        from verl_setpo.tasks.rewards import compute_score

        return compute_score
    function = _verls_loader()(path, name)
    if not callable(function):
        raise TypeError(f"{name} is no function")
    return function


def _verls_loader() -> Callable[[str, str], Callable[..., Any]]:
    """verl's own `load_extern_object`, from its file: `import verl` takes seconds and half a gigabyte.

    Raises ImportError where verl is not installed.
    """
    verl = importlib.util.find_spec("verl")
    if verl is None or not verl.submodule_search_locations:
        raise ImportError("verl is not installed")
    file = os.path.join(verl.submodule_search_locations[0], "utils", "import_utils.py")
    spec = importlib.util.spec_from_file_location("_verl_import_utils", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load_extern_object


def grade(function: Callable[..., Any], kwargs: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Score, acc and what else the function returns, as verl's naive reward manager takes its result.

    Raises what the function raises, and ValueError for a score that is no finite number.
    """
    result = function(
        data_source=asked["data_source"],
        solution_str=asked["output"],
        ground_truth=asked["gts"],
        extra_info=asked["extra_info"] or {},
        **kwargs,
    )
    if inspect.isawaitable(result):
        result = asyncio.run(_await(result))
    fields = dict(result) if isinstance(result, dict) else {"score": result, "acc": result}
    score = float(fields["score"])
    if not math.isfinite(score):
        raise ValueError(f"the score is {score}")
    return {**fields, "score": score, "reward": score, "acc": fields.get("acc", score)}


async def _await(result: Any) -> Any:
    return await result


def plain(value: Any) -> Any:
    """What verl's validation files hold for values that JSON has no form for: numbers and arrays of numpy and torch."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"the reward function returns a {type(value).__name__}, which is no JSON")


def main() -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(2, 1)  # the function may print

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message, default=plain) + "\n")

    settings = json.loads(sys.stdin.readline())
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(asked,), daemon=True).start()
    try:
        function = load(settings["path"], settings["name"])
    except Exception as error:
        send({"error": f"{type(error).__name__}: {error}"})
        return
    send({"ready": True})
    while True:
        line = asked.get()
        # For when the one who asks is killed while the function hangs in C code, where no thread of Python runs.
        signal.alarm(math.ceil(settings["timeout_s"]) + 10)
        try:
            send({"graded": grade(function, settings["kwargs"], json.loads(line))})
        except Exception as error:
            send({"error": f"{type(error).__name__}: {error}"})
        signal.alarm(0)


def _read(asked: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        asked.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
