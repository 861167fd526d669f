"""EXPERIMENT.md: what the raw results say, in tables."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reproduction.experiment import Experiment, Settings
from reproduction.results import Spread, estimate, figures, front, paths, pooled, share_with_correct

Line = dict[str, Any]
COLUMNS = {
    "pass@1": "pass@1",
    "distinct": "distinct correct answers",
    "width": "problems with 2 or more",
    "mode": "distinct on those (average mode)",
    "coverage": "problems solved",
}
PERCENT = {"width", "coverage"}


def write(
    experiment: Experiment, chosen: dict[str, Settings], search: Sequence[Line], test: Sequence[Line], path: Path
) -> None:
    """Write the page. search, test: the lines in force; without any of test, the search alone is shown."""
    parts = [f"# {experiment.title}", _setting(experiment, test or search)]
    counts = [line for line in test if line["kind"] == "counts"]
    for held_out, where in {"test": "held-out test prompts", "train": "training prompts"}.items():
        for temperature in experiment.evaluation.temperatures:
            lines = [line for line in counts if (line["set"], line["temperature"]) == (held_out, temperature)]
            if any(line["method"] != "start" for line in lines):
                title = f"## At the end of training: {where}, temperature {temperature:g}"
                parts += [title, _ends(experiment, lines), against_baseline(experiment, lines)]
    temperature = experiment.evaluation.temperatures[-1]
    lines = [line for line in counts if (line["set"], line["temperature"]) == ("train", temperature)]
    rollouts = experiment.settings["ROLLOUT_N"]
    starts = [share_with_correct(line, rollouts) for line in lines if line["method"] == "start"]
    if len(lines) > len(starts) > 0 and min(starts) < 0.99:
        title = f"## Along training: training prompts with a correct one of {rollouts} rollouts"
        parts += [f"{title}, temperature {temperature:g}", _with_correct(experiment, lines, rollouts)]
    lines = [line for line in counts if (line["set"], line["temperature"]) == ("test", temperature)]
    if any(line["method"] != "start" for line in lines):
        title = f"## At equal accuracy: held-out test prompts, temperature {temperature:g}"
        parts += [title, at_equal_accuracy(experiment, lines)]
    if experiment.searched:
        title = f"## The search: validation prompts, temperature {temperature:g}"
        parts += [title, _search(experiment, chosen, search)]
    elif experiment.search_of:
        other = experiment.search_of
        parts.append(f"Settings are those that the search of [{other}]({other}.md) chose, where there was a choice.")
    path.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _setting(experiment: Experiment, lines: Sequence[Line]) -> str:
    test = experiment.data["test-size"] - experiment.validation
    starts = {(line["warm_start"], line.get("model")) for line in lines if line["method"] == "start"}
    seeds = {seed for seed, _ in starts}
    models = "one starting model" if len(starts) == 1 else f"{len(starts)} starting models"
    if len(starts) > len(seeds):
        models += (
            f" of {'one seed' if len(seeds) == 1 else f'{len(seeds)} seeds'} (another machine makes other weights)"
        )
    of_seed: dict[int, set[Any]] = {}
    for line in lines:
        if line["method"] != "start":
            of_seed.setdefault(line["seed"], set()).add(line.get("model"))
    mixed = [str(seed) for seed, models_of in sorted(of_seed.items()) if len(models_of) > 1]
    return (
        f"{max(experiment.evaluation.steps)} steps of {experiment.settings['TRAIN_BATCH_SIZE']} prompts x "
        f"{experiment.settings['ROLLOUT_N']} rollouts; {test} test prompts x {experiment.evaluation.n} samples. "
        f"Means over runs of other seeds, on {models}, the 95 % interval of the mean by "
        "Student's t, and the one of a further run. They are intervals over seeds: other prompts, and other starting "
        "models, may differ by more. Of fewer than three runs the values are shown instead, and a further run's "
        "interval is by the spread that all methods of several runs have together, where these are enough; of more "
        "starting models the lowest and highest. Drawn again from the results by "
        f"`python scripts/reproduce.py show {experiment.name}`; one run again, beside what is published: "
        f"`python scripts/reproduce.py run {experiment.name} --method METHOD --seed SEED --results runs/again`."
        + (
            f" Of seed {', '.join(mixed)} not all methods began with the same machine's starting model."
            if mixed
            else ""
        )
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
            known, others = [one[column] for one in at(same, method, step)], spread(experiment, same, column)
            one_more = cell(column, known, one_more=True, others=others) if known else "not published"
            cells += [cell(column, [found[column]]), one_more]
            if 0 < len(known) < 3 and others is None:
                cells[-1] += ", no interval of so few"
        label = experiment.methods[method].label
        rows.append([label, str(line["seed"]), f"{line['temperature']:g}", *cells])
    expected = "mean of the published seeds (95 % of one more)"
    return table(["", "seed", "temperature", "pass@1", expected, "distinct correct answers", expected], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(experiment: Experiment, lines: Sequence[Line], column: str) -> Spread | None:
    """Between seeds of a method at the end of training, from all methods. lines: of one set and temperature."""
    ends = (at(lines, name, max(experiment.evaluation.steps)) for name in experiment.methods)
    return pooled([one[column] for one in of] for of in ends)


def cell(
    name: str,
    values: Sequence[float],
    one_more: bool = False,
    of_starts: bool = False,
    others: Spread | None = None,
) -> str:
    """The mean over runs and its interval, or that of one more run; of the runs that have the figure.

    others: see `results.estimate`. Of starting models lowest and highest: they are given, and one seed may be there
    from two machines.
    """
    there = [value for value in values if not math.isnan(value)]
    if not there:
        return "none"
    value, share = estimate(there, others), name in PERCENT or name.startswith("pass@")
    least, most = -math.inf if name == "points" else 0.0, 1.0 if share else math.inf

    def show(number: float) -> str:
        return f"{100 * number:.1f}" if share else f"{number:.2f}"

    text = show(value.mean) + (" %" if share else "")
    low, high = (value.one_low, value.one_high) if one_more else (value.low, value.high)
    if of_starts:
        low, high = (min(there), max(there)) if len(there) > 2 else (None, None)
    if low is not None and high is not None:
        text += f" ({show(max(least, low))} to {show(min(most, high))})"
    elif len(there) == 2:
        text += f" ({show(there[0])}, {show(there[1])})"
    return text if len(there) == len(values) else f"{text}, {len(there)} of {len(values)} runs"


def at(lines: Sequence[Line], method: str, step: int) -> list[dict[str, float]]:
    """The figures of each seed of a method at a step; of the starting models for "start"."""
    return [figures(line) for line in lines if line["method"] == method and line["step"] == step]


def _ends(experiment: Experiment, lines: Sequence[Line]) -> str:
    expected = {name: f"{COLUMNS[name]}, one more run" for name in ("pass@1", "distinct")}
    columns = {**COLUMNS, f"pass@{experiment.evaluation.n}": f"pass@{experiment.evaluation.n}"}
    spreads = {name: spread(experiment, lines, name) for name in expected}
    rows = []
    for name in ("start", *experiment.methods):
        found = at(lines, name, 0 if name == "start" else max(experiment.evaluation.steps))
        if found:
            label = "starting model" if name == "start" else experiment.methods[name].label
            starts = name == "start"
            cells = [cell(column, [one[column] for one in found], of_starts=starts) for column in columns]
            more = [_one_more(column, [one[column] for one in found], spreads[column]) for column in expected]
            ranges = [""] * len(more) if starts else more
            rows.append([label, *cells, *ranges, str(len(found))])
    return table(["", *columns.values(), *expected.values(), "runs"], rows)


def _one_more(name: str, values: Sequence[float], others: Spread | None) -> str:
    """The interval alone."""
    known = len(values) > 2 or others is not None
    return cell(name, values, one_more=True, others=others).partition(" (")[2].rstrip(")") if known else ""


def _with_correct(experiment: Experiment, lines: Sequence[Line], rollouts: int) -> str:
    """Of how many training prompts is there something to learn in a step? Where all rollouts are wrong there is not."""
    steps = sorted({line["step"] for line in lines})
    found: dict[str, dict[int, dict[Any, float]]] = {}
    for line in lines:
        # A starting model has no seed, and the same one of another machine counts as another.
        run = (line["warm_start"], line.get("model")) if line["method"] == "start" else line["seed"]
        found.setdefault(line["method"], {}).setdefault(line["step"], {})[run] = share_with_correct(line, rollouts)
    rows = []
    for name in (name for name in ("start", *experiment.methods) if name in found):
        label = "starting model" if name == "start" else experiment.methods[name].label
        shares = (list(found[name].get(step, {}).values()) for step in steps)
        rows.append([label, *(cell("coverage", of, of_starts=name == "start") if of else "" for of in shares)])
    parts = [table(["", *(f"step {step}" for step in steps)], rows)]
    steps = [step for step in steps if step]
    for base in _bases(experiment, found):
        rows = []
        for name in (name for name in experiment.methods if name in found and name != base):
            points = []
            for step in steps:
                of, other = (found[one].get(step, {}) for one in (name, base))
                points.append([100 * (share - other[seed]) for seed, share in sorted(of.items()) if seed in other])
            rows.append([experiment.methods[name].label, *(cell("points", one) for one in points)])
        if rows:
            label = experiment.methods[base].label
            parts += [
                f"Points more than {label}, seed by seed:",
                table(["", *(f"step {step}" for step in steps)], rows),
            ]
    return "\n\n".join(parts)


def _bases(experiment: Experiment, there: Container[str]) -> list[str]:
    """What the others are compared with: the baseline and the controls, as far as they have been run."""
    return [name for name in (experiment.baseline, *experiment.controls) if name in there]


def against_baseline(experiment: Experiment, lines: Sequence[Line]) -> str:
    """Each method's end beside the baseline's, and each control's, of the same seed, so of the same starting model."""
    by_seed: dict[str, dict[int, dict[str, float]]] = {}
    for line in lines:
        if line["step"] == max(experiment.evaluation.steps):
            by_seed.setdefault(line["method"], {})[line["seed"]] = figures(line)
    head = ["", "points of pass@1", "times distinct", "times average mode", "times problems with 2 or more", "pairs"]
    parts = []
    for base in _bases(experiment, by_seed):
        rows = []
        for name in (name for name in experiment.methods if name in by_seed and name != base):
            both = [seed for seed in sorted(by_seed[name]) if seed in by_seed[base]]
            pairs = [(by_seed[name][seed], by_seed[base][seed]) for seed in both]
            if pairs:
                points = [100 * (of["pass@1"] - other["pass@1"]) for of, other in pairs]
                cells = [cell("points", points)]
                for column in ("distinct", "mode", "width"):
                    cells.append(cell("times", [of[column] / (other[column] or math.nan) for of, other in pairs]))
                rows.append([experiment.methods[name].label, *cells, str(len(pairs))])
        if rows:
            parts += [f"Against {experiment.methods[base].label}, seed by seed:", table(head, rows)]
    return "\n\n".join(parts)


