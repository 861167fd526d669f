r"""A row of a published set of problems: its question, and its answer as the text that the reward compares with.

Pure functions of plain values, as JSON, CSV and parquet give them: None, numpy numbers, lists of lists. A row that
cannot be graded is `Dropped` with a reason; nothing that a row holds raises.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verl_setpo.tasks.answers import last_boxed
from verl_setpo.tasks.countdown import Problem
from verl_setpo.tasks.ground_truth import is_int
from verl_setpo.tasks.math_sets import AnswerForm, HubSet

NO_QUESTION = "no question"
NO_ANSWER = "no answer"
PROOF = "a proof is asked for"
LEAK = "the question gives the answer away"
NO_DIFFICULTY = "no difficulty such as 3/8"
NO_PROBLEM = "no integer numbers and target"


@dataclass(frozen=True)
class Item:
    """A problem that can be graded. key: equal for two rows that are the same problem."""

    question: str
    answer: str
    key: str


@dataclass(frozen=True)
class Dropped:
    """Why a row cannot be used, and what of it shows that."""

    reason: str
    shown: str = ""


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or of a field of a struct by "column.field"; None where there is none."""
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def read_math(entry: HubSet, row: Mapping[str, Any], question: str, answer: str) -> Item | Dropped:
    """A row of a set of `SETS`.

    Args:
        entry: the set.
        row: column names to values.
        question: which column, or column.field, is the question.
        answer: which is the answer.
    """
    text = value_at(row, question)
    if not isinstance(text, str) or not text.strip():
        return Dropped(NO_QUESTION, _shown(text))
    text = text.strip()
    kind = value_at(row, entry.kind[0]) if entry.kind else None
    if (entry.kind and isinstance(kind, str) and kind in entry.kind[1]) or asks_for_proof(text):
        return Dropped(PROOF, _shown(text))
    gold = answer_text(value_at(row, answer), entry.answer_form)
    if not gold:
        return Dropped(NO_ANSWER, _shown(value_at(row, answer)))
    if gives_away(text, gold):
        return Dropped(LEAK, _shown(text))
    return Item(text, gold, " ".join(text.split()))


def read_countdown(row: Mapping[str, Any], numbers: str, target: str, style: str) -> Item | Dropped:
    """A row of Countdown. Two problems are the same when the target and the numbers agree in any order.

    Args:
        row: column names to values.
        numbers: the column of the numbers.
        target: the column of the target.
        style: of the prompt, "tiny" or "instruct".
    """
    values, goal = _plain(value_at(row, numbers)), _plain(value_at(row, target))
    if not isinstance(values, list) or len(values) < 2 or not all(is_int(value) for value in [*values, goal]):
        return Dropped(NO_PROBLEM, _shown({numbers: values, target: goal}))
    problem = Problem(tuple(map(int, values)), int(goal))
    key = f"{sorted(problem.numbers)}={problem.target}"
    return Item(problem.prompt(style), problem.ground_truth(style), key)


def answer_text(value: Any, form: AnswerForm) -> str:
    r"""The answer as one text, "" when there is none.

    Several answers are joined by ", ", numbers become the shortest text (27.0 is 27), and dollar signs or a box
    around the whole of an answer go. By `form` the answer of a solution is what follows its last ####, without
    thousands commas (GSM8K), or the content of its last box.
    """
    value = _plain(value)
    if form == "boxed" and isinstance(value, str):
        # Some rows of such sets hold the bare answer, but a solution without a box holds none that we could tell.
        boxed = last_boxed(value)
        return _bare(boxed[1]) if boxed else ""
    if form == "after_hashes" and isinstance(value, str):
        _, hashes, after = value.rpartition("####")
        return re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", after.strip()) if hashes else ""
    if isinstance(value, list):
        return ", ".join(text for text in (answer_text(part, "text") for part in value) if text)
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, str):
        return _bare(value)
    # Neither a struct nor True is an answer that could be compared.
    return str(int(value)) if is_int(value) else ""


def _plain(value: Any) -> Any:
    """numpy's arrays and numbers, and tuples, as Python's lists and numbers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, tuple) else value


_MATH_MARKS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def _bare(text: str) -> str:
    r"""`text` without the marks of mathematics or the \boxed{} around the whole of it."""
    while True:
        text = text.strip()
        boxed = last_boxed(text)
        if boxed and text == rf"\boxed{{{boxed[1]}}}":
            text = boxed[1]
            continue
        for opening, closing in _MATH_MARKS:
            inner = text[len(opening) : len(text) - len(closing)]
            whole = len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing)
            if whole and "$" not in inner and closing not in inner:
                text = inner
                break
        else:
            return text


_PROOF = re.compile(r"\W*(?:[0-9]+[.)]\s*)?(?:\([a-z0-9]\)\s*)?(?:prove|show)\s+that\b", re.IGNORECASE)
_ASKS_FOR_VALUE = re.compile(
    r"\b(?:find|determine|compute|calculate|evaluate|what|how\s+many|how\s+much|which)\b", re.IGNORECASE
)


def asks_for_proof(question: str) -> bool:
    """Whether it begins with "prove that" or "show that", and nowhere asks for a value."""
    return bool(_PROOF.match(question)) and not _ASKS_FOR_VALUE.search(question)


def gives_away(question: str, answer: str) -> bool:
    r"""Whether the question states its own answer as the answer.

    That is "the answer is 12", "Answer: 12", "#### 12" or \boxed{12}. The answer's number elsewhere in the question
    is no leak, nor is "the answer is 12 more than ...", or a box that is empty or holds something else.
    """
    boxed = last_boxed(question)
    if boxed and _bare(boxed[1]) == answer:
        return True
    # A plain search first: most questions do not even hold the text of the answer.
    if answer not in question:
        return False
    before = r"(?:\b[Aa]nswers?\s{0,9}(?:is|are|was|:|=)|####)\s{0,9}:?\s{0,9}[$(]{0,3}"
    after = r"[$)]{0,3}\s{0,9}(?:[.,](?!\d)|[;!?]|$)"
    return re.search(before + re.escape(answer) + after, question, re.MULTILINE) is not None


def pass_rate(value: Any) -> float | None:
    """The share of right attempts from a text such as "3/8" or a number in [0, 1]; None for anything else."""
    value = _plain(value)
    if isinstance(value, str):
        parts = re.fullmatch(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*", value)
        if parts and int(parts[2]):
            value = int(parts[1]) / int(parts[2])
        elif re.fullmatch(r"\s*[0-9]{1,3}(?:\.[0-9]{1,12})?\s*", value):
            value = float(value)
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _shown(value: Any) -> str:
    """A short form for a message."""
    return f"{value!r:.120}"
