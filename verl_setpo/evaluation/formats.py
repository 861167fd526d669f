"""A comparison as a table for the terminal, as Markdown, and as JSON. No text of a rollout is in any of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from verl_setpo.evaluation.comparison import CONFIDENCE, Comparison, Estimate, Row
from verl_setpo.evaluation.text import markdown, printable

if TYPE_CHECKING:
    from rich.table import Table

UNKNOWN = "-"
LARGE_KS = 2  # pass@k columns besides pass@1

Cell = tuple[str, str, str]  # figure; low and high end of its interval, or ""


def table_cells(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Headers and rows of the table, the starting model first. Labels are as given, not escaped."""
    ks = [1, *[k for k in comparison.ks if k > 1][-LARGE_KS:]]
    total = comparison.num_problems
    headers = ["run", "step", *(f"pass@{k} (%)" for k in ks), f"distinct correct {comparison.ways}"]
    headers += [f"problems (of {total}) with 2 or more", "seconds a step"]

    def cells(row: Row) -> list[Cell]:
        return [
            (row.label, "", ""),
            (str(row.step), "", ""),
            *(_percent(row.pass_at_k[k]) for k in ks),
            _cell(row.distinct, digits=2),
            _cell(row.wide, digits=0, scale=total),
            (UNKNOWN if row.step_seconds is None else f"{row.step_seconds:.3g}", "", ""),
        ]

    return headers, [cells(row) for row in comparison.starts + comparison.runs]


def _cell(estimate: Estimate | None, digits: int, scale: int = 1) -> Cell:
    if estimate is None:
        return UNKNOWN, "", ""
    mean, low, high = (f"{scale * value:.{digits}f}" for value in estimate)
    return mean, low, high


def _percent(estimate: Estimate) -> Cell:
    # 100 instead of 100.0: no figure is wider than four characters, and the table fits 80 columns.
    mean, low, high = (text.replace("100.0", "100") for text in _cell(estimate, digits=1, scale=100))
    return mean, low, high


def caption(comparison: Comparison) -> str:
    """What the figures are measured on."""
    problems, samples = _count(comparison.num_problems, "problem"), _count(comparison.num_samples, "sample")
    return f"{problems}, {samples} each, {CONFIDENCE:.0%} bootstrap intervals over problems"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rich_table(comparison: Comparison) -> Table:
    """For the terminal, 80 columns wide with short labels: intervals are below their figures."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    headers, rows = table_cells(comparison)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    table.caption, table.caption_justify = Text(caption(comparison)), "left"
    table.add_column(headers[0], overflow="fold")
    for header in headers[1:]:
        # no_wrap: where space is short, the labels give way and no figure is cut.
        width = max(9, *map(len, header.split()))
        table.add_column(Text("\n".join(textwrap.wrap(header, width))), justify="right", no_wrap=True)
    for row in rows:
        # Text objects, not strings: rich would read [red] in a label as markup.
        cells = [Text(printable(figure)) for figure, _, _ in row]
        for cell, (_, low, high) in zip(cells, row, strict=True):
            if low:
                cell.append(f"\n{low}-{high}", style="dim")
        table.add_row(*cells)
    return table


def markdown_report(comparison: Comparison, figure: str, notes: Sequence[str], paired: Sequence[list[str]] = ()) -> str:
    """The report as Markdown.

    Args:
        figure: the picture's file name.
        notes: below the table.
        paired: header and rows of a second table, the first three columns texts.
    """
    headers, rows = table_cells(comparison)
    lines = ["# Comparison of runs", "", f"![Pass@k, distinct correct {comparison.ways} and pass@1]({figure})", ""]
    lines += [_markdown_row(headers), _markdown_row([":--", *["--:"] * (len(headers) - 1)])]
    for row in rows:
        texts = [f"{markdown(text)} ({low} to {high})" if low else markdown(text) for text, low, high in row]
        lines.append(_markdown_row(texts))
    lines += ["", f"{caption(comparison)}.", ""]
    if paired:
        lines += ["Paired over problems:", "", _markdown_row([markdown(cell) for cell in paired[0]])]
        lines.append(_markdown_row([":--"] * 3 + ["--:"] * (len(paired[0]) - 3)))
        lines += [*(_markdown_row([markdown(cell) for cell in row]) for row in paired[1:]), ""]
    lines += [f"- {markdown(note)}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def json_report(comparison: Comparison, paths: list[str], notes: Sequence[str]) -> dict[str, Any]:
    """The same figures and the curves as plain JSON values; what is unknown is null.

    Args:
        paths: the directory of each run.
    """
    return {
        "num_problems": comparison.num_problems,
        "num_samples": comparison.num_samples,
        "ks": list(comparison.ks),
        "confidence": CONFIDENCE,
        "starts": [_row_json(row) for row in comparison.starts],
        "runs": [{**_row_json(row), "path": path} for row, path in zip(comparison.runs, paths, strict=True)],
        "notes": list(notes),
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "label": row.label,
        "step": row.step,
        "pass_at_k": {str(k): estimate_json(estimate) for k, estimate in row.pass_at_k.items()},
        "distinct_correct": estimate_json(row.distinct),
        "share_with_two_or_more": estimate_json(row.wide),
        "average_mode": row.average_mode,
        "seconds_per_step": row.step_seconds,
        "progress": [
            {
                "step": point.step,
                "pass_at_1": estimate_json(point.pass_at_1),
                "distinct_correct": estimate_json(point.distinct),
            }
            for point in row.progress
        ],
    }


def estimate_json(estimate: Estimate | None) -> dict[str, float] | None:
    """Mean, low and high by name."""
    return None if estimate is None else estimate._asdict()
