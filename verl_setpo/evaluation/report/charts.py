"""The charts of the page as plotly figures; plotly's own script draws them in the browser."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verl_setpo.evaluation.comparison import Comparison, Estimate
from verl_setpo.evaluation.figure import COLOURS, LONGEST_NAME, START_COLOUR
from verl_setpo.evaluation.report.curves import EstimateCurve
from verl_setpo.evaluation.report.training_figures import FIGURES, training_curve
from verl_setpo.evaluation.runs import Run
from verl_setpo.evaluation.text import printable

if TYPE_CHECKING:
    import plotly.graph_objects as go

# The same hues on a dark page, where Okabe and Ito's are too dark.
DARK_COLOURS = ("#4DB2F0", "#FF9752", "#38C9A0", "#E8A0C8", "#F5B93D", "#9AD7F7")
DARK_START = "#B0B0B0"
INK, DARK_INK = "#333333", "#D6D6D6"
GRID, DARK_GRID = "#E5E5E5", "#3A3F45"
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
BAND_OPACITY = 0.13
HEIGHT = 290


@dataclass(frozen=True)
class Chart:
    """A figure with what a reader must know of it."""

    title: str
    figure: go.Figure
    note: str = ""


def colour_of(run: int | None, dark: bool = False) -> str:
    """The colour of a run, or of the start of several."""
    if run is None:
        return DARK_START if dark else START_COLOUR
    colours = DARK_COLOURS if dark else COLOURS
    return colours[run % len(colours)]


def theme() -> dict[str, str]:
    """Every colour of the figures with the one that takes its place on a dark page."""
    swapped = {**dict(zip(COLOURS, DARK_COLOURS, strict=True)), START_COLOUR: DARK_START}
    bands = {_band(light): _band(dark) for light, dark in swapped.items()}
    return swapped | bands | {INK: DARK_INK, GRID: DARK_GRID}


def validation_charts(comparison: Comparison) -> list[Chart]:
    """Pass@k, and pass@1 and distinct answers over training."""
    pass_at_k = _figure("samples k", percent=True)
    for row, is_start in [*((row, True) for row in comparison.starts), *((row, False) for row in comparison.runs)]:
        ks = sorted(row.pass_at_k)
        _line(pass_at_k, row.label, row.run, is_start, ks, [row.pass_at_k[k] for k in ks])
    _log_axis(pass_at_k, max(comparison.runs[0].pass_at_k))
    charts = [Chart("Pass@k after training", pass_at_k)]

    distinct, pass_at_1 = _figure("training step"), _figure("training step", percent=True)
    for row in comparison.runs:
        steps = [point.step for point in row.progress]
        _line(pass_at_1, row.label, row.run, False, steps, [point.pass_at_1 for point in row.progress])
        known = [(point.step, point.distinct) for point in row.progress if point.distinct is not None]
        if known:
            _line(distinct, row.label, row.run, False, [step for step, _ in known], [y for _, y in known])
    if distinct.data:
        distinct.update_yaxes(rangemode="tozero")
        charts.append(Chart(f"Distinct correct {comparison.ways} over training", distinct))
    return [*charts, Chart("Pass@1 over training", pass_at_1)]


def curve_chart(title: str, x_title: str, curves: Sequence[EstimateCurve], note: str, percent: bool = False) -> Chart:
    """Curves with bands over a logarithmic axis."""
    figure = _figure(x_title, percent=percent)
    for curve in curves:
        _line(figure, curve.line.label, curve.line.run, curve.line.is_start, curve.x, curve.y)
    _log_axis(figure, max(x for curve in curves for x in curve.x))
    return Chart(title, figure, note)


def training_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for each figure that at least one run logged, raw and as a running mean."""
    charts = []
    for key, title, percent in FIGURES:
        figure, without = _figure("training step", percent=percent), []
        for i, run in enumerate(runs):
            values = (run.metrics or {}).get(key)
            if not values:
                without.append(printable(run.label))
                continue
            curve = training_curve(values)
            look = {"mode": "lines", "legendgroup": str(i), "name": _name(run.label)}
            figure.add_scatter(
                x=curve.step_S, y=curve.value_S, line={"color": colour_of(i), "width": 1}, opacity=0.35,
                hoverinfo="skip", **look,
            )  # fmt: skip
            figure.add_scatter(x=curve.step_S, y=curve.smooth_S, line={"color": colour_of(i), "width": 2.4}, **look)
        if len(without) < len(runs):
            note = f"Not logged by {', '.join(without)}." if without else ""
            charts.append(Chart(title, figure, note))
    return charts


def _figure(x_title: str, percent: bool = False) -> go.Figure:
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True, "fixedrange": True}
    figure = go.Figure(
        layout={
            "template": "none",
            "height": HEIGHT,
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
            "showlegend": False,
            "hovermode": "closest",
            "dragmode": False,
            "xaxis": {**axis, "showgrid": False, "title": {"text": x_title}},
            "yaxis": {**axis, "showline": False},
        }
    )
    if percent:
        figure.update_yaxes(tickformat=".0%", hoverformat=".1%")
    return figure


def _line(figure: Any, label: str, run: int | None, is_start: bool, x: Sequence[float], y: Sequence[Estimate]) -> None:
    """A curve over the band of its intervals; that of a start is dashed."""
    colour = colour_of(run)
    there_and_back = [*x, *reversed(x)]
    edges = [*(value.high for value in y), *(value.low for value in reversed(y))]
    figure.add_scatter(
        x=there_and_back, y=edges, fill="toself", fillcolor=_band(colour), line={"width": 0}, mode="lines",
        hoverinfo="skip", name=_name(label),
    )  # fmt: skip
    symbol = "line-ew" if is_start or run is None else SYMBOLS[run % len(SYMBOLS)]
    marker = {"symbol": symbol, "size": 7, "color": colour}
    line = {"color": colour, "width": 2.4, **({"dash": "dash"} if is_start else {})}
    mode = "lines" if is_start else "lines+markers"
    figure.add_scatter(x=list(x), y=[value.mean for value in y], mode=mode, line=line, marker=marker, name=_name(label))


def _log_axis(figure: Any, most: int) -> None:
    ticks = [2**i for i in range(most.bit_length())]
    figure.update_xaxes(type="log", tickvals=ticks[:: 1 + len(ticks) // 9])


def _band(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{BAND_OPACITY})"


def _name(label: str) -> str:
    """Plotly reads some HTML in names."""
    text = printable(label)
    return html.escape(text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3]}...")
