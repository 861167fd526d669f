"""A run's directory: `validation/<step>.jsonl`, `metrics.jsonl`, and folders with training rollouts.

All are verl's own files, but for our rollout log: `trainer.validation_data_dir=RUN/validation`,
`trainer.rollout_data_dir` and `algorithm.set_rl.rollout_log` anywhere below RUN, and the logger "file" with
`VERL_FILE_LOGGER_PATH=RUN/metrics.jsonl` (verl 0.9.1, verl/utils/tracking.py, FileLogger), which writes
`{"step": 3, "data": {"timing_s/step": 12.3, ...}}` a step. verl empties that file when a run is resumed.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_setpo.evaluation.generations import NoGenerationsError, Validation, read_validation, validation_files
from verl_setpo.evaluation.jsonl import BrokenLineError, SkippedLine, read_json_lines
from verl_setpo.evaluation.report.rollout_files import RolloutFiles, find_rollout_files
from verl_setpo.evaluation.report.training_figures import FIGURES
from verl_setpo.evaluation.text import printable

# verl's whole training step with its checkpoint, without validation (compute_timing_metrics in
# verl/trainer/ppo/metric_utils.py; the timer "step" in the v1 trainer's fit).
STEP_SECONDS = "timing_s/step"

_KEPT = {STEP_SECONDS, *(figure.key for figure in FIGURES)}  # verl logs about a hundred a step

_LARGEST = 1e100

# A kill cuts the last file short. A validation with fewer than this share of the problems is not used.
COMPLETE = 0.9


@dataclass(frozen=True)
class Layout:
    """Where the parts of a run are, below its directory or absolute."""

    validation: str = "validation"
    metrics: str = "metrics.jsonl"
    rollouts: str | None = None  # None: every folder of the run is looked into


@dataclass(frozen=True)
class Run:
    """What the report needs of one run. A part that is missing is empty or None."""

    label: str
    path: Path
    validations: tuple[Validation, ...]  # by step, only complete ones
    incomplete: tuple[Validation, ...]
    metrics: dict[str, dict[int, float]] | None  # those that the report shows, by name and step; None: no metrics.jsonl
    skipped: tuple[SkippedLine, ...]
    rollouts: RolloutFiles = field(default_factory=RolloutFiles)
    layout: Layout = field(default_factory=Layout)
    is_evaluation: bool = False  # of `verl-setpo evaluate` or `grade`: a model of step 0 alone is no run's start

    @property
    def start(self) -> Validation | None:
        """The validation before training."""
        if not self.validations or self.validations[0].step != 0 or (self.is_evaluation and len(self.validations) == 1):
            return None
        return self.validations[0]

    @property
    def is_start_only(self) -> bool:
        """Whether the last validation is that before training."""
        return self.start is not None and self.final.step == 0

    @property
    def final(self) -> Validation:
        """The last validation; only for a run that has one."""
        return self.validations[-1]

    @property
    def step_seconds(self) -> dict[int, float] | None:
        """Seconds of each training step; None: no metrics.jsonl."""
        return None if self.metrics is None else self.metrics.get(STEP_SECONDS, {})


def read_run(path: Path, label: str, layout: Layout | None = None, is_evaluation: bool = False) -> Run:
    """Read the directory of one run: whatever it has of validations, metrics and rollouts.

    A directory that holds `<step>.jsonl` itself is taken for the validations.

    Args:
        layout: where its parts are.
        is_evaluation: whether it is NAME/SET of `verl-setpo evaluate` or `grade`, with validations alone.

    Raises:
        NoGenerationsError: it holds none of the three.
        OSError: a file cannot be read.
    """
    layout = layout or Layout()
    if path.is_file():
        raise NoGenerationsError(f"{printable(path)} is a file: name the directory of a run.")
    if not path.is_dir():
        raise NoGenerationsError(f"There is no directory {printable(path)}.")
    directory = path / layout.validation
    if layout == Layout() and not directory.is_dir() and _has_steps(path):
        directory = path
    metrics, skipped = _metrics(path / layout.metrics)
    rollouts = find_rollout_files(path, layout.rollouts, apart=directory)
    something_else = metrics is not None or bool(rollouts.texts or rollouts.log)
    try:
        validations = [read_validation(file) for file in validation_files(directory).values()]
    except NoGenerationsError:
        if not something_else:
            raise NoGenerationsError(_nothing_in(path, layout)) from None
        validations = []
    most = max((len(validation.problems) for validation in validations), default=0)
    if most == 0 and not something_else:
        raise NoGenerationsError(f"No line in {printable(directory)} is a validation sample of verl.")
    complete = [len(validation.problems) >= max(COMPLETE * most, 1) for validation in validations]
    return Run(
        label=label,
        path=path,
        validations=tuple(v for v, whole in zip(validations, complete, strict=True) if whole),
        incomplete=tuple(v for v, whole in zip(validations, complete, strict=True) if not whole),
        metrics=metrics,
        skipped=tuple(item for v in validations for item in v.skipped) + tuple(skipped),
        rollouts=rollouts,
        layout=layout,
        is_evaluation=is_evaluation,
    )


def _nothing_in(path: Path, layout: Layout) -> str:
    where = "a folder of it" if layout.rollouts is None else printable(layout.rollouts)
    return (
        f"{printable(path)} has nothing to report, which would be any of {printable(layout.validation)}/<step>.jsonl "
        f"(trainer.validation_data_dir), {printable(layout.metrics)} (VERL_FILE_LOGGER_PATH) and {where} with training "
        "rollouts (trainer.rollout_data_dir, algorithm.set_rl.rollout_log)."
    )


def median_step_seconds(step_seconds: dict[int, float] | None) -> float | None:
    """Median seconds a training step without the first, which compiles and fills caches; None if there is no more."""
    if step_seconds is None or len(step_seconds) < 2:
        return None
    first = min(step_seconds)
    return statistics.median(seconds for step, seconds in step_seconds.items() if step != first)


def _has_steps(directory: Path) -> bool:
    try:
        return bool(validation_files(directory))
    except NoGenerationsError:
        return False


def _metrics(path: Path) -> tuple[dict[str, dict[int, float]] | None, list[SkippedLine]]:
    if not path.is_file():
        return None, []
    entries, skipped = read_json_lines(path, _parse_metrics)
    metrics: dict[str, dict[int, float]] = {}
    for step, figures in entries:
        for name, value in figures.items():
            metrics.setdefault(name, {})[step] = value
    return metrics, skipped


def _parse_metrics(row: dict[str, Any]) -> tuple[int, dict[str, float]]:
    step, data = row.get("step"), row.get("data")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**53 or not isinstance(data, dict):
        raise BrokenLineError("no step or no data")
    seconds = data.get(STEP_SECONDS)  # missing at step 0, where verl only validates
    if seconds is not None and finite(seconds) is None:
        raise BrokenLineError(f"{STEP_SECONDS} is not a number")
    figures = ((name, finite(data.get(name))) for name in _KEPT)
    return step, {name: value for name, value in figures if value is not None}


def finite(value: Any) -> float | None:
    """A number of a file as a float; None for anything else, and for sizes whose sum no float can hold."""
    # Not math.isfinite, which raises for an integer of 400 digits.
    return float(value) if isinstance(value, int | float) and -_LARGEST < value < _LARGEST else None
