"""EXPERIMENT.md: what the raw results say, in tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reproduction.experiment import Experiment
from reproduction.results import Estimate, choose, estimate, figures, key

Line = dict[str, Any]
COLUMNS = {
    "pass@1": "pass@1",
    "distinct": "distinct correct answers",
    "width": "problems with 2 or more",
    "mode": "distinct on those (average mode)",
    "coverage": "problems solved",
}
PERCENT = {"pass@1", "width", "coverage"}


def write(experiment: Experiment, search: Sequence[Line], test: Sequence[Line], path: Path) -> None:
    parts = [f"# {experiment.title}", _setting(experiment)]
    for held_out in ("test", "train"):
        for temperature in experiment.evaluation.temperatures:
            lines = [line for line in test if line["kind"] == "counts" and line["set"] == held_out]
            lines = [line for line in lines if line["temperature"] == temperature]
            if lines:
                where = "held-out test prompts" if held_out == "test" else "training prompts"
                parts += [f"## At the end of training: {where}, temperature {temperature:g}", _ends(experiment, lines)]
    parts += ["## At equal accuracy, held-out test prompts", at_equal_accuracy(experiment, test)]
    if experiment.searched:
        parts += ["## The search, on validation prompts", _search(experiment, search)]
    elif experiment.search_of:
        other = experiment.search_of
        parts.append(f"Settings are those that the search of [{other}]({other}.md) chose, where there was a choice.")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _setting(experiment: Experiment) -> str:
    test = experiment.data["test-size"] - experiment.validation
    return (
        f"{max(experiment.evaluation.steps)} steps of {experiment.settings['TRAIN_BATCH_SIZE']} prompts x "
        f"{experiment.settings['ROLLOUT_N']} rollouts; {test} test prompts x {experiment.evaluation.n} samples. "
        f"Mean over {len(experiment.seeds)} seeds on {len(experiment.warm_starts.seeds)} starting models, the 95 % "
        "interval of the mean by Student's t, and the one of a further run. Drawn again from the results by "
        f"`python scripts/reproduce.py show {experiment.name}`; one run again, beside what is published: "
        f"`python scripts/reproduce.py run {experiment.name} --method METHOD --seed SEED --results runs/again`."
    )


def beside(experiment: Experiment, again: Sequence[Line], published: Sequence[Line]) -> str:
    """Runs that were repeated, beside where one more run is to be expected by the published ones."""
    rows = []
    for line in again:
        method, step = line["method"], max(experiment.evaluation.steps)
        if line["kind"] != "counts" or line["set"] != "test" or line["step"] != step:
            continue
        same = [one for one in published if one["kind"] == "counts" and one["set"] == "test"]
        same = [one for one in same if one["temperature"] == line["temperature"]]
        found, cells = figures(line), []
        for column in ("pass@1", "distinct"):
            known = [one[column] for one in at(same, method, step)]
            expected = cell(column, estimate(known), one_more=True) if known else "not published"
            cells += [cell(column, estimate([found[column]])), expected]
        label = experiment.methods[method].label
        rows.append([label, str(line["seed"]), f"{line['temperature']:g}", *cells])
    expected = "mean of the published seeds (95 % of one more)"
    return table(["", "seed", "temperature", "pass@1", expected, "distinct correct answers", expected], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(name: str, value: Estimate, one_more: bool = False) -> str:
    """The mean and the interval of the mean, or of one more seed."""
    low, high = (value.one_low, value.one_high) if one_more else (value.low, value.high)
    scale, unit = (100, " %") if name in PERCENT or name.startswith("pass@") else (1, "")
    digits = 1 if unit else 2
    text = f"{scale * value.mean:.{digits}f}{unit}"
    if low is not None and high is not None:
        text += f" ({scale * low:.{digits}f} to {scale * high:.{digits}f})"
    return text


def at(lines: Sequence[Line], method: str, step: int) -> list[dict[str, float]]:
    """The figures of each seed of a method at a step; of the starting models for "start"."""
    return [figures(line) for line in lines if line["method"] == method and line["step"] == step]


def _ends(experiment: Experiment, lines: Sequence[Line]) -> str:
    expected = {name: f"{COLUMNS[name]}, one more run" for name in ("pass@1", "distinct")}
    columns = {**COLUMNS, f"pass@{experiment.evaluation.n}": f"pass@{experiment.evaluation.n}"}
    rows = []
    for name in ("start", *experiment.methods):
        found = at(lines, name, 0 if name == "start" else max(experiment.evaluation.steps))
        if found:
            label = "starting model" if name == "start" else experiment.methods[name].label
            cells = [cell(column, estimate([one[column] for one in found])) for column in columns]
            one = [cell(column, estimate([one[column] for one in found]), one_more=True) for column in expected]
            rows.append([label, *cells, *(text.partition(" (")[2].rstrip(")") for text in one), str(len(found))])
    return table(["", *columns.values(), *expected.values(), "seeds"], rows)


def at_equal_accuracy(experiment: Experiment, test: Sequence[Line]) -> str:
    """The front of the runs: what is the most diverse checkpoint that is accurate enough?"""
    last = experiment.evaluation.temperatures[-1]
    lines = [
        line for line in test if line["kind"] == "counts" and line["set"] == "test" and line["temperature"] == last
    ]
    starts = {line["warm_start"]: figures(line) for line in lines if line["method"] == "start"}
    runs: dict[str, dict[int, list[dict[str, float]]]] = {}
    for line in lines:
        if line["method"] != "start":
            of = runs.setdefault(line["method"], {}).setdefault(line["seed"], [starts[line["warm_start"]]])
            of.append(figures(line))
    ends = [max(run, key=lambda one: one["pass@1"])["pass@1"] for of in runs.values() for run in of.values()]
    first = min(start["pass@1"] for start in starts.values())
    levels = [level / 1000 for level in range(25, 1000, 25) if first < level / 1000 <= max(ends)]
    rows = []
    for name in (name for name in experiment.methods if name in runs):
        cells = []
        for level in levels:
            fronts = [
                max((one["distinct"] for one in run if one["pass@1"] >= level), default=None)
                for run in runs[name].values()
            ]
            there = [front for front in fronts if front is not None]
            text = cell("distinct", estimate(there)) if there else "none"
            cells.append(text if len(there) == len(fronts) else f"{text}, {len(there)} of {len(fronts)} runs")
        rows.append([experiment.methods[name].label, *cells])
    intro = (
        "Distinct correct answers of the most diverse checkpoint whose pass@1 is at least that of the column (the "
        "starting model counts as one), mean over seeds: what stopping early would give."
    )
    return intro + "\n\n" + table(["", *(f"{100 * level:.1f} %" for level in levels)], rows)


def _search(experiment: Experiment, lines: Sequence[Line]) -> str:
    chosen = choose(experiment, lines)
    rows = []
    for name, method in experiment.methods.items():
        for trial in method.trials:
            found = [
                figures(line)
                for line in lines
                if line["kind"] == "counts"
                and line["temperature"] == experiment.evaluation.temperatures[-1]
                and line["method"] == (method.search_of or name)
                and key(line["settings"]) == key(trial)
                and line["step"] == max(experiment.evaluation.steps)
            ]
            cells = [cell(column, estimate([one[column] for one in found])) for column in ("pass@1", "distinct")]
            settings = ", ".join(f"{setting} {value}" for setting, value in trial.items()) or "as given"
            rows.append([method.label, settings, *cells, "chosen" if trial == chosen[name] else ""])
    baseline = experiment.methods[experiment.baseline].label
    seeds = ", ".join(map(str, experiment.search_seeds))
    rule = (
        f"Chosen is, of {baseline}, the trial of the highest pass@1 at the end; of the others the one with the most "
        f"distinct correct answers among those whose pass@1 is within {100 * experiment.slack:g} points of that, else "
        f"that of the highest pass@1. Seed {seeds}, which the report does not use."
    )
    return rule + "\n\n" + table(["", "settings", "pass@1", "distinct correct answers", ""], rows)
