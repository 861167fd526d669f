"""Samples on disk: appended as they come, none lost and none doubled, whenever the process is killed.

A finished file is in canonical order. An unfinished one is a journal in order of completion beside it, of which only
the last line can be cut. Each sample is known by its `uid`, "{set}-{row}_{sample}_0", and has a seed of its own,
derived from what it is and not from when it was drawn.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from verl_setpo.evaluation.text import printable

Fields = dict[str, Any]


class Key(NamedTuple):
    """Which sample of a set: row of the file and number of the sample, both from 0."""

    row: int
    sample: int


def sample_seed(seed: int, set_name: str, key: Key) -> int:
    """The seed of one sample, in [0, 2^62)."""
    text = json.dumps([seed, set_name, key.row, key.sample])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def uid(set_name: str, key: Key) -> str:
    """As verl names an output: prompt, session, number of the output in its session."""
    return f"{set_name}-{key.row}_{key.sample}_0"


class Journal:
    """The samples of one model on one set.

    Args:
        finished: the file `<step>.jsonl`, which exists when an earlier evaluation has ended.
        seed: of the evaluation.
        set_name, num_rows, n: samples are those of `num_rows` rows, `n` of each.

    Raises:
        ValueError: a file holds a line that is none of these samples; the message is one sentence for the user.
    """

    def __init__(self, finished: Path, set_name: str, seed: int, num_rows: int, n: int) -> None:
        self.finished = finished
        self.part = finished.with_name(f"{finished.stem}.part.jsonl")
        self.set_name, self.seed, self.num_rows, self.n = set_name, seed, num_rows, n
        self._places: dict[Key, tuple[Path, int, int]] = {}  # file, offset, length
        self._file: int | None = None
        remove_cut_line(self.part)
        # The finished file first: a kill after its renaming leaves a journal of samples that it already has.
        for path in (self.finished, self.part):
            self._index(path)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def complete(self) -> bool:
        """Whether all samples are there, in the finished file or in the journal."""
        return len(self) == self.num_rows * self.n

    @property
    def is_finished(self) -> bool:
        """Whether the finished file has them all."""
        return self.complete and all(path == self.finished for path, _, _ in self._places.values())

    def missing(self) -> Iterator[Key]:
        """What is still to be drawn, in canonical order."""
        for row in range(self.num_rows):
            for sample in range(self.n):
                if Key(row, sample) not in self:
                    yield Key(row, sample)

    def read(self, key: Key) -> Fields:
        path, offset, length = self._places[key]
        with path.open("rb") as file:
            file.seek(offset)
            return json.loads(file.read(length))

    def ungraded(self) -> Iterator[tuple[Key, Fields]]:
        """Samples that are there without a score."""
        for key in sorted(self._places):
            fields = self.read(key)
            if "score" not in fields:
                yield key, fields

    def append(self, key: Key, fields: Fields) -> None:
        """Add one sample; it is on its way to the disk when this returns.

        Raises:
            ValueError: it is there already.
            OSError: the disk is full, say.
        """
        if key in self:
            raise ValueError(f"sample {uid(self.set_name, key)} is there already")
        if self._file is None:
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.part, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        offset = os.fstat(self._file).st_size
        line = encode({**fields, "uid": uid(self.set_name, key), "seed": sample_seed(self.seed, self.set_name, key)})
        rest = memoryview(line)
        while rest:  # a pipe's worth at a time, where the system takes no more
            rest = rest[os.write(self._file, rest) :]
        self._places[key] = (self.part, offset, len(line))

    def finish(self, grade: Callable[[Key], Fields]) -> None:
        """Write all samples in canonical order, those without a score with the fields of `grade`; ends the journal.

        The file appears whole. With the same samples it is the same, byte for byte, in whatever order they came.
        """
        partial = self.finished.with_name(f".{self.finished.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                for key in sorted(self._places):
                    fields = self.read(key)
                    file.write(encode(fields if "score" in fields else in_order({**fields, **grade(key)})))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.finished)
        finally:
            partial.unlink(missing_ok=True)
        self.close()
        self.part.unlink(missing_ok=True)
        self._places.clear()
        self._index(self.finished)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _index(self, path: Path) -> None:
        if not path.is_file():
            return
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                key = self._key(line)
                if key is None:
                    raise ValueError(
                        f"{printable(path)}, line {number}, is not a sample of this evaluation: "
                        "move the file away, or name another --out"
                    )
                # A sample that is there twice counts once, as it was drawn first.
                self._places.setdefault(key, (path, offset, len(line)))
                offset += len(line)

    def _key(self, line: bytes) -> Key | None:
        """Which sample a line is, None for none of this evaluation."""
        try:
            fields = json.loads(line)
            match = re.fullmatch(re.escape(self.set_name) + r"-([0-9]{1,9})_([0-9]{1,9})_0", fields["uid"])
            key = Key(int(match[1]), int(match[2])) if match else None
            seed = fields["seed"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if key is None or key.row >= self.num_rows or key.sample >= self.n:
            return None
        return key if seed == sample_seed(self.seed, self.set_name, key) else None


def remove_cut_line(path: Path) -> bool:
    """Cut off what follows the last end of a line, all that a kill in mid-write can leave; False: nothing."""
    if not path.is_file():
        return False
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        keep, block = end, b""
        while keep > 0 and b"\n" not in block:
            start = max(0, keep - (1 << 16))
            file.seek(start)
            block = file.read(keep - start)
            keep = start
        keep += block.rfind(b"\n") + 1
        if keep == end:
            return False
        file.truncate(keep)
    return True


_FIRST = ("input", "output", "gts", "score", "step", "reward", "acc", "pred")
_LAST = ("uid", "data_source", "finish_reason", "num_tokens", "seed")


def in_order(fields: Fields) -> Fields:
    """verl's fields in verl's order, then what else a reward function returns, then ours."""
    middle = [name for name in fields if name not in _FIRST and name not in _LAST]
    return {name: fields[name] for name in (*_FIRST, *middle, *_LAST) if name in fields}


def encode(fields: Fields) -> bytes:
    """One line. A lone surrogate, which UTF-8 has no form for, becomes JSON's escape of it."""
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
