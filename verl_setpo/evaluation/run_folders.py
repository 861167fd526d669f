"""The directories that a user names, as the runs in them: that of `verl-setpo evaluate` or `grade` holds several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RECORD = "evaluation.json"  # beside the folders NAME/SET/validation of an evaluation


@dataclass(frozen=True)
class RunFolder:
    """The directory of one run."""

    path: Path
    name: str
    set_name: str | None = None  # the test set of an evaluation; None: a run of verl

    @property
    def is_evaluation(self) -> bool:
        return self.set_name is not None


def run_folders(path: Path) -> list[RunFolder]:
    """`path` itself; of an evaluation's folder, or of NAME or NAME/SET in it, all runs in it, by model, then by set."""
    where = path.resolve()
    for root, pattern in zip([where, *where.parents], ("*/*/validation", "*/validation", "validation"), strict=False):
        if (root / RECORD).is_file():
            # Not the resolved path: what is shown is what the user typed.
            found = [folder.parent for folder in path.glob(pattern) if folder.is_dir()]
            folders = [RunFolder(run, run.resolve().parent.name, run.resolve().name) for run in found]
            order = {name: i for i, name in enumerate(_models(root / RECORD))}
            known = [one for one in folders if one.name in order]
            if known:
                return sorted(known, key=lambda one: (order[one.name], one.set_name or ""))
    return [RunFolder(path, where.name)]


def by_set(folders: Sequence[RunFolder]) -> dict[str, list[RunFolder]]:
    """The runs on each test set, by its name: different sets share no problem to compare on."""
    sets: dict[str, list[RunFolder]] = {}
    for folder in folders:
        sets.setdefault(folder.set_name or "", []).append(folder)
    return sets


def _models(record: Path) -> list[str]:
    """The models of an evaluation in the order in which they were named; [] where the file does not say."""
    try:
        return [str(name) for name in json.loads(record.read_text(encoding="utf-8"))["models"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
