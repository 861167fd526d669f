"""The figures as a table for the terminal, as Markdown and as JSON. No text of a response is in any of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from verl_setpo.evaluate.summary import Figures
from verl_setpo.evaluation.comparison import CONFIDENCE, Estimate
from verl_setpo.evaluation.text import markdown, printable

if TYPE_CHECKING:
    from rich.table import Table

UNKNOWN = "-"


class Cell(NamedTuple):
    """A figure, and the ends of its interval or ""."""

    text: str
    low: str = ""
    high: str = ""


def cells(rows: Sequence[Figures]) -> tuple[list[str], list[list[Cell]]]:
    """Headers and rows of the table. Names are as given, not escaped.

    Of pass@k and majority@k it has the largest k that all rows have, and the JSON has all.
    """
    k = max(set.intersection(*(set(row.pass_at_k) for row in rows)))
    headers = ["model", "set", "pass@1 (%)", f"pass@{k} (%)", f"majority@{k} (%)", f"vote share@{k} (%)"]
    headers += ["distinct correct answers", "cut off (%)", "tokens"]
    body = [_row(row, k) for row in rows]
    return headers, body + [_average_row(average, k) for average in averages(rows)]


def _row(row: Figures, k: int) -> list[Cell]:
    accuracy, share = row.majority[k] if row.majority else (None, None)
    return [
        Cell(f"{row.run} {row.step}" if row.step else row.run),
        Cell(row.set_name),
        _percent(row.pass_at_k[1]),
        _percent(row.pass_at_k[k]),
        _percent(accuracy),
        _percent(share),
        _cell(row.distinct, 2),
        Cell(UNKNOWN if row.truncated is None else f"{100 * row.truncated:.1f}"),
        Cell(UNKNOWN if row.mean_tokens is None else f"{row.mean_tokens:.0f}"),
    ]


def averages(rows: Sequence[Figures]) -> list[dict[str, Any]]:
    """For each model with several sets the means over them, as papers give them: each set counts alike, no interval."""
    by_model: dict[tuple[str, int], list[Figures]] = {}
    for row in rows:
        by_model.setdefault((row.run, row.step), []).append(row)
    return [_average(run, step, of) for (run, step), of in by_model.items() if len(of) > 1]


def _average(run: str, step: int, rows: Sequence[Figures]) -> dict[str, Any]:
    ks = sorted(set.intersection(*(set(row.pass_at_k) for row in rows)))
    found: dict[str, Any] = {"model": run, "step": step, "sets": [row.set_name for row in rows]}
    found["pass_at_k"] = {str(k): _mean([row.pass_at_k[k].mean for row in rows]) for k in ks}
    found["mean_score"] = _mean([row.mean_score.mean for row in rows])
    votes = [row.majority for row in rows if row.majority is not None]
    known = len(votes) == len(rows)
    found["majority_at_k"] = {
        str(k): {"accuracy": _mean([v[k][0].mean for v in votes]), "vote_share": _mean([v[k][1].mean for v in votes])}
        for k in (ks if known else ())
    }
    distinct = [row.distinct.mean for row in rows if row.distinct is not None]
    found["distinct_correct"] = _mean(distinct) if len(distinct) == len(rows) else None
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _average_row(average: dict[str, Any], k: int) -> list[Cell]:
    vote = average["majority_at_k"].get(str(k), {})
    shares = [average["pass_at_k"]["1"], average["pass_at_k"][str(k)], vote.get("accuracy"), vote.get("vote_share")]
    distinct = average["distinct_correct"]
    return [
        Cell(f"{average['model']} {average['step']}" if average["step"] else average["model"]),
        Cell(f"mean of {len(average['sets'])} sets"),
        *(Cell(UNKNOWN if share is None else f"{100 * share:.1f}".replace("100.0", "100")) for share in shares),
        Cell(UNKNOWN if distinct is None else f"{distinct:.2f}"),
        Cell(UNKNOWN),
        Cell(UNKNOWN),
    ]


def _cell(estimate: Estimate | None, digits: int, scale: int = 1) -> Cell:
    return Cell(UNKNOWN) if estimate is None else Cell(*(f"{scale * value:.{digits}f}" for value in estimate))


def _percent(estimate: Estimate | None) -> Cell:
    # 100 in place of 100.0: no figure is wider than four characters.
    return Cell(*(text.replace("100.0", "100") for text in _cell(estimate, 1, 100)))


def caption(rows: Sequence[Figures]) -> str:
    """What the figures are measured on."""
    sets = {row.set_name: row for row in rows}
    parts = [f"{name} {row.num_problems} x {row.num_samples}" for name, row in sets.items()]
    return f"Problems x samples: {', '.join(parts)}; {CONFIDENCE:.0%} bootstrap intervals over problems"


def notes(rows: Sequence[Figures]) -> list[str]:
    """What a reader must know to judge the figures, a sentence each."""
    said = []
    for row in rows:
        name = f"{row.run}, step {row.step}, {row.set_name}"
        if row.grader_failed:
            said.append(f"{name}: {row.grader_failed} samples could not be graded and count as wrong.")
        if row.skipped:
            said.append(f"{name}: {row.skipped} lines are no samples and were skipped.")
        if row.majority is None:
            said.append(f"{name}: no majority and no distinct answers, as its reward function returns no pred.")
    return said


def rich_table(rows: Sequence[Figures]) -> Table:
    """For the terminal: intervals are below their figures."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    headers, body = cells(rows)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    table.caption, table.caption_justify = Text(printable(caption(rows))), "left"
    for header in headers[:2]:
        table.add_column(header, overflow="fold")
    for header in headers[2:]:
        # no_wrap: where space is short, the names give way and no figure is cut.
        table.add_column(Text(header.replace(" ", "\n")), justify="right", no_wrap=True)
    for row in body:
        # Text objects, not strings: rich would read [red] in a name as markup.
        shown = [Text(printable(cell.text)) for cell in row]
        for text, cell in zip(shown, row, strict=True):
            if cell.low:
                text.append(f"\n{cell.low}-{cell.high}", style="dim")
        table.add_row(*shown)
    return table


