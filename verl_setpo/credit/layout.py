"""Which columns of a file hold what, found by their names; and one rollout read by them.

Three kinds of file are told apart:

- verl's `trainer.rollout_data_dir` and `trainer.validation_data_dir` (0.9.1): input, output, gts, score, uid as
  "{prompt}_{session}_{output}", and in validation what the reward function returns, such as pred;
- our rollout log (`algorithm.set_rl.rollout_log`): uid, session, reward, cluster, answer, base_advantage, ...;
- anything else with a prompt and a reward, by the names in `NAMES`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from verl_setpo.evaluation.jsonl import BrokenLineError
from verl_setpo.evaluation.text import printable
from verl_setpo.signals.answer import find_answer

DEGENERATE = "-1"
LARGEST = 1e30
"""Of a reward; beyond it float32, in which verl keeps rewards, has no room for sums."""
SHOWN_CHARS = 300
"""Of a text that is kept only to be shown."""

NAMES = {
    "prompt": ("uid", "prompt", "input", "question", "problem"),
    "question": ("prompt", "input", "question", "problem"),
    "reward": ("reward", "score"),
    "cluster": ("cluster",),
    "answer": ("pred", "answer"),
    "text": ("text", "output", "response"),
}
"""What a column may be called, in order of preference."""

VERL, LOG, PLAIN = "verl's generations", "a rollout log", "a table of rollouts"
_VERL_COLUMNS = {"uid", "input", "output", "score"}
_LOG_COLUMNS = {"uid", "session", "reward", "base_advantage"}


@dataclass(frozen=True)
class Rollout:
    """One rollout of a file.

    session: its number within the prompt where the file says it, else -1. output: of several in a session the last
    one counts. cluster: a label, `DEGENERATE`, or None where the file has none. answer: None where nothing says it, ""
    where the response has none. text: whole, or cut to `SHOWN_CHARS`. extra: one more column by its name, if asked for.
    """

    prompt: str
    session: int
    output: int
    question: str
    reward: float
    cluster: str | None
    answer: str | None
    text: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """The kind of a file, and its column for each of `NAMES`; None where it has none."""

    kind: str
    prompt: str
    reward: str
    question: str | None
    cluster: str | None
    answer: str | None
    text: str | None

    @property
    def columns(self) -> str:
        """For people: which column was taken for what."""
        roles = {
            "prompt": self.prompt,
            "reward": self.reward,
            "cluster": self.cluster,
            "answer": self.answer,
            "text": self.text,
        }
        found = [role if role == name else f"{role} ({name})" for role, name in roles.items() if name is not None]
        return ", ".join(found)


def find_layout(columns: Collection[str]) -> Layout:
    """The layout of a file with these columns.

    Raises:
        ValueError: no column for the prompt or for the reward; the end of a sentence, without the file's name.
    """
    kind = PLAIN
    if set(columns) >= _VERL_COLUMNS:
        kind = VERL
    elif set(columns) >= _LOG_COLUMNS:
        kind = LOG
    found = {role: next((name for name in names if name in columns), None) for role, names in NAMES.items()}
    if kind == VERL:
        # `score` is what is trained on; a reward function may return a `reward` and an `answer` of its own.
        found |= {"reward": "score", "text": "output", "question": "input", "answer": _if_there("pred", columns)}
    prompt, reward = found.pop("prompt"), found.pop("reward")
    for role, column in (("prompt", prompt), ("reward", reward)):
        if column is None:
            has = ", ".join(printable(name)[:30] for name in sorted(columns)[:12]) or "no columns"
            raise ValueError(f"has no column for the {role} (it has {has}): name one {' or '.join(NAMES[role])}.")
    assert prompt is not None
    assert reward is not None
    return Layout(kind=kind, prompt=prompt, reward=reward, **found)


def _if_there(name: str, columns: Collection[str]) -> str | None:
    return name if name in columns else None


def parse_rollout(
    row: Mapping[str, Any], layout: Layout, keep_text: bool, extra: str | None = None, text_numbers: bool = False
) -> Rollout:
    """One line of the file.

    Args:
        keep_text: whether the text is needed as a whole.
        extra: a column to keep besides, as `algorithm.set_rl.signal.field` may name it.
        text_numbers: whether a number may stand as text, as in CSV.

    Raises:
        BrokenLineError: a field is missing or is not what it should be.
    """
    for column in (layout.prompt, layout.reward):
        if row.get(column) is None:
            raise BrokenLineError(f"no {column}")
    prompt, session, output = _as_text(row[layout.prompt]), -1, 0
    if layout.kind == VERL:
        prompt, session, output = _take_apart(prompt)
    elif layout.kind == LOG:
        session = int(_number(row.get("session"), "session", text_numbers))
        if session < 0:
            raise BrokenLineError("session is below 0")
    text = "" if layout.text is None else _as_text(row.get(layout.text))
    return Rollout(
        prompt=prompt,
        session=session,
        output=output,
        question="" if layout.question is None else _as_text(row.get(layout.question)),
        reward=_number(row[layout.reward], layout.reward, text_numbers),
        cluster=None if layout.cluster is None else _cluster(row.get(layout.cluster)),
        answer=_answer(None if layout.answer is None else row.get(layout.answer), text),
        text=text if keep_text else text[:SHOWN_CHARS],
        extra={extra: row[extra]} if extra is not None and extra in row else {},
    )


def _take_apart(uid: str) -> tuple[str, int, int]:
    """verl's "{prompt}_{session}_{output}"; the prompt part may hold underscores of its own."""
    parts = uid.rsplit("_", 2)
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts[1:]):
        raise BrokenLineError("uid is not {prompt}_{session}_{output}")
    return parts[0], int(parts[1]), int(parts[2])


def _as_text(value: Any) -> str:
    """Chat messages and the like as JSON, so that equal prompts stay equal."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _number(value: Any, column: str, text_numbers: bool) -> float:
    if text_numbers and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().lower(), value)
        try:
            value = float(value)
        except ValueError:
            value = None
    try:
        number = float(value) if isinstance(value, bool | int | float) else math.nan
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST:
        raise BrokenLineError(f"{column} is not a finite number")
    return number


def _cluster(value: Any) -> str | None:
    """A label; null or empty: none. -1 is degenerate, as in the rollout log."""
    text = _as_text(value).strip()
    return DEGENERATE if text == "-1.0" else text or None


def _answer(value: Any, text: str) -> str | None:
    """As the trainer finds it: what the reward function says, else what the response marks as its answer."""
    if value is not None:
        return str(value)
    return find_answer(text) if text else None
