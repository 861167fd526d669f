"""What a reader must know to judge the figures of a comparison, a sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from verl_setpo.evaluation.bootstrap import bootstrap_interval
from verl_setpo.evaluation.generations import MARK, PRED, STRATEGY
from verl_setpo.evaluation.runs import COMPLETE, STEP_SECONDS, Layout, median_step_seconds
from verl_setpo.evaluation.text import printable

if TYPE_CHECKING:
    from verl_setpo.evaluation.report.training_groups import TrainingGroups
    from verl_setpo.evaluation.runs import Run

_GRADE = "`verl-setpo grade FILE --data-source NAME` reads them and writes a file with pred"
_TOLD_BY = {STRATEGY: "the reward function's strategy", PRED: "its pred", MARK: "what responses mark"}


def notes_on_steps(runs: Sequence[Run]) -> list[str]:
    """Which validation of each run counts, and which could not."""
    notes = []
    trained = [run for run in runs if not run.is_evaluation or run.final.step > 0]
    if len({run.final.step for run in trained}) > 1:
        steps = ", ".join(f"{printable(run.label)} {run.final.step}" for run in trained)
        notes.append(f"The runs are compared at different steps: {steps}.")
    for run in runs:
        if run.is_start_only:
            notes.append(f"{printable(run.label)} has no validation after step 0: its row is the starting model.")
        if run.incomplete:
            steps = ", ".join(str(v.step) for v in run.incomplete)
            notes.append(
                f"{printable(run.label)}: the validation of step {steps} is left out, because it holds fewer than "
                f"{COMPLETE:.0%} of the problems."
            )
    return notes


def notes_on_missing_starts(runs: Sequence[Run]) -> list[str]:
    """Which runs lack a validation of step 0; an evaluation has none to miss."""
    without = [printable(run.label) for run in runs if run.start is None and not run.is_evaluation]
    if not without:
        return []
    # The only start there is counts for all runs, one of several for none.
    several = sum(run.start is not None for run in runs) > 1
    lost = ", so no comparison with the starting model" if several else ""
    return [f"No validation of step 0 in {', '.join(without)}{lost} (set trainer.val_before_train=True to get one)."]


def notes_on_unlike_starts(labels: Sequence[str], solved: Sequence[np.ndarray]) -> list[str]:
    """Whether runs have different models at step 0: a note, or none. The order of the runs does not matter.

    Args:
        solved: pass@1 of each problem, (P,), at step 0 of each run that has it.
    """
    if len(solved) < 2:
        return []
    by_mean = sorted(zip(labels, solved, strict=True), key=lambda item: (float(item[1].mean()), item[0]))
    (low_label, low_P), (high_label, high_P) = by_mean[0], by_mean[-1]
    # Paired over problems and at 99.9 %, so that sampling noise seldom raises it.
    if bootstrap_interval(high_P - low_P, confidence=0.999).low <= 0:
        return []
    return [
        f"Pass@1 at step 0 is {low_P.mean():.3f} in {printable(low_label)} and {high_P.mean():.3f} in "
        f"{printable(high_label)}: these runs may not have the same starting model, so each is shown with its own."
    ]


def notes_on_answers(runs: Sequence[Run]) -> list[str]:
    """By what distinct answers are told apart, where it is not the reward function's pred."""
    notes = []
    for run in runs:
        label, by = printable(run.label), run.final.told_apart_by
        if by is None:
            notes.append(
                f"{label}: no distinct answers, because its reward function returns no pred and too few of the right "
                f"responses mark their answer by \\boxed{{}} or <answer> ({_GRADE})."
            )
        elif by == MARK:
            notes.append(
                f"{label}: its reward function returns no pred, so answers are what responses mark last by \\boxed{{}} "
                f"or <answer>, compared as text ({_GRADE})."
            )
    ways = {run.label: by for run in runs if (by := run.final.told_apart_by) is not None}
    if len(set(ways.values())) > 1:
        by_run = ", ".join(f"in {printable(label)} by {_TOLD_BY[by]}" for label, by in ways.items())
        notes.append(f"Distinct answers do not compare, as they are told apart {by_run}.")
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
        if run.is_evaluation:
            continue  # nothing was trained
        metrics = printable(run.layout.metrics)
        if run.step_seconds is None:
            cure = f"logger file with VERL_FILE_LOGGER_PATH={printable(run.path)}/metrics.jsonl"
            if run.layout.metrics != Layout.metrics:
                cure = "name another --metrics"
            notes.append(f"{label}: no seconds a step, because there is no {metrics} ({cure}).")
        elif median_step_seconds(run.step_seconds) is None:
            notes.append(f"{label}: no seconds a step, because {metrics} has {STEP_SECONDS} of one step at most.")
    return notes


def notes_on_missing(runs: Sequence[Run]) -> list[str]:
    """Which parts of the page a run is missing from, and what to set to have it there next time."""
    notes = []
    for run in runs:
        label, layout = printable(run.label), run.layout
        if not run.validations:
            notes.append(f"{label}: no validation samples, so no pass@k (set trainer.validation_data_dir).")
            if run.metrics is None:
                notes.append(f"{label}: no training curves, because there is no {printable(layout.metrics)}.")
        if layout.rollouts is not None and not run.rollouts.steps:
            where = printable(run.path / layout.rollouts)
            notes.append(
                f"{label}: no training rollouts, because {where} has no <step>.jsonl of them: name another --rollouts."
            )
        if not run.rollouts.texts and run.rollouts.log:
            notes.append(f"{label}: its training rollouts have no texts (set trainer.rollout_data_dir).")
        elif run.rollouts.texts and not run.rollouts.log and _is_ours(run):
            notes.append(f"{label}: its training rollouts have no credit (set algorithm.set_rl.rollout_log).")
    return notes


def notes_on_rollouts(runs: Sequence[Run], groups: TrainingGroups) -> list[str]:
    """Which files of training rollouts could not be read as a whole."""
    notes = []
    for (r, path), lines in groups.lines.items():
        label, file = printable(runs[r].label), printable(f"{path.parent.name}/{path.name}")
        if lines.broken:
            skipped = "1 broken line was" if lines.broken == 1 else f"{lines.broken} broken lines were"
            notes.append(f"{label}: {skipped} skipped in {file}, so rollouts of that step are missing.")
        elif not lines.rows:
            notes.append(f"{label}: no training rollouts in {file}, because the file is empty.")
    return notes


def _is_ours(run: Run) -> bool:
    return any(name.startswith("set_rl/") for name in run.metrics or {})
