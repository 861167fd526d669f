"""The raw results, one JSON line a fact, and what is read from them: means over seeds, intervals, the chosen trials.

{"kind": "counts", "method", "settings", "of", "warm_start", "model", "seed", "step", "set", "temperature", "n",
 "correct": [samples of each prompt that are correct], "distinct": [different correct answers of each prompt]}
{"kind": "curves", "method", "settings", "of", "warm_start", "model", "seed", "entropy": [one a step], ...}

settings: the trial's. of: the `Experiment.identity` of all settings and inputs. warm_start, model: the
starting model's seed and the `fingerprint` of its weights (older results do not have it).
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from reproduction.experiment import Experiment, Settings, load
from verl_setpo.evaluation import pass_at_k

Line = dict[str, Any]
_LOCK = threading.Lock()


def read(path: Path) -> list[Line]:
    """All whole lines; the last may have been cut off."""
    if not path.is_file():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def append(path: Path, lines: Iterable[Line]) -> None:
    """Write lines after those that are there, and over a last one that was cut off."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK, path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(text.encode())


class _Tried(NamedTuple):
    """accuracies: of each prompt. distinct: correct answers a prompt. Both are means over seeds."""

    accuracies: np.ndarray
    distinct: float
    settings: Settings


def _told_apart(less: np.ndarray) -> bool:
    """Whether the mean over prompts is more than its standard error."""
    return bool(less.mean() > np.std(less, ddof=1) / np.sqrt(len(less)))


def trials_of(experiment: Experiment, method: str) -> list[str]:
    """The identities of a method's trials."""
    trials = experiment.methods[method].trials
    return [experiment.identity(experiment.settings_of(method, trial)) for trial in trials]


def in_force(experiment: Experiment, lines: Iterable[Line], chosen: dict[str, Settings] | None = None) -> list[Line]:
    """The lines that belong to the experiment as its file is now, the last of each where one is there twice.

    Those of the starting models, whichever machine they were trained on, and of each method in its chosen trial with
    the seeds of the report; where nothing is chosen yet, of all trials with the seeds of the search, under the name of
    any method.
    """
    seeds = experiment.search_seeds if chosen is None else experiment.seeds
    wanted: set[tuple[str | None, str, int | None]] = {("start", experiment.identity(), None)}
    for name in experiment.methods:
        if chosen is None:
            wanted |= {(None, of, seed) for of in trials_of(experiment, name) for seed in seeds}
        else:
            of = experiment.identity(experiment.settings_of(name, chosen[name]))
            wanted |= {(name, of, seed) for seed in seeds}
    found = {}
    for line in lines:
        known = any((name, line["of"], line["seed"]) in wanted for name in (line["method"], None))
        if known and _as_now(experiment, line):
            place = ["kind", "of", "seed", "warm_start", "step", "set", "temperature"]
            if chosen is not None:
                place.append("method")
            if line["method"] == "start":
                place.append("model")
            found[tuple(line.get(name) for name in place)] = line
    trained = {(line["warm_start"], line.get("model")) for line in found.values() if line["method"] != "start"}
    # Another machine's starting models stay only with a run of theirs.
    return [
        line
        for line in found.values()
        if line["method"] != "start" or not trained or (line["warm_start"], line.get("model")) in trained
    ]


def _as_now(experiment: Experiment, line: Line) -> bool:
    """Whether a run's starting model is the one that its seed has now, and its step one that is looked at."""
    if line["seed"] is None:
        return True
    if line["warm_start"] != experiment.warm_start_of(line["seed"]):
        return False
    if line["kind"] == "curves":
        return True
    evaluation, temperature = experiment.evaluation, line["temperature"]
    return temperature in evaluation.temperatures and line["step"] in evaluation.looked_at(temperature)


class Spread(NamedTuple):
    """A standard deviation between runs that differ by their seed only, and its degrees of freedom."""

    sd: float
    degrees: int


