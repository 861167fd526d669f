"""Read JSONL files of runs that may have been killed in mid-write: a broken line is counted, never fatal."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from verl_setpo.evaluation.text import printable

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_LINES_NAMED = 5  # in the warning of a file; the rest is only counted


class BrokenLineError(ValueError):
    """A line that is valid JSON, but not what the reader expects. The message must not quote the line."""


@dataclass(frozen=True)
class SkippedLine:
    path: Path
    line: int  # from 1
    reason: str


def read_json_lines(path: Path, parse: Callable[[dict[str, Any]], Item]) -> tuple[list[Item], list[SkippedLine]]:
    """Read `path`, one JSON object a line, and apply `parse` to each.

    A line that is no JSON object, or for which `parse` raises BrokenLineError, is skipped; one warning a file names
    the file, the lines and the reasons. Blank lines are ignored.

    Raises:
        OSError: the file cannot be read.
    """
    items: list[Item] = []
    skipped: list[SkippedLine] = []
    # In bytes: a file cut within a character is then one broken line, and only \n ends a line.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                items.append(parse(_json_object(line)))
            except BrokenLineError as error:
                skipped.append(SkippedLine(path, number, str(error)))
            except RecursionError:  # absurd nesting
                skipped.append(SkippedLine(path, number, "nested too deeply"))
    if skipped:
        logger.warning("%s", _describe(skipped))
    return items, skipped


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:  # bad JSON, bad UTF-8, an absurdly long number
        raise BrokenLineError("not valid JSON" if line.endswith(b"\n") else "cut off") from None
    if not isinstance(row, dict):
        raise BrokenLineError("not a JSON object")
    return row


def _describe(skipped: list[SkippedLine]) -> str:
    named = "; ".join(f"line {item.line}: {item.reason}" for item in skipped[:_LINES_NAMED])
    more = f"; and {len(skipped) - _LINES_NAMED} more" if len(skipped) > _LINES_NAMED else ""
    lines = "1 line" if len(skipped) == 1 else f"{len(skipped)} lines"
    return f"{printable(skipped[0].path)}: skipped {lines} ({named}{more})"
