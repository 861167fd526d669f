"""The form of the judge's answer: what a server is told to enforce, and what is checked whether it did or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from verl_setpo.signals.endpoint import EndpointError

_ENTRY_TOKENS = 64
"""More than an entry costs besides its strategy: id, keys, punctuation, number, some indentation."""


class Entry(BaseModel):
    """What the judge says of one response."""

    model_config = ConfigDict(extra="forbid", strict=True)

    strategy: str
    cluster_id: int = Field(ge=0, le=1_000_000)


_ENTRIES = TypeAdapter(dict[str, Entry])


def response_format(ids: Sequence[str], degenerate_cluster: int, max_strategy_chars: int) -> dict[str, Any]:
    """`response_format` for one object with exactly `ids` as keys, each once, in this order.

    An object and not an array: required keys are what structured output can enforce to be there once each.
    """
    numbers = [n for n in range(1, len(ids) + 2) if n != degenerate_cluster][: len(ids)]
    entry = {
        "type": "object",
        "properties": {
            # Not a pattern, which could rule out what costs many tokens: beside one, xgrammar (0.2.8) drops maxLength,
            # and it cannot compile one that is bounded by {1,200}.
            "strategy": {"type": "string", "maxLength": max_strategy_chars},
            "cluster_id": {"type": "integer", "enum": [*numbers, degenerate_cluster]},
        },
        "required": ["strategy", "cluster_id"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": dict.fromkeys(ids, entry),
        "required": list(ids),
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "clusters", "strict": True, "schema": schema}}


def max_answer_tokens(count: int, max_strategy_chars: int) -> int:
    """Enough for `count` entries at their longest: two tokens a character, where English has one for four.

    White space between values, which some servers do not bound, can still use it up; that is a bad answer.
    """
    return 16 + count * (2 * max_strategy_chars + _ENTRY_TOKENS)


def parse_answer(content: str, ids: Sequence[str], max_strategy_chars: int) -> dict[str, Entry]:
    """The entries by id, strategies on one line and cut to their bound.

    Raises:
        EndpointError: bad_answer, for anything but a JSON object with exactly `ids`, once each, and integer clusters.
    """
    try:
        # Not strict: xgrammar lets raw control characters into a string with a maxLength. _one_line drops them.
        entries = _ENTRIES.validate_python(json.loads(content, strict=False, object_pairs_hook=_no_key_twice))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join("<id>" if i == 0 else str(part) for i, part in enumerate(first["loc"]))
        raise EndpointError("bad_answer", f"the judge's answer is not of the schema: {where}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).split("\n")[0][:100]
        raise EndpointError("bad_answer", f"the judge's answer is not JSON of the schema: {reason}") from None
    missing, unasked = set(ids) - set(entries), set(entries) - set(ids)
    if missing or unasked:
        raise EndpointError(
            "bad_answer",
            f"the judge's answer lacks {len(missing)} of {len(ids)} ids and has {len(unasked)} that were not asked for",
        )
    return {
        name: Entry(strategy=_one_line(entry.strategy)[:max_strategy_chars], cluster_id=entry.cluster_id)
        for name, entry in entries.items()
    }


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError("a key is there twice")
    return keys


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
