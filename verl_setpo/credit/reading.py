"""Rollouts from a file or a folder of step files: jsonl, json or csv."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from verl_setpo.credit.layout import DEGENERATE, LOG, VERL, Layout, Rollout, find_layout, parse_rollout
from verl_setpo.evaluation.generations import NoGenerationsError, validation_files
from verl_setpo.evaluation.jsonl import BrokenLineError, SkippedLine, logger, read_json_lines
from verl_setpo.evaluation.text import printable

FORMATS = (".jsonl", ".json", ".csv")
_LINES_FOR_COLUMNS = 100
Parse = Callable[[dict[str, Any]], Rollout]


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt, in order of session. number: its place in the file, from 0."""

    number: int
    uid: str
    question: str
    rollouts: list[Rollout]


@dataclass(frozen=True)
class Source:
    """What a file holds. repeated: lines of a session that a later output, or a later line, stands for."""

    path: Path
    layout: Layout
    groups: list[Group]
    skipped: list[SkippedLine]
    repeated: int

    @property
    def num_rollouts(self) -> int:
        return sum(len(group.rollouts) for group in self.groups)

    @property
    def understood(self) -> str:
        """One line that says what was found."""
        sizes = sorted({len(group.rollouts) for group in self.groups})
        each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        step = f" of step {self.path.stem}" if self.layout.kind in (VERL, LOG) and self.path.stem.isdigit() else ""
        parts = [
            f"{printable(self.path.name)}: {self.layout.kind}{step}",
            f"{len(self.groups)} {'prompt' if len(self.groups) == 1 else 'prompts'} with {each} "
            f"{'rollout' if sizes == [1] else 'rollouts'}",
            f"columns {self.layout.columns}",
        ]
        first = f" (line {self.skipped[0].line}: {self.skipped[0].reason})" if self.skipped else ""
        for count, what, which in (
            (len(self.skipped), "broken", first),
            (self.repeated, "of a session that has a later one", ""),
        ):
            if count:
                parts.append(f"{count} {'line' if count == 1 else 'lines'} {what} left out{which}")
        return "; ".join(parts)


def pick_file(path: Path, step: int | None) -> Path:
    """The file to read: `path` itself, or of a folder `<step>.jsonl`, the last one where no step is asked for.

    Raises:
        ValueError: one sentence.
    """
    name = printable(path)
    if path.is_dir():
        try:
            files = validation_files(path)
        except NoGenerationsError:
            raise ValueError(
                f"{name} holds no <step>.jsonl: name a file, or the folder of trainer.rollout_data_dir, "
                "trainer.validation_data_dir or algorithm.set_rl.rollout_log."
            ) from None
        if step is not None and step not in files:
            raise ValueError(f"--step {step} is not in {name}, which has the steps {_list(list(files))}.")
        return files[max(files) if step is None else step]
    if step is not None:
        raise ValueError(f"--step {step} picks a file of a folder, and {name} is none: leave it out, or name a folder.")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{name} is none of {', '.join(FORMATS)}: name such a file, or a folder of <step>.jsonl.")
    return path


def _list(steps: list[int]) -> str:
    few = steps if len(steps) <= 8 else [*steps[:4], "...", *steps[-3:]]
    return ", ".join(map(str, few))


def read_source(
    path: Path, needs_text: Callable[[Layout], bool], extra: str | None = None, limit: int | None = None
) -> Source:
    """Read one file.

    Args:
        needs_text: whether texts are needed as a whole, once it is known what the file has.
        extra: one more column to keep.
        limit: prompts to keep, the first ones.

    Raises:
        ValueError: a file that cannot be read, or without a rollout; one sentence.
    """
    name = printable(path)
    try:
        columns = _columns(path)
        if not columns:
            what = "is empty" if path.stat().st_size == 0 else "holds no JSON object"
            raise ValueError(f"{name} {what}: name a file of rollouts.")
        try:
            layout = find_layout(columns)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        keep_text, is_csv = needs_text(layout), path.suffix.lower() == ".csv"

        def parse(row: dict[str, Any]) -> Rollout:
            return parse_rollout(row, layout, keep_text, extra, text_numbers=is_csv)

        if path.suffix.lower() == ".jsonl":
            with _unlogged():
                rollouts, skipped = read_json_lines(path, parse)
        else:
            rollouts, skipped = _parse_all(path, rows_of(path), parse)
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror}): name a file of rollouts.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{name} cannot be read as UTF-8 {path.suffix[1:]} ({error}): mend it.") from None
    if not rollouts:
        first = f" (line {skipped[0].line}: {skipped[0].reason})" if skipped else ""
        raise ValueError(f"{name} has no rollout that can be read{first}: mend it, or name another file.")
    groups, repeated = group_rollouts(rollouts)
    return Source(path, layout, groups[:limit], skipped, repeated)


def group_rollouts(rollouts: list[Rollout]) -> tuple[list[Group], int]:
    """Groups in order of first appearance, and how many rollouts a later one of their session stands for."""
    by_prompt: dict[str, dict[int, Rollout]] = {}
    question: dict[str, str] = {}
    for rollout in rollouts:
        sessions = by_prompt.setdefault(rollout.prompt, {})
        question.setdefault(rollout.prompt, rollout.question)
        session = rollout.session if rollout.session >= 0 else len(sessions)
        if session not in sessions or sessions[session].output <= rollout.output:
            sessions[session] = rollout
    groups = [
        Group(number, uid, question[uid], [sessions[session] for session in sorted(sessions)])
        for number, (uid, sessions) in enumerate(by_prompt.items())
    ]
    return groups, len(rollouts) - sum(len(group.rollouts) for group in groups)


def _columns(path: Path) -> set[str]:
    """The names in the first lines, since an optional field may be missing in some."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            return set(csv.DictReader(file).fieldnames or ())
    rows = islice((row for _, row in rows_of(path)), _LINES_FOR_COLUMNS)
    return {str(name) for row in rows if isinstance(row, dict) for name in row}


def rows_of(path: Path) -> Iterator[tuple[int, Any]]:
    """What a file holds, numbered as its reader numbers it."""
    if path.suffix.lower() == ".json":
        yield from _json_rows(path)
    elif path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a response may be long
            reader = csv.DictReader(file)
            for row in reader:
                yield reader.line_num, row
    else:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError):  # left to the reader proper, which counts it
                    continue


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array, numbered from 1.

    Raises:
        ValueError: it holds something else.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{printable(path)} is no JSON ({printable(error)[:100]}): mend it.") from None
    if not isinstance(rows, list):
        raise ValueError(f"{printable(path)} holds no list of rollouts: make it [{{...}}, ...], or .jsonl.")
    return enumerate(rows, start=1)


def _parse_all(path: Path, rows: Iterator[tuple[int, Any]], parse: Parse) -> tuple[list[Rollout], list[SkippedLine]]:
    rollouts, skipped = [], []
    for number, row in rows:
        try:
            if not isinstance(row, dict):
                raise BrokenLineError("not a JSON object")
            rollouts.append(parse(row))
        except BrokenLineError as error:
            skipped.append(SkippedLine(path, number, str(error)))
    return rollouts, skipped


@contextmanager
def _unlogged() -> Iterator[None]:
    """Skipped lines are told of in `Source.understood`, not by a logger that verl has set up."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


__all__ = ["DEGENERATE", "Group", "Source", "group_rollouts", "pick_file", "read_source", "rows_of"]