def markdown_table(rows: Sequence[Figures]) -> str:
    headers, body = cells(rows)
    lines = ["# Evaluation", "", _line(headers), _line([":--", ":--", *["--:"] * (len(headers) - 2)])]
    for row in body:
        lines.append(_line([markdown(c.text) + (f" ({c.low} to {c.high})" if c.low else "") for c in row]))
    lines += ["", f"{markdown(caption(rows))}.", "", *(f"- {markdown(note)}" for note in notes(rows))]
    return "\n".join(lines).rstrip() + "\n"


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def as_json(rows: Sequence[Figures]) -> dict[str, Any]:
    """All figures as plain JSON values; what is unknown is null."""
    results = [_row_json(row) for row in rows]
    return {"confidence": CONFIDENCE, "results": results, "averages": averages(rows), "notes": notes(rows)}


def _row_json(row: Figures) -> dict[str, Any]:
    majority = None
    if row.majority is not None:
        majority = {
            str(k): {"accuracy": accuracy._asdict(), "vote_share": share._asdict()}
            for k, (accuracy, share) in row.majority.items()
        }
    return {
        "model": row.run,
        "step": row.step,
        "set": row.set_name,
        "num_problems": row.num_problems,
        "num_samples": row.num_samples,
        "pass_at_k": {str(k): value._asdict() for k, value in row.pass_at_k.items()},
        "mean_score": row.mean_score._asdict(),
        "majority_at_k": majority,
        "distinct_correct": None if row.distinct is None else row.distinct._asdict(),
        "answered": row.answered,
        "truncated": row.truncated,
        "mean_tokens": row.mean_tokens,
        "grader_failed": row.grader_failed,
        "skipped_lines": row.skipped,
    }