def at_equal_accuracy(experiment: Experiment, lines: Sequence[Line]) -> str:
    """The front of the runs: how diverse is each where it is accurate enough?"""
    runs = paths(lines)
    highest = max(one["pass@1"] for of in runs.values() for run in of.values() for one in run)
    first = max(start["pass@1"] for start in at(lines, "start", 0))
    levels = [level / 1000 for level in (*range(25, 951, 25), 960, 970, 980, 990) if first < level / 1000 <= highest]
    fronts = {
        name: {seed: [front(run, level) for level in levels] for seed, run in of.items()} for name, of in runs.items()
    }

    head = ["", *(f"{100 * level:.1f} %" for level in levels)]
    there = [name for name in experiment.methods if name in runs]
    label = {name: experiment.methods[name].label for name in there}
    rows = []
    for name in there:
        cells = []
        for found in zip(*fronts[name].values(), strict=True):
            reached = sum(not math.isnan(one) for one in found)
            whole = reached == len(found)
            cells.append(cell("distinct", found) if whole else f"reached by {reached} of {len(found)} runs")
        rows.append([label[name], *cells])
    intro = (
        "What stopping early would give: the most distinct correct answers of a run where its pass@1 is at least that "
        "of the column, mean over runs. Between two checkpoints, and between the starting model and the first, a run "
        "is taken to go straight. Where to stop is picked on the prompts that are shown, for all methods alike."
    )
    parts = [intro, table(head, rows)]
    unreached = [math.nan] * len(levels)
    for base in _bases(experiment, runs):
        rows = []
        for name in (name for name in there if name != base):
            pairs = [(of, fronts[base].get(seed, unreached)) for seed, of in fronts[name].items()]
            times = ([of[at] / other[at] for of, other in pairs] for at in range(len(levels)))
            rows.append([label[name], *(cell("times", found) for found in times)])
        if rows:
            parts += [f"Times that of {label[base]}, of the seeds where both reach it:", table(head, rows)]
    return "\n\n".join(parts)


