"""`verl-setpo doctor grader` as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verl_setpo.doctor.grader import Graded, Row
from verl_setpo.evaluation.text import printable
from verl_setpo.tasks.countdown_solutions import MAX_SOLVE_COUNT

_MOST_ROWS = 20
_BOX = "So the answer is $\\boxed{"


def print_cases(console: Console, graded: Sequence[Graded]) -> None:
    """Agreement by kind, then every case in which the two graders or the reward and the truth differ."""
    table = Table(title="graders against cases whose answer is known", caption="second: verl's prime_math")
    for column in ("kind", "cases", "reward right", "second right", "both agree"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    kinds = dict.fromkeys(one.case.kind for one in graded)
    for kind in kinds:
        table.add_row(kind, *_counts([one for one in graded if one.case.kind == kind]))
    table.add_section()
    table.add_row("all", *_counts(graded))
    console.print(table)

    differences = Table(title="every disagreement")
    for column in ("kind", "ground truth", "response", "right?", "reward", "second", "note"):
        differences.add_column(column, overflow="fold")
    for one in graded:
        if one.bad or one.wrong or one.second != one.case.equal:
            mark = "[red]" if one.bad else ""
            differences.add_row(
                one.case.kind,
                _shown(one.case.gold),
                _shown(one.case.response.removeprefix(_BOX).removesuffix("}$.")),
                _yes(one.case.equal),
                "failed" if one.failed else _yes(one.ours),
                _yes(one.second),
                f"{mark}{_note(one)}",
            )
    console.print(differences)


def print_rows(console: Console, path: Path, total: int, hard: Sequence[Row]) -> None:
    """How many rows' own ground truth gets the reward 1, how many of them by their text only, and the first of each."""
    bad, by_text = [row for row in hard if row.gradable is False], [row for row in hard if row.gradable]
    seen = total - sum(row.gradable is None for row in hard)
    console.print(f"{_shown(path)}: {seen - len(bad)} of {seen} ground truths get the reward 1 as an answer")
    console.print(f"{len(by_text)} of them only in their own words, as math-verify cannot compare them")
    if seen < total:
        console.print(
            f"{total - seen} more are not looked at: countdown with more than {MAX_SOLVE_COUNT} numbers, for which no "
            "solution is sought"
        )
    titles = {"rows that cannot be graded: correct or drop them": bad, "rows compared by their text": by_text}
    for title, rows in titles.items():
        if rows:
            table = Table(title=f"{title} (the first {min(_MOST_ROWS, len(rows))} of {len(rows)})")
            for column in ("row", "data_source", "ground truth", "cause"):
                table.add_column(column, overflow="fold")
            for row in rows[:_MOST_ROWS]:
                table.add_row(str(row.index), _shown(row.source), _shown(row.gold), _shown(row.cause))
            console.print(table)


def _counts(graded: Sequence[Graded]) -> list[str]:
    right = sum(not one.wrong for one in graded)
    second = sum(one.second == one.case.equal for one in graded)
    agree = sum(one.second == one.ours for one in graded)
    return [str(len(graded)), *(f"{part} ({part / len(graded):.0%})" for part in (right, second, agree))]


def _note(one: Graded) -> str:
    if one.bad:
        return "now right: no longer a known weakness" if one.case.known and not one.failed else "the reward is wrong"
    return f"known: {escape(one.case.known)}" if one.case.known else ""


def _yes(value: bool | None) -> str:
    return "no answer" if value is None else "yes" if value else "no"


def _shown(text: object) -> str:
    return escape(printable(text)[:200])
