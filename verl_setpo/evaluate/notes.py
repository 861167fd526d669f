"""What a reader must know to judge the figures, a sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from verl_setpo.evaluate.summary import Figures
from verl_setpo.evaluate.tables import labels, shown_ks


def notes(rows: Sequence[Figures], ks: Sequence[int] | None = None) -> list[str]:
    """ks: those asked for."""
    names = [f"{labels(rows)[row.run, row.step]} on {row.set_name}" for row in rows]
    named = list(zip(names, rows, strict=True))
    return [
        *_left_out(named, ks),
        *_of_sets(named),
        *(f"{name}: {said}" for name, row in named for said in _of_file(row)),
    ]


def counted(count: int, one: str, many: str) -> str:
    return f"1 {one}" if count == 1 else f"{count} {many}"


def _left_out(named: Sequence[tuple[str, Figures]], ks: Sequence[int] | None) -> list[str]:
    left_out = sorted(set(ks or ()) - set(shown_ks([row for _, row in named], ks)))
    if not left_out:
        return []
    name, fewest = min(named, key=lambda one: one[1].num_samples)
    few = f"{name} has only {fewest.num_samples} samples a problem"
    return [f"k = {', '.join(map(str, left_out))} is left out, as {few}."]


def _of_sets(named: Sequence[tuple[str, Figures]]) -> list[str]:
    said = []
    for set_name in dict.fromkeys(row.set_name for _, row in named):
        of_set = [one for one in named if one[1].set_name == set_name]
        if any(row.num_samples > row.distinct_in for _, row in of_set):
            name, fewest = min(of_set, key=lambda one: one[1].num_samples)
            said.append(
                f"{set_name}: distinct correct answers are what {fewest.num_samples} samples of a problem show on "
                f"average, as of {name} there are no more."
            )
        if len({row.num_problems for _, row in of_set}) > 1:
            said.append(
                f"{set_name}: not all rows are of the same problems; `verl-setpo report` compares on those that all "
                "have."
            )
    return said


def _of_file(row: Figures) -> list[str]:
    said = []
    if row.grader_failed:
        failed = counted(row.grader_failed, "sample could not be graded", "samples could not be graded")
        said.append(f"{failed}, which counts as wrong.")
    if row.skipped:
        said.append(f"{counted(row.skipped, 'line is no sample and was', 'lines are no samples and were')} skipped.")
    if row.incomplete:
        few = f"with fewer than {row.num_samples} samples"
        said.append(f"{counted(row.incomplete, f'problem {few} is', f'problems {few} are')} left out.")
    if row.majority is None:
        said.append("no majority and no distinct answers, as its reward function returns no pred.")
    elif row.answered == 0:
        said.append("the reward finds an answer in no response: is it the reward of this set?")
    return said
