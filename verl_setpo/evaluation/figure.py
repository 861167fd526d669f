"""The picture of a comparison: pass@k, distinct correct answers over training, pass@1 over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verl_setpo.evaluation.comparison import Comparison, Estimate, Row
from verl_setpo.evaluation.formats import caption
from verl_setpo.evaluation.text import printable

# Okabe and Ito's palette, safe for colour-blind readers; the darker colours first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
START_COLOUR = "#555555"
START_DASHES = (0, (4, 2))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # seven to six colours: no pair repeats before 42 runs
LONGEST_NAME = 60
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "xtick.color": "#999999",
    "ytick.color": "#999999",
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "lines.linewidth": 2.2,
    "lines.markersize": 5.5,
}


def save_figure(comparison: Comparison, path: Path) -> None:
    """Write the picture as PNG, 150 dpi on white. The middle panel is missing if no run has parsed answers."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [_pass_at_k_panel, _distinct_panel, _pass_at_1_panel]
    if all(row.distinct is None for row in comparison.runs):
        panels.remove(_distinct_panel)
    with matplotlib.style.context(["default", STYLE]):  # default: not the user's matplotlibrc
        # Figure and Agg canvas by hand: pyplot would ask for a display and keep global state.
        figure = Figure(figsize=(4.3 * len(panels), 4.6), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.09)
        for panel, axes in zip(panels, figure.subplots(1, len(panels)), strict=True):
            panel(axes, comparison)
        _legend(figure, comparison)
        figure.supxlabel(f"Bands: {caption(comparison)}", fontsize=10, color="#666666", x=0.01, ha="left")
        figure.savefig(path, format="png")


def _looks(comparison: Comparison) -> list[tuple[Row, dict[str, Any]]]:
    return [
        (row, {"color": COLOURS[(row.run or 0) % len(COLOURS)], "marker": MARKERS[(row.run or 0) % len(MARKERS)]})
        for row in comparison.runs
    ]


def _start_looks(comparison: Comparison) -> list[tuple[Row, dict[str, Any]]]:
    """Dashed, and grey unless each run has a start of its own."""
    colours = [START_COLOUR if row.run is None else COLOURS[row.run % len(COLOURS)] for row in comparison.starts]
    return [
        (row, {"color": colour, "linestyle": START_DASHES})
        for row, colour in zip(comparison.starts, colours, strict=True)
    ]


def _pass_at_k_panel(axes: Any, comparison: Comparison) -> None:
    for row, look in _start_looks(comparison) + _looks(comparison):
        _line(axes, sorted(row.pass_at_k), [row.pass_at_k[k] for k in sorted(row.pass_at_k)], look)
    axes.set_title("Pass@k after training")
    _percent_axis(axes)
    axes.set_xlabel("samples k")
    axes.set_xscale("log", base=2)
    ticks = [2**i for i in range(comparison.num_samples.bit_length())]
    axes.set_xticks(ticks[:: 1 + len(ticks) // 9], minor=False)
    axes.xaxis.set_major_formatter(lambda k, _: f"{k:.0f}")
    axes.minorticks_off()


def _distinct_panel(axes: Any, comparison: Comparison) -> None:
    for row, look in _looks(comparison):
        points = [(point.step, point.distinct) for point in row.progress if point.distinct is not None]
        _line(axes, [step for step, _ in points], [distinct for _, distinct in points], look)
    for row, look in _start_looks(comparison):
        if row.distinct is not None:
            axes.axhline(row.distinct.mean, linewidth=1.6, zorder=1.5, **look)
    axes.set_title(f"Distinct correct {comparison.ways} a problem")
    _step_axis(axes)
    axes.set_ylim(bottom=0)


def _pass_at_1_panel(axes: Any, comparison: Comparison) -> None:
    for row, look in _looks(comparison):
        _line(axes, [point.step for point in row.progress], [point.pass_at_1 for point in row.progress], look)
    for row, look in _start_looks(comparison):
        axes.axhline(row.pass_at_k[1].mean, linewidth=1.6, zorder=1.5, **look)
    axes.set_title("Pass@1")
    _percent_axis(axes)
    _step_axis(axes)


def _line(axes: Any, x: Sequence[int], estimates: Sequence[Estimate], look: dict[str, Any]) -> None:
    if not estimates:
        return
    axes.plot(x, [estimate.mean for estimate in estimates], markeredgecolor="white", markeredgewidth=0.8, **look)
    low, high = [estimate.low for estimate in estimates], [estimate.high for estimate in estimates]
    axes.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)


def _percent_axis(axes: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def _step_axis(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _legend(figure: Any, comparison: Comparison) -> None:
    """One legend above all panels: the curves meet too often for labels at their ends."""
    from matplotlib.lines import Line2D

    names = [printable(row.label) for row in comparison.starts + comparison.runs]
    handles = [Line2D([], [], **look) for _, look in _start_looks(comparison)]
    handles += [Line2D([], [], markeredgecolor="white", markeredgewidth=0.8, **look) for _, look in _looks(comparison)]
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..." for name in names]
    entry_inches = 0.105 * (max(map(len, names)) + 7)  # at 12 points, with its line
    columns = min(len(names), int(figure.get_figwidth() / entry_inches))
    figure.set_figheight(figure.get_figheight() + 0.25 * (math.ceil(len(names) / columns) - 1))
    # The names are set afterwards: matplotlib drops labels that begin with _ and reads $ as mathematics.
    blanks = ["x" * len(name) for name in names]
    legend = figure.legend(handles, blanks, loc="outside upper left", ncols=columns, frameon=False)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
