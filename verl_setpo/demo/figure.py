"""The picture of the bandit: where each method's policy ended, and how many rewarded modes it kept on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verl_setpo.demo.bandit import MODES, REWARDED, Settings
from verl_setpo.demo.summary import Summary, caption
from verl_setpo.evaluation.comparison import Estimate
from verl_setpo.evaluation.figure import COLOURS, START_COLOUR, START_DASHES, STYLE

NOT_REWARDED_COLOUR = "#BBBBBB"


def save_figure(summaries: Sequence[Summary], settings: Settings, path: Path) -> None:
    """Write the picture as PNG, 150 dpi on white.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):  # default: not the user's matplotlibrc
        # Figure and Agg canvas by hand: pyplot would ask for a display and keep global state.
        figure = Figure(figsize=(max(10.0, 2.6 * len(summaries)), 7.6), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
        parts: Any = figure.subfigures(2, 1, height_ratios=(1.0, 1.15))
        top, bottom = parts
        panels = top.subplots(1, len(summaries), sharey=True)
        for i, (axes, row) in enumerate(zip(panels, summaries, strict=True)):
            _mode_bars(axes, row, COLOURS[i % len(COLOURS)])
        panels[0].set_ylabel("final probability")
        top.supxlabel(
            "modes: coloured = rewarded, most probable first in each seed; grey = not rewarded; dashes = start",
            fontsize=10,
            color="#666666",
        )
        effective, reward = bottom.subplots(1, 2)
        _curves(effective, summaries, [row.effective_modes_over_training for row in summaries])
        effective.set_title("Effective number of rewarded modes")
        effective.set_ylim(0.9, REWARDED + 0.1)
        effective.set_yticks(range(1, REWARDED + 1))
        _curves(reward, summaries, [row.mean_reward_over_training for row in summaries])
        reward.set_title("Mean reward")
        reward.set_ylim(0, 1.03)
        handles, labels = effective.get_legend_handles_labels()
        bottom.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=11)
        bottom.supxlabel(f"{caption(settings)}.", fontsize=10, color="#666666", x=0.01, ha="left")
        figure.savefig(path, format="png")


def _mode_bars(axes: Any, row: Summary, colour: str) -> None:
    means = [estimate.mean for estimate in row.probability]
    # A percentile interval can leave out a very skewed mean; matplotlib takes no negative lengths.
    below = [max(0.0, estimate.mean - estimate.low) for estimate in row.probability]
    above = [max(0.0, estimate.high - estimate.mean) for estimate in row.probability]
    colours = [colour] * REWARDED + [NOT_REWARDED_COLOUR] * (MODES - REWARDED)
    axes.bar(range(1, MODES + 1), means, color=colours, width=0.8)
    axes.errorbar(range(1, MODES + 1), means, [below, above], fmt="none", ecolor="#333333", elinewidth=1.2)
    axes.axhline(1 / MODES, color=START_COLOUR, linestyle=START_DASHES, linewidth=1.2)
    axes.set_title(row.method, fontsize=12)
    axes.set_xticks([1, REWARDED, MODES])
    axes.set_ylim(0, 1.03)


def _curves(axes: Any, summaries: Sequence[Summary], curves: Sequence[Sequence[Estimate]]) -> None:
    for i, (row, curve) in enumerate(zip(summaries, curves, strict=True)):
        # Where the colours begin again, the lines are dotted.
        colour, line = COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else ":"
        axes.plot(row.steps, [estimate.mean for estimate in curve], color=colour, linestyle=line, label=row.method)
        low, high = [estimate.low for estimate in curve], [estimate.high for estimate in curve]
        axes.fill_between(row.steps, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.set_xlabel("training step")
    axes.set_xlim(0, summaries[0].steps[-1])
