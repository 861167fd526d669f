"""The training rollouts of a run: which of its folders hold texts, and which our log.

texts   verl's `trainer.rollout_data_dir`: <step>.jsonl with input, output, gts, score, step and uid
        (verl 0.9.1, verl/trainer/ppo/v1/trainer_base.py, `_log_rollout_data`)
log     `algorithm.set_rl.rollout_log`: <step>.jsonl with reward, cluster, credit, advantage and `key`, which is the
        uid of the texts
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_setpo.evaluation.generations import NoGenerationsError, validation_files


@dataclass(frozen=True)
class RolloutFiles:
    """Files by training step."""

    texts: dict[int, Path] = field(default_factory=dict)
    log: dict[int, Path] = field(default_factory=dict)

    @property
    def steps(self) -> set[int]:
        return set(self.texts) | set(self.log)


def find_rollout_files(run: Path, where: str | None, apart: Path) -> RolloutFiles:
    """Look into `run/where` and its folders, or into all folders of `run`, for either kind, told by their content.

    Args:
        apart: the folder of the validation samples, which look like texts.

    Raises:
        OSError: a folder or file cannot be read.
    """
    root = run if where is None else run / where
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    found = RolloutFiles()
    for folder in folders if where is None else [root, *folders]:
        if folder == apart:
            continue
        try:
            files = validation_files(folder)
        except NoGenerationsError:
            continue
        # Of the first file that says: a kill or a full disk may have cut one before its first line ended.
        kind = next((kind for path in files.values() if (kind := _kind(path)) is not None), None)
        if kind is not None:
            for step, path in files.items():
                getattr(found, kind).setdefault(step, path)
    return found


@dataclass
class Lines:
    """How many lines of a file were rows, and how many were none."""

    rows: int = 0
    broken: int = 0


def json_rows(path: Path, lines: Lines | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file one by one, so that a file of long texts is never in memory as a whole; broken ones are left
    out, and counted in `lines`.

    Raises:
        OSError: the file cannot be read.
    """
    lines = lines or Lines()
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                row = line
            if isinstance(row, dict):
                lines.rows += 1
                yield row
            elif row is not None:
                lines.broken += 1


def _kind(path: Path) -> str | None:
    for row in json_rows(path):
        if "key" in row and "advantage" in row:
            return "log"
        # A validation sample has its reward function's fields too, at least `reward`.
        return "texts" if {"input", "output", "uid"} <= row.keys() and "reward" not in row else None
    return None