def _accuracy(found: Sequence[dict[str, float]]) -> float:
    return float(np.mean([one["pass@1"] for one in found])) if found else math.nan


def _search(experiment: Experiment, chosen: dict[str, Settings], lines: Sequence[Line]) -> str:
    last, temperature = max(experiment.evaluation.steps), experiment.evaluation.temperatures[-1]
    ends = [line for line in lines if line["kind"] == "counts"]
    ends = [line for line in ends if (line["step"], line["temperature"]) == (last, temperature)]
    tried: dict[str, list[list[dict[str, float]]]] = {}
    for name, method in experiment.methods.items():
        of = [experiment.identity(experiment.settings_of(name, trial)) for trial in method.trials]
        tried[name] = [[figures(line) for line in ends if line["of"] == one] for one in of]
    best = max(_accuracy(found) for found in tried[experiment.baseline])
    rows = []
    for name, method in experiment.methods.items():
        for trial, found in zip(method.trials, tried[name], strict=True):
            cells = [cell(column, [one[column] for one in found]) for column in ("pass@1", "distinct")]
            everything = experiment.settings_of(name, trial)
            settings = ", ".join(f"{setting} {value}" for setting, value in everything.items() if setting != "METHOD")
            how = "" if trial != chosen[name] else "chosen" if len(method.trials) > 1 else "given"
            if how == "chosen" and _accuracy(found) < best - experiment.slack:
                how = "chosen, as none is accurate enough"
            rows.append([method.label, settings, *cells, how])
    baseline = experiment.methods[experiment.baseline].label
    seeds = ", ".join(map(str, experiment.search_seeds))
    rule = (
        f"Chosen is, of {baseline}, the trial of the highest pass@1 at the end; of the others the one with the most "
        f"distinct correct answers among those whose pass@1 is within {100 * experiment.slack:g} points of that; if "
        "none is, among those that are not less accurate than the method's most accurate one by more than a standard "
        f"error, over prompts, of the difference. Given is what was not chosen so, but named. Seed {seeds}, which the "
        "report does not use."
    )
    return rule + "\n\n" + table(["", "settings", "pass@1", "distinct correct answers", ""], rows)
