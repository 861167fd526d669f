"""The plots of an experiment, from its raw results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex

from reproduction.experiment import Experiment
from reproduction.results import Estimate, estimate, figures, front, paths

Line = dict[str, Any]
CURVES = {"pass@1": "pass@1", "distinct": "distinct correct answers a problem", "coverage": "problems solved"}
SMOOTH = 10


def draw(experiment: Experiment, lines: Sequence[Line], folder: Path) -> None:
    """EXPERIMENT.training.png, .front.png and .pass_at_k.png; several temperatures are drawn one below the other."""
    counts = [line for line in lines if line["kind"] == "counts"]
    run = {line["method"] for line in counts}
    colormap = plt.get_cmap("tab10" if len(experiment.methods) <= 10 else "tab20")
    colours = {name: to_hex(colormap(n % colormap.N)) for n, name in enumerate(experiment.methods) if name in run}
    _training(experiment, counts, [line for line in lines if line["kind"] == "curves"], colours, folder)
    _front(experiment, counts, colours, folder)
    _pass_at_k(experiment, counts, colours, folder)


def _of(lines: Sequence[Line], **wanted: Any) -> list[Line]:
    return [line for line in lines if all(line[name] == value for name, value in wanted.items())]


def _training(
    experiment: Experiment, counts: Sequence[Line], curves: Sequence[Line], colours: dict[str, str], folder: Path
) -> None:
    temperature = experiment.evaluation.temperatures[-1]
    sets = [name for name in ("test", "train") if _of(counts, set=name)]
    figure, axes = plt.subplots(len(sets), len(CURVES) + 1, figsize=(4 * (len(CURVES) + 1), 3.2 * len(sets)),
                                squeeze=False)  # fmt: skip
    steps = [0, *experiment.evaluation.looked_at(temperature)]
    for row, name in enumerate(sets):
        for column, (figure_name, label) in enumerate(CURVES.items()):
            axis = axes[row, column]
            for method, colour in colours.items():
                points = []
                for step in steps:
                    found = _of(counts, set=name, temperature=temperature, step=step)
                    found = _of(found, method=method if step else "start")
                    if found:
                        points.append((step, estimate([figures(line)[figure_name] for line in found])))
                x = [step for step, _ in points]
                axis.plot(x, [one.mean for _, one in points], color=colour, label=experiment.methods[method].label)
                top = np.inf if figure_name == "distinct" else 1.0
                # Starting models are given, and no draw of any: they have no interval.
                band = [(one.mean, one.mean) if not step else _band(one, top) for step, one in points]
                axis.fill_between(x, *np.transpose(band), color=colour, alpha=0.15, linewidth=0)
            axis.set_title(f"{label}, {'held-out' if name == 'test' else 'training'} problems", fontsize=9)
            axis.set_xlabel("step")
    axis = axes[0, -1]
    for method, colour in colours.items():
        found = [line["entropy"] for line in _of(curves, method=method) if "entropy" in line]
        if found:
            mean = np.mean([one[: min(map(len, found))] for one in found], axis=0)
            smooth = np.convolve(mean, np.full(SMOOTH, 1 / SMOOTH), "valid")
            axis.plot(np.arange(len(smooth)) + (SMOOTH + 1) / 2, smooth, color=colour)
    axis.set_title(f"entropy of the policy, in nats a token, mean of {SMOOTH} steps", fontsize=9)
    axis.set_xlabel("step")
    for rest in axes[1:, -1]:
        rest.axis("off")
    figure.suptitle(f"{experiment.title}, temperature {temperature:g}", fontsize=10)
    _legend(figure, axes[0, 0], columns=5)
    _save(figure, folder / f"{experiment.name}.training.png")


def _band(value: Estimate, most: float) -> tuple[float, float]:
    """The interval of a mean over seeds, as far as such a figure can go; of fewer than three seeds none."""
    if value.low is None or value.high is None:
        return value.mean, value.mean
    return max(0.0, value.low), min(most, value.high)


def _front(experiment: Experiment, counts: Sequence[Line], colours: dict[str, str], folder: Path) -> None:
    """Every checkpoint of every run: distinct correct answers against pass@1, and each method's front of them."""
    figure, axis = plt.subplots(figsize=(7.5, 4.8))
    temperature, last = experiment.evaluation.temperatures[-1], max(experiment.evaluation.steps)
    found = _of(counts, set="test", temperature=temperature)
    runs = paths(found)
    for method, colour in colours.items():
        points = [figures(line) for line in _of(found, method=method)]
        axis.scatter([one["pass@1"] for one in points], [one["distinct"] for one in points], s=10, color=colour,
                     alpha=0.4, linewidths=0)  # fmt: skip
        levels = np.arange(min(one["pass@1"] for one in points), 1, 0.002)
        # NaN, so not drawn, as soon as one run does not reach it.
        mean = np.mean([[front(run, level) for level in levels] for run in runs[method].values()], axis=0)
        axis.plot(levels, mean, color=colour, linewidth=1.8, label=experiment.methods[method].label)
        ends = [figures(line) for line in _of(found, method=method, step=last)]
        axis.scatter(np.mean([one["pass@1"] for one in ends]), np.mean([one["distinct"] for one in ends]), s=60,
                     color=colour, edgecolors="black", zorder=3)  # fmt: skip
    starts = [figures(line) for line in _of(found, method="start")]
    axis.scatter([one["pass@1"] for one in starts], [one["distinct"] for one in starts], marker="*", s=90,
                 color="black", label="starting models", zorder=3)  # fmt: skip
    axis.set_xlabel("pass@1, held-out problems")
    axis.set_ylabel(f"distinct correct answers in {experiment.evaluation.n} samples")
    axis.set_title(
        f"Dots: every checkpoint of every run, temperature {temperature:g}. Lines: the most of a run\n"
        "where it is at least as accurate, mean over runs, as far as all get. Circles: mean at the end.",
        fontsize=8,
    )
    axis.set_ylim(bottom=0)
    _legend(figure, axis)
    _save(figure, folder / f"{experiment.name}.front.png")


def _pass_at_k(experiment: Experiment, counts: Sequence[Line], colours: dict[str, str], folder: Path) -> None:
    temperatures, last = experiment.evaluation.temperatures, max(experiment.evaluation.steps)
    figure, axes = plt.subplots(1, len(temperatures), figsize=(5 * len(temperatures), 3.6), squeeze=False)
    for axis, temperature in zip(axes[0], temperatures, strict=True):
        found = _of(counts, set="test", temperature=temperature)
        for method in ("start", *experiment.methods):
            lines = _of(found, method=method, step=0 if method == "start" else last)
            if not lines:
                continue
            rows = [figures(line) for line in lines]
            ks = [int(name.partition("@")[2]) for name in rows[0] if name.startswith("pass@")]
            values = [estimate([row[f"pass@{k}"] for row in rows]) for k in ks]
            colour = "black" if method == "start" else colours[method]
            label = "starting models" if method == "start" else experiment.methods[method].label
            axis.plot(ks, [value.mean for value in values], color=colour, label=label)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("k")
        axis.set_title(f"pass@k, held-out problems, temperature {temperature:g}", fontsize=9)
    _legend(figure, axes[0, 0])
    _save(figure, folder / f"{experiment.name}.pass_at_k.png")


def _legend(figure: Any, axis: Any, columns: int = 3) -> None:
    """One for all axes, below them: it hides nothing."""
    names = axis.get_legend_handles_labels()
    figure.legend(*names, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=columns)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
