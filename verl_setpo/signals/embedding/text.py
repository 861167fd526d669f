"""Which part of a response is embedded. Linear time, and no text makes it raise: a policy wrote it, and is paid for it.

Parts, the values of `algorithm.set_rl.signal.part`:

- `response`: the whole text.
- `without_thinking`: what follows the last `</think>`, the whole text where there is none. No opening tag is asked for,
  since chat templates of reasoning models put it into the prompt. So an unclosed `<think>` (a rollout cut off while it
  thinks) leaves the whole text: what it has done is all there is to compare, and an empty text, which is like no other,
  would make being cut off the most diverse thing to do.
- `answer`: the final answer that the response marks, "" where it marks none.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from verl_setpo.signals.answer import find_answer

Part = Literal["response", "without_thinking", "answer"]
PARTS: tuple[str, ...] = get_args(Part)

_THINK_END = "</think>"
_SURROGATE = re.compile("[\ud800-\udfff]")


def part_of(text: str, part: Part) -> str:
    """The `part` of a response, as the module's docstring says; "" where it has none.

    Raises:
        ValueError: a part that does not exist. No text raises.
    """
    if part == "response":
        return text
    if part == "without_thinking":
        return text.rpartition(_THINK_END)[2].strip() if _THINK_END in text else text
    if part == "answer":
        return find_answer(text)
    raise ValueError(f"algorithm.set_rl.signal.part is {part!r}, but must be one of {', '.join(PARTS)}.")


def encodable(text: str) -> str:
    """`text` with lone surrogates, which neither JSON in UTF-8 nor a tokenizer takes, replaced by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)
