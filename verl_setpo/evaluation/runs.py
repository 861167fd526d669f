"""A run's directory: `validation/<step>.jsonl` and `metrics.jsonl`.

Both are verl's own files: `trainer.validation_data_dir=RUN/validation`, and the logger "file" with
`VERL_FILE_LOGGER_PATH=RUN/metrics.jsonl` (verl 0.9.1, verl/utils/tracking.py, FileLogger), which writes
`{"step": 3, "data": {"timing_s/step": 12.3, ...}}` a step. verl empties that file when a run is resumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_setpo.evaluation.generations import NoGenerationsError, Validation, read_validation, validation_files
from verl_setpo.evaluation.jsonl import BrokenLineError, SkippedLine, read_json_lines
from verl_setpo.evaluation.text import printable

# verl's whole training step with its checkpoint, without validation (compute_timing_metrics in
# verl/trainer/ppo/metric_utils.py; the timer "step" in the v1 trainer's fit).
STEP_SECONDS = "timing_s/step"

# A kill cuts the last file short. A validation with fewer than this share of the problems is not used.
COMPLETE = 0.9


@dataclass(frozen=True)
class Run:
    """What the report needs of one run."""

    label: str
    path: Path
    validations: tuple[Validation, ...]  # by step, only complete ones, at least one
    incomplete: tuple[Validation, ...]
    step_seconds: dict[int, float] | None  # by training step; None: no metrics.jsonl
    skipped: tuple[SkippedLine, ...]

    @property
    def start(self) -> Validation | None:
        """The validation before training."""
        return self.validations[0] if self.validations[0].step == 0 else None

    @property
    def final(self) -> Validation:
        return self.validations[-1]


def read_run(path: Path, label: str) -> Run:
    """Read the directory of one run.

    Raises:
        NoGenerationsError: it holds no validation samples.
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        raise NoGenerationsError(f"There is no directory {printable(path)}.")
    validations = [read_validation(file) for file in validation_files(path / "validation").values()]
    most = max(len(validation.problems) for validation in validations)
    if most == 0:
        raise NoGenerationsError(f"No line in {printable(path / 'validation')} is a validation sample of verl.")
    step_seconds, skipped = _step_seconds(path / "metrics.jsonl")
    complete = [len(validation.problems) >= COMPLETE * most for validation in validations]
    return Run(
        label=label,
        path=path,
        validations=tuple(v for v, whole in zip(validations, complete, strict=True) if whole),
        incomplete=tuple(v for v, whole in zip(validations, complete, strict=True) if not whole),
        step_seconds=step_seconds,
        skipped=tuple(item for v in validations for item in v.skipped) + tuple(skipped),
    )


def _step_seconds(path: Path) -> tuple[dict[int, float] | None, list[SkippedLine]]:
    if not path.is_file():
        return None, []
    entries, skipped = read_json_lines(path, _parse_metrics)
    return {step: seconds for step, seconds in entries if seconds is not None}, skipped


def _parse_metrics(row: dict[str, Any]) -> tuple[int, float | None]:
    step, data = row.get("step"), row.get("data")
    if not isinstance(step, int) or not isinstance(data, dict):
        raise BrokenLineError("no step or no data")
    seconds = data.get(STEP_SECONDS)  # missing at step 0, where verl only validates
    if seconds is not None and not (isinstance(seconds, int | float) and math.isfinite(seconds)):
        raise BrokenLineError(f"{STEP_SECONDS} is not a number")
    return step, seconds
