r"""The reward of all sets of mathematical problems: 1 for the right final answer, else 0.

The answer is the content of the last `\boxed{...}`. It is right when it is the ground truth written in another way:
numbers and lists of numbers are compared exactly and here (`verl_setpo.equivalence.settled`), all else by math-verify,
in processes that are ended when an answer takes too long (`verl_setpo.equivalence.pool`).

Why a box and nothing else: verl's reward for MATH takes the last box, that of DeepScaleR's line, to which POLARIS
belongs, the last box behind </think>, and the prompt asks for one. A response that only mentions numbers is not paid.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from verl_setpo.equivalence.normal_form import MAX_CHARS, Answer, read_answer, shortened
from verl_setpo.equivalence.pool import shared_pool
from verl_setpo.equivalence.process import Verdict
from verl_setpo.equivalence.settled import question, settle
from verl_setpo.tasks.answers import final_answer, last_boxed

logger = logging.getLogger(__name__)

ANSWER_IN = ("boxed", "anywhere")
WORKERS, MAX_WORKERS = 2, 64
TIMEOUT_S = 5.0
_KEYS = "reward.custom_reward_function.reward_kwargs"
# gsm8k's own solutions end in "#### 72", and models that were trained on them do.
_HASHED_TOO = frozenset({"gsm8k", "openai/gsm8k"})
_SAID = re.compile(r"(?i:answer(?: is|:)) ?:? ?\**([^\n]{1,200})")
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")
_WENT_WRONG = (Verdict.TIMED_OUT, Verdict.CRASHED, Verdict.RAISED, Verdict.UNASKED)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | float,
    extra_info: Mapping[str, Any] | None = None,
    *,
    answer_in: str = "boxed",
    thinking: bool = False,
    workers: int = WORKERS,
    timeout_s: float = TIMEOUT_S,
    **kwargs: Any,
) -> dict[str, Any]:
    r"""verl's reward function for mathematical problems. The options are keys of `reward_kwargs`.

    Args:
        data_source: for gsm8k a response without a box may end in "#### 72".
        solution_str: the response. Of one with a thinking part what follows `</think>` counts.
        ground_truth: the answer, a text or a number; several are joined with commas.
        answer_in: "boxed"; or "anywhere", where a response without a box is searched for <answer>, "#### x", "the
            answer is x" and at last its last number.
        thinking: a response without `</think>` has no answer. For models whose chat template opens the thinking part,
            so that a response that was cut inside it does not show it.
        workers: processes of math-verify for each process that calls this.
        timeout_s: seconds that math-verify may take over one answer.

    Returns `score` and `acc`, both 1.0 or 0.0; `pred`, one text for all spellings of an answer, which for a right one
    is that of the ground truth, "" for none; and `grader_failed`, 1.0 where math-verify took too long, raised or died
    over this answer, whose score is then 0.0.
    Raises ValueError for a ground truth that nothing can be compared with, or a wrong option: verl then logs it and
    drops the prompt. Raises StartError where no process of math-verify starts. Never raises for a response.
    """
    _check(answer_in, workers, timeout_s)
    gold = read_gold(data_source, ground_truth)
    found = find_answer(solution_str, answer_in, hashed=data_source in _HASHED_TOO, thinking=thinking)
    answer = read_answer(found)
    if not answer.text:
        return _result(False, "")
    equal = settle(gold, answer)
    verdict = Verdict.EQUAL if equal else Verdict.DIFFERENT
    if equal is None and max(len(gold.text), len(answer.text)) <= MAX_CHARS:
        verdict = shared_pool(workers, timeout_s).grade(*question(gold, answer))
    correct = verdict is Verdict.EQUAL
    return _result(correct, (gold if correct else answer).canonical, failed=verdict in _WENT_WRONG)


def _result(correct: bool, pred: str, failed: bool = False) -> dict[str, Any]:
    return {"score": float(correct), "acc": float(correct), "pred": pred, "grader_failed": float(failed)}


def read_gold(data_source: str, ground_truth: str | float) -> Answer:
    """The ground truth as it is compared. Raises ValueError that names it when it is no answer."""
    # Parquet readers may give numbers of numpy.
    value = ground_truth.item() if hasattr(ground_truth, "item") else ground_truth
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_answer = isinstance(value, str | int | float) and not isinstance(value, bool)
    gold = read_answer(str(value)) if is_answer else Answer("")
    if not gold.text or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(
            f"data_source {data_source!r} has the ground truth {shortened(repr(ground_truth))}, but it must be an "
            "answer such as '42' or '\\\\frac{1}{2}': correct or drop the row."
        )
    return gold


def find_answer(response: str, answer_in: str = "boxed", *, hashed: bool = False, thinking: bool = False) -> str:
    """The text of a response's final answer, "" where it gives none. See `compute_score`; linear and never raises."""
    _, mark, rest = response.rpartition("</think>")
    if "<think>" in rest or (thinking and not mark):
        return ""
    box = last_boxed(rest)
    if box is not None:
        return box[1]
    if hashed or answer_in == "anywhere":
        _, mark, after = rest.rpartition("####")
        if mark:
            return after.strip().split("\n", 1)[0]
    if answer_in != "anywhere":
        return ""
    tagged = final_answer(rest)
    if tagged is not None:
        return tagged
    said = _SAID.findall(rest)
    if said:
        return said[-1].split(". ")[0].strip(" *")
    numbers = _NUMBER.findall(rest)
    return numbers[-1] if numbers else ""


def _check(answer_in: str, workers: int, timeout_s: float) -> None:
    if answer_in not in ANSWER_IN:
        raise ValueError(f"{_KEYS}.answer_in is {answer_in!r}, but must be {' or '.join(ANSWER_IN)}.")
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MAX_WORKERS:
        raise ValueError(f"{_KEYS}.workers is {workers!r}, but must be a number of processes from 1 to {MAX_WORKERS}.")
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s < math.inf:
        raise ValueError(f"{_KEYS}.timeout_s is {timeout_s!r}, but must be a number of seconds above 0.")
