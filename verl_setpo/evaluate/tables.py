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
_GAP = 2
"""Columns of the terminal between two of the table."""


class Cell(NamedTuple):
    """A figure, and the ends of its interval or ""."""

    text: str
    low: str = ""
    high: str = ""


def cells(rows: Sequence[Figures], ks: Sequence[int] | None = None) -> tuple[list[str], list[list[Cell]]]:
    """Headers and rows of the table. Names are as given, not escaped.

    Args:
        ks: of pass@k and majority@k; those that not all rows have are left out. None: the largest that all have. The
            JSON has all.
    """
    shown = shown_ks(rows, ks)
    several = shown[1:] or shown
    headers = ["model", "set", *(f"pass@{k} (%)" for k in shown), *(f"majority@{k} (%)" for k in several)]
    headers += [f"vote share@{shown[-1]} (%)", "distinct correct answers", "cut off (%)", "tokens"]
    names = labels(rows)
    body = [_row(row, names, shown, several) for row in rows]
    return headers, body + [_average_row(average, names, shown, several) for average in averages(rows)]


def shown_ks(rows: Sequence[Figures], ks: Sequence[int] | None = None) -> list[int]:
    """1, then of the ks asked for those that all rows have, ascending; of no ks the largest that all have."""
    common = set.intersection(*(set(row.pass_at_k) for row in rows))
    return sorted({1} | (common.intersection(ks) if ks else {max(common)}))


def labels(rows: Sequence[Figures]) -> dict[tuple[str, int], str]:
    """What each model of the rows is called: with its step, but for a model that is no checkpoint."""
    steps: dict[str, set[int]] = {}
    for row in rows:
        steps.setdefault(row.run, set()).add(row.step)
    return {(run, step): f"{run} {step}" if step or len(of) > 1 else run for run, of in steps.items() for step in of}


def _row(row: Figures, names: dict[tuple[str, int], str], shown: Sequence[int], several: Sequence[int]) -> list[Cell]:
    return [
        Cell(names[row.run, row.step]),
        Cell(row.set_name),
        *(_percent(row.pass_at_k[k]) for k in shown),
        *(_percent(row.majority[k][0] if row.majority else None) for k in several),
        _percent(row.majority[shown[-1]][1] if row.majority else None),
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


def _average_row(
    average: dict[str, Any], names: dict[tuple[str, int], str], shown: Sequence[int], several: Sequence[int]
) -> list[Cell]:
    votes = {k: average["majority_at_k"].get(str(k), {}) for k in shown}
    shares = [average["pass_at_k"][str(k)] for k in shown]
    shares += [*(votes[k].get("accuracy") for k in several), votes[shown[-1]].get("vote_share")]
    distinct = average["distinct_correct"]
    return [
        Cell(names[average["model"], average["step"]]),
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
    names, sizes = labels(rows), dict[str, dict[str, list[str]]]()
    for row in rows:
        size = f"{row.num_problems} x {row.num_samples}"
        sizes.setdefault(row.set_name, {}).setdefault(size, []).append(names[row.run, row.step])
    parts = []
    for name, models in sizes.items():
        each = [size if len(models) == 1 else f"{size} ({', '.join(of)})" for size, of in models.items()]
        parts.append(f"{name} {', '.join(each)}")
    return f"Problems x samples: {', '.join(parts)}; {CONFIDENCE:.0%} bootstrap intervals over problems"


def _fit(headers: Sequence[str], body: Sequence[Sequence[Cell]], names: int, width: int) -> list[list[int]]:
    """The columns of each of several tables, all with the first `names`, none wider than `width` where that can be."""
    wide = [max(map(len, header.split(" "))) for header in headers]
    for row in body:
        wide = [max(w, len(cell.text), len(_interval(cell))) for w, cell in zip(wide, row, strict=True)]
    tables = [list(range(names))]
    for column in range(names, len(headers)):
        if len(tables[-1]) > names and sum(wide[i] + _GAP for i in (*tables[-1], column)) - _GAP > width:
            tables.append(list(range(names)))
        tables[-1].append(column)
    return tables


def _interval(cell: Cell) -> str:
    return f"{cell.low}-{cell.high}" if cell.low else ""


def rich_tables(rows: Sequence[Figures], ks: Sequence[int] | None, width: int) -> list[Table]:
    """For a terminal of `width` columns: intervals are below their figures. What is too wide for one table goes on in
    the next. Left out are a set that is the only one, as the caption names it, and what is known of no row."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    headers, body = cells(rows, ks)
    kept = [place for place in range(len(headers)) if any(row[place].text != UNKNOWN for row in body)]
    if len({row.set_name for row in rows}) == 1:
        kept.remove(1)
    headers, body = [headers[place] for place in kept], [[row[place] for place in kept] for row in body]
    names = headers.index("pass@1 (%)")
    tables = []
    for columns in _fit(headers, body, names, width):
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
        for place in columns:
            # no_wrap: a name longer than the terminal gives way, and no figure is cut.
            header = Text(headers[place].replace(" ", "\n"))
            justify: Any = "right" if place >= names else "left"
            table.add_column(header, justify=justify, overflow="fold", no_wrap=place >= names)
        for row in body:
            # Text objects, not strings: rich would read [red] in a name as markup.
            shown = [Text(printable(row[place].text)) for place in columns]
            for text, place in zip(shown, columns, strict=True):
                if row[place].low:
                    text.append(f"\n{_interval(row[place])}", style="dim")
            table.add_row(*shown)
        tables.append(table)
    return tables


def markdown_table(rows: Sequence[Figures], ks: Sequence[int] | None, said: Sequence[str]) -> str:
    """said: what there is to note, a sentence each."""
    headers, body = cells(rows, ks)
    lines = ["# Evaluation", "", _line(headers), _line([":--", ":--", *["--:"] * (len(headers) - 2)])]
    for row in body:
        lines.append(_line([markdown(c.text) + (f" ({c.low} to {c.high})" if c.low else "") for c in row]))
    lines += ["", f"{markdown(caption(rows))}.", "", *(f"- {markdown(note)}" for note in said)]
    return "\n".join(lines).rstrip() + "\n"


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def as_json(rows: Sequence[Figures], said: Sequence[str]) -> dict[str, Any]:
    """All figures as plain JSON values, and the notes; what is unknown is null."""
    results = [_row_json(row) for row in rows]
    return {"confidence": CONFIDENCE, "results": results, "averages": averages(rows), "notes": list(said)}


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
        "distinct_in_samples": row.distinct_in,
        "answered": row.answered,
        "truncated": row.truncated,
        "mean_tokens": row.mean_tokens,
        "grader_failed": row.grader_failed,
        "skipped_lines": row.skipped,
        "incomplete_problems": row.incomplete,
    }
