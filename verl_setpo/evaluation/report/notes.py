"""What a reader must know to judge the figures of a comparison, a sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from verl_setpo.evaluation.bootstrap import bootstrap_interval
from verl_setpo.evaluation.runs import COMPLETE, STEP_SECONDS, median_step_seconds
from verl_setpo.evaluation.text import printable

if TYPE_CHECKING:
    from verl_setpo.evaluation.runs import Run


def notes_on_steps(runs: Sequence[Run]) -> list[str]:
    """Which validation of each run counts, and which could not."""
    notes = []
    if len({run.final.step for run in runs}) > 1:
        steps = ", ".join(f"{printable(run.label)} {run.final.step}" for run in runs)
        notes.append(f"The runs are compared at different steps: {steps}.")
    for run in runs:
        if run.final.step == 0:
            notes.append(f"{printable(run.label)} has no validation after step 0: its row is the starting model.")
        if run.incomplete:
            steps = ", ".join(str(v.step) for v in run.incomplete)
            notes.append(
                f"{printable(run.label)}: the validation of step {steps} is left out, because it holds fewer than "
                f"{COMPLETE:.0%} of the problems."
            )
    return notes


def notes_on_start(runs: Sequence[Run], solved: Sequence[np.ndarray | None]) -> list[str]:
    """Whether the runs have a validation of step 0, and the same model in it.

    Args:
        solved: pass@1 of each problem, (P,), at step 0 of each run that has it.
    """
    without = [printable(run.label) for run in runs if run.start is None]
    notes = []
    if without:
        cure = "set trainer.val_before_train=True to get one"
        notes.append(f"No validation of step 0 in {', '.join(without)} ({cure}).")
    first: tuple[str, np.ndarray] | None = None
    for run, solved_P in zip(runs, solved, strict=True):
        if solved_P is None:
            continue
        if first is None:
            first = (run.label, solved_P)
            continue
        # Paired over problems and at 99.9 %, so that sampling noise seldom raises it.
        low, high = bootstrap_interval(solved_P - first[1], confidence=0.999)
        if not low <= 0 <= high:
            notes.append(
                f"Pass@1 at step 0 is {first[1].mean():.3f} in {printable(first[0])} and {solved_P.mean():.3f} in "
                f"{printable(run.label)}: these runs may not have the same starting model."
            )
    return notes


def notes_on_files(runs: Sequence[Run]) -> list[str]:
    """What the files of validated runs lack."""
    notes = []
    for run in runs:
        label = printable(run.label)
        if run.skipped:
            files = ", ".join(sorted({printable(item.path.name) for item in run.skipped}))
            lines = "1 broken line was" if len(run.skipped) == 1 else f"{len(run.skipped)} broken lines were"
            notes.append(f"{label}: {lines} skipped in {files}.")
        if not run.final.has_answers:
            notes.append(f"{label}: no distinct answers, because its reward function returns no pred.")
        if run.step_seconds is None:
            cure = f"logger file with VERL_FILE_LOGGER_PATH={printable(run.path)}/metrics.jsonl"
            notes.append(f"{label}: no seconds a step, because there is no metrics.jsonl ({cure}).")
        elif median_step_seconds(run.step_seconds) is None:
            notes.append(f"{label}: no seconds a step, because metrics.jsonl has {STEP_SECONDS} of one step at most.")
    return notes


def notes_on_missing(runs: Sequence[Run]) -> list[str]:
    """Which parts of the page a run is missing from, and what to set to have it there next time."""
    notes = []
    for run in runs:
        label = printable(run.label)
        if not run.validations:
            notes.append(f"{label}: no validation samples, so no pass@k (set trainer.validation_data_dir).")
            if run.metrics is None:
                notes.append(f"{label}: no training curves, because there is no metrics.jsonl.")
        if not run.rollouts.texts and run.rollouts.log:
            notes.append(f"{label}: its training rollouts have no texts (set trainer.rollout_data_dir).")
        elif run.rollouts.texts and not run.rollouts.log and _is_ours(run):
            notes.append(f"{label}: its training rollouts have no credit (set algorithm.set_rl.rollout_log).")
    return notes


def _is_ours(run: Run) -> bool:
    return any(name.startswith("set_rl/") for name in run.metrics or {})
