"""The page itself: template, data and scripts in one file that loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from itertools import count
from typing import Any

from verl_setpo.evaluation.comparison import CONFIDENCE, Comparison, Estimate
from verl_setpo.evaluation.formats import caption, table_cells
from verl_setpo.evaluation.report.charts import (
    Chart,
    colour_of,
    curve_chart,
    theme,
    training_charts,
    validation_charts,
)
from verl_setpo.evaluation.report.content import Content
from verl_setpo.evaluation.report.curves import MOST_PROBLEMS
from verl_setpo.evaluation.report.pairs import PairedRow
from verl_setpo.evaluation.report.show import HEAD_CHARS, TAIL_CHARS, short
from verl_setpo.evaluation.runs import Run
from verl_setpo.evaluation.text import printable

LONGEST_LABEL = 60
_FOLDER = "verl_setpo.evaluation.report"


def html_page(runs: Sequence[Run], comparison: Comparison | None, content: Content, notes: Sequence[str]) -> str:
    """The whole report as HTML, ASCII but for plotly's own script."""
    import jinja2

    charts = _charts(runs, comparison, content)
    data = {
        "charts": [chart.figure.to_dict() for _, _, group in charts for chart in group],
        "theme": theme(),
        "problems": content.problems,
        "training": content.training,
    }
    scripts = [plotly_script(), _read("rollouts.js"), _read("page.js")]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["printable"] = printable
    headers, rows = table_cells(comparison) if comparison is not None else ([], [])
    return environment.from_string(_read("page.html.jinja")).render(
        policy=content_policy(scripts),
        scripts=[_trusted(script) for script in scripts],
        style=_trusted(_read("page.css")),
        colours=[(_run_name(i), colour_of(i), colour_of(i, dark=True)) for i in [None, *range(len(runs))]],
        data=_trusted(embedded_json(data)),
        runs=[(_run_name(i), short(run.label, LONGEST_LABEL), printable(run.path)) for i, run in enumerate(runs)],
        starts=[(_run_name(row.run), short(row.label, LONGEST_LABEL)) for row in comparison.starts]
        if comparison
        else [],
        headers=headers,
        rows=rows,
        caption="" if comparison is None else caption(comparison),
        chart_groups=_numbered(charts),
        paired_header=PAIRED_HEADER,
        paired=[
            (title, [paired_cells(row) for row in content.paired if row.from_start == from_start])
            for title, from_start in (("", False), ("Against the starting model", True))
        ],
        problems=content.problems,
        ways=comparison.ways if comparison is not None and any(row.distinct for row in comparison.runs) else "",
        training=content.training,
        cut_chars=HEAD_CHARS + TAIL_CHARS,
        notes=notes,
    )


def embedded_json(data: Any) -> str:
    """JSON for a `<script>` element: ASCII, and without a character that could end the element or open a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def content_policy(scripts: Sequence[str]) -> str:
    """A Content-Security-Policy under which only these inline scripts run, and nothing is loaded or sent.

    Inline styles stay allowed: plotly lays out its figures with them.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def plotly_script() -> str:
    """plotly.js (MIT), as plotly's Python package ships it."""
    from plotly.offline import get_plotlyjs

    # A browser reads \r\n as \n, and then the script has another hash.
    return get_plotlyjs().replace("\r\n", "\n")


PAIRED_HEADER = ("from", "to", "figure", "mean change", "better on", "worse on", "same", "p, sign test")


def paired_table(rows: Sequence[PairedRow]) -> list[list[str]]:
    """Header and rows as text; empty if there is no row."""
    table = []
    for row in rows:
        first, second, figure, difference, interval, *counts = paired_cells(row).values()
        table.append([first, second, figure, f"{difference} ({interval})", *counts])
    return [list(PAIRED_HEADER), *table] if rows else []


def _charts(runs: Sequence[Run], comparison: Comparison | None, content: Content) -> list[tuple[str, str, list[Chart]]]:
    """The title, a word on it and the charts of each group."""
    groups = []
    if comparison is not None:
        charts = validation_charts(comparison)
        most = f" Of {MOST_PROBLEMS} of the problems." if comparison.num_problems > MOST_PROBLEMS else ""
        if content.majority:
            note = f"The answer that most of k samples give, ties by lot; no answer is no vote.{most}"
            charts.append(curve_chart("Majority@k", "samples k", content.majority, note, percent=True))
        if content.branching:
            note = (
                "Different beginnings among the responses to a problem, by length in words, numbers and signs: "
                f"verl's files hold texts, not tokens.{most}"
            )
            charts.append(curve_chart("Branching", "words from the start", content.branching, note))
        groups.append(("Validation", f"Bands: {CONFIDENCE:.0%} bootstrap intervals over problems.", charts))
    training = training_charts(runs)
    if training:
        groups.append(("Training", "Thin: as logged each step. Thick: the running mean.", training))
    return groups


def _numbered(
    groups: Sequence[tuple[str, str, Sequence[Chart]]],
) -> list[tuple[str, str, list[tuple[int, Chart]]]]:
    numbers = count()
    return [(title, said, [(next(numbers), chart) for chart in charts]) for title, said, charts in groups]


def paired_cells(row: PairedRow) -> dict[str, str]:
    """The cells of a paired comparison; counts are of problems."""
    result = row.result
    scale, digits = (1, 2) if row.figure.startswith("distinct") else (100, 1)
    change = Estimate(result.difference, *result.interval)
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in change)
    p_value = "< 0.001" if result.p_value < 0.001 else f"{result.p_value:.3f}"
    return {
        "first": short(row.first, LONGEST_LABEL),
        "second": short(row.second, LONGEST_LABEL),
        "figure": row.figure if scale == 1 else f"{row.figure} (%)",
        "difference": mean,
        "interval": f"{low} to {high}",
        "gained": str(result.gained),
        "lost": str(result.lost),
        "tied": str(result.tied),
        "p_value": p_value,
    }


def _run_name(run: int | None) -> str:
    return "start" if run is None else f"run-{run}"


def _read(name: str) -> str:
    return files(_FOLDER).joinpath(name).read_text(encoding="utf-8")


def _trusted(text: str) -> Any:
    """Our own text, which jinja is not to escape."""
    from markupsafe import Markup

    return Markup(text)