def pooled(groups: Iterable[Sequence[float]]) -> Spread | None:
    """The spread that runs have within their groups, taken to be the same in all; NaN is left out.

    None of fewer than three degrees of freedom: the interval would be wider than any claim.
    """
    there = [np.array(group)[~np.isnan(group)] for group in groups]
    degrees = sum(len(group) - 1 for group in there if len(group))
    if degrees < 3:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in there if len(group))
    return Spread(math.sqrt(squares / degrees), degrees)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and two 95 % intervals by Student's t: of the mean, and of one more seed's figure.

    Of fewer than three seeds there are none but that of one more, where others' `Spread` is known.
    """

    mean: float
    low: float | None
    high: float | None
    one_low: float | None
    one_high: float | None
    seeds: int


def estimate(values: Sequence[float], others: Spread | None = None) -> Estimate:
    """others: the spread to go by where there are fewer than three values."""
    mean, few = float(np.mean(values)), len(values) < 3
    spread = others if few else Spread(float(np.std(values, ddof=1)), len(values) - 1)
    if spread is None:
        return Estimate(mean, None, None, None, None, len(values))
    one = float(stats.t.ppf(0.975, spread.degrees) * spread.sd)
    half, of_one = one / np.sqrt(len(values)), one * np.sqrt(1 + 1 / len(values))
    low, high = (None, None) if few else (mean - half, mean + half)
    return Estimate(mean, low, high, mean - of_one, mean + of_one, len(values))


def figures(line: Line) -> dict[str, float]:
    """The figures of one evaluation of one model on one set.

    pass@k, unbiased; distinct correct answers a prompt among its n samples; diversity width (share of prompts with at
    least two) and average mode (distinct correct answers on those, NaN where there are none), as in SetPO's Table 3;
    coverage (share of prompts that were solved at all).
    """
    correct, distinct, n = np.array(line["correct"]), np.array(line["distinct"]), line["n"]
    ks = [*(k for k in (2**i for i in range(20)) if k < n), n]
    found = {f"pass@{k}": share_with_correct(line, k) for k in ks}
    several = distinct >= 2
    found["distinct"] = float(distinct.mean())
    found["width"] = float(several.mean())
    found["mode"] = float(distinct[several].mean()) if several.any() else math.nan
    found["coverage"] = float((correct > 0).mean())
    return found


def share_with_correct(line: Line, k: int) -> float:
    """Share of the prompts that are to be expected to have a correct one of k samples: pass@k, unbiased."""
    correct = np.array(line["correct"])
    return float(np.mean(pass_at_k(np.full_like(correct, line["n"]), correct, k)))


def paths(lines: Iterable[Line]) -> dict[str, dict[int, list[dict[str, float]]]]:
    """The figures of each run's models in the order of training, its starting model first, by method and seed."""
    lines = sorted(lines, key=lambda line: line["step"])
    starts = {(line["warm_start"], line.get("model")): line for line in lines if line["method"] == "start"}
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    for line in lines:
        if line["method"] != "start":
            start = starts.get((line["warm_start"], line.get("model")))
            of_method = found.setdefault(line["method"], {})
            of_method.setdefault(line["seed"], [figures(start)] if start else []).append(figures(line))
    return found


def front(path: Sequence[dict[str, float]], accuracy: float) -> float:
    """The most distinct correct answers of a run at this pass@1 or above, or NaN.

    Between one checkpoint and the next a run is taken to go straight. One that jumps over `accuracy` would else be
    looked at where it is more accurate, and less diverse, than what it is compared with.
    """
    reached = [one["distinct"] for one in path if one["pass@1"] >= accuracy]
    for one, other in pairwise(path):
        below, above = sorted((one, other), key=lambda model: model["pass@1"])
        if below["pass@1"] < accuracy < above["pass@1"]:
            share = (accuracy - below["pass@1"]) / (above["pass@1"] - below["pass@1"])
            reached.append(below["distinct"] + share * (above["distinct"] - below["distinct"]))
    return max(reached, default=math.nan)


def choose(experiment: Experiment, lines: Sequence[Line]) -> dict[str, Settings]:
    """The trial of each method that the report is about, by validation prompts at the end of training.

    Of the baseline that of the highest pass@1, for which people tune it. Of the others the one with the most distinct
    correct answers among those whose pass@1 is within `slack` of that; if there is none, among those that are not less
    accurate than the method's most accurate one by more than a standard error, over prompts, of the difference.

    A method with one trial has nothing to choose. Raises ValueError where a trial is missing.
    """
    chosen = {name: method.trials[0] for name, method in experiment.methods.items() if len(method.trials) == 1}
    if len(chosen) == len(experiment.methods):
        return chosen
    # Another experiment's search was run with the settings of that one, such as its number of rollouts.
    of_search = load(experiment.search_of) if experiment.search_of else experiment
    end = ("counts", max(of_search.evaluation.steps), "validation", of_search.evaluation.temperatures[-1])
    ends: dict[str, list[Line]] = {}
    for line in in_force(of_search, lines):
        if tuple(line.get(name) for name in ("kind", "step", "set", "temperature")) == end:
            ends.setdefault(line["of"], []).append(line)
    trials: dict[str, list[_Tried]] = {}
    for name, method in experiment.methods.items():
        if name in chosen and name != experiment.baseline:
            continue
        for trial in method.trials:
            runs = ends.get(of_search.identity(of_search.settings_of(name, trial)), [])
            if len(runs) < len(of_search.search_seeds):
                raise ValueError(f"{experiment.name}: the trial {trial} of {name} has not been run: `run` first")
            accuracies = np.mean([np.array(run["correct"]) / run["n"] for run in runs], axis=0)
            distinct = float(np.mean([figures(run)["distinct"] for run in runs]))
            trials.setdefault(name, []).append(_Tried(accuracies, distinct, trial))
    enough = max(one.accuracies.mean() for one in trials[experiment.baseline]) - experiment.slack
    for name, tried in trials.items():
        best = max(tried, key=lambda one: one.accuracies.mean())
        if name != experiment.baseline:
            good = [one for one in tried if one.accuracies.mean() >= enough]
            near = [one for one in tried if not _told_apart(best.accuracies - one.accuracies)]
            best = max(good or near, key=lambda one: one.distinct)
        chosen[name] = best.settings
    return chosen
