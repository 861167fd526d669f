"""Reproduce the papers' claims with tiny models: experiments through verl's own entrypoint, on the CPU.

    python scripts/reproduce.py run polynomial                               # search and report, some hours
    python scripts/reproduce.py run polynomial --method poly_epo --seed 1 --results runs/again     # one training again
    python scripts/reproduce.py show polynomial                              # tables and plots from the raw results

An experiment is a file of scripts/experiments/. Its trials are compared on validation prompts, and the chosen one of
each method is trained with other seeds and reported on test prompts. A run that is in the results already is not
repeated, so the same command goes on after an interruption. The results are docs/reproduce/EXPERIMENT.search.jsonl and
.test.jsonl.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from processes import CommandFailed, end_all
from reproduction import results
from reproduction.evaluate import evaluate
from reproduction.experiment import Experiment, Settings, load
from reproduction.inputs import fingerprint, make_data, make_warm_start
from reproduction.tables import beside, write
from reproduction.train import curves, train
from rich.console import Console

REPOSITORY = Path(__file__).resolve().parent.parent
app = typer.Typer(add_completion=False, help=__doc__.splitlines()[0], pretty_exceptions_enable=False)
console = Console(highlight=False)
Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A file of scripts/experiments/, without .yaml.")]
PUBLISHED = REPOSITORY / "docs" / "reproduce"


@dataclass(frozen=True)
class Run:
    """One training. stage: search or test, with which of the held-out prompts it is looked at."""

    stage: str
    method: str
    trial: int
    settings: Settings
    seed: int

    @property
    def name(self) -> str:
        return f"{self.stage} {self.method} trial {self.trial} seed {self.seed}"

    def of(self, experiment: Experiment) -> str:
        return experiment.identity(experiment.settings_of(self.method, self.settings))


@app.command()
def run(
    name: Name,
    method: Annotated[list[str] | None, typer.Option(help="These methods only.", show_default="all")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="These seeds only.", show_default="all")] = None,
    stage: Annotated[str, typer.Option(help="search, test, or all.")] = "all",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time; 7 GB and about one core each.")] = 2,
    work_dir: Annotated[Path, typer.Option(help="Data, models and samples.")] = Path("runs/reproduce"),
    results_dir: Annotated[
        Path,
        typer.Option("--results", help="Where results go; a search that is not there is taken from docs/reproduce."),
    ] = PUBLISHED,
) -> None:
    """Train and evaluate what is missing."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as a scheduler ends it
    # Threads that wait for a core which another training has cost both of them.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    experiment = _load(name)
    for given in method or []:
        if given not in experiment.methods:
            raise typer.BadParameter(f"{name} has no method {given}: it has {', '.join(experiment.methods)}")
    for given in seed or []:
        if given not in experiment.seeds:
            raise typer.BadParameter(f"{name} has no seed {given}: it has {', '.join(map(str, experiment.seeds))}")
    folder = (work_dir / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    inputs = (work_dir / (experiment.extends or name)).resolve()
    inputs.mkdir(parents=True, exist_ok=True)
    say(f"data and {len(experiment.warm_starts.seeds)} starting models in {inputs}")
    data = make_data(experiment, inputs)
    in_parallel(jobs, lambda one: make_warm_start(experiment, inputs, one), experiment.warm_starts.seeds)
    search = results_dir / f"{experiment.search_of or name}.search.jsonl"
    if not search.is_file() and (PUBLISHED / search.name).is_file():
        results_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(PUBLISHED / search.name, search)
    if stage in ("search", "all") and experiment.searched:
        _starts(experiment, "search", folder, data, search)
        _all(experiment, list(search_runs(experiment)), folder, data, search, jobs)
    if stage in ("test", "all"):
        test = results_dir / f"{name}.test.jsonl"
        chosen = results.choose(experiment, results.read(search))
        _starts(experiment, "test", folder, data, test)
        wanted = [
            Run("test", one, experiment.methods[one].trials.index(chosen[one]), chosen[one], number)
            # Seed after seed, so that a part of them is a comparison already.
            for number in seed or experiment.seeds
            for one in method or experiment.methods
        ]
        _all(experiment, wanted, folder, data, test, jobs)
        if results_dir != PUBLISHED:
            again, published = (
                results.in_force(experiment, results.read(path), chosen) for path in (test, PUBLISHED / test.name)
            )
            console.print(beside(experiment, again, published), soft_wrap=True, markup=False)


@app.command()
def show(
    name: Name, raw: Annotated[Path, typer.Option("--results", help="Folder of the results.")] = PUBLISHED
) -> None:
    """Write EXPERIMENT.md and the plots beside the results."""
    from reproduction.figures import draw  # matplotlib, for this command only

    experiment = _load(name)
    search = results.read(raw / f"{experiment.search_of or name}.search.jsonl")
    test = results.read(raw / f"{name}.test.jsonl")
    if not search and not test:
        say(f"There are no results of {name} in {raw}: `run` it first.")
        raise typer.Exit(1)
    try:
        chosen = results.choose(experiment, search)
    except ValueError as error:
        console.print(str(error), soft_wrap=True, markup=False)
        raise typer.Exit(1) from None
    test = results.in_force(experiment, test, chosen)
    write(experiment, chosen, results.in_force(experiment, search), test, raw / f"{name}.md")
    if any(line["method"] != "start" for line in test):
        draw(experiment, test, raw)
    console.print(str(raw / f"{name}.md"), soft_wrap=True)


def _load(name: str) -> Experiment:
    try:
        return load(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def search_runs(experiment: Experiment) -> Iterator[Run]:
    """All trials, one that several methods have under the first of them."""
    for seed in experiment.search_seeds:
        seen: set[str] = set()
        for name, method in experiment.methods.items():
            if len(method.trials) == 1 and name != experiment.baseline:
                continue
            for number, trial in enumerate(method.trials):
                run = Run("search", name, number, trial, seed)
                if run.of(experiment) not in seen:
                    seen.add(run.of(experiment))
                    yield run


def _sets(experiment: Experiment, stage: str, data: Path) -> dict[str, Path]:
    held_out = "validation" if stage == "search" else "test"
    sets = {held_out: data / f"{held_out}.parquet"}
    if stage == "test" and experiment.evaluation.train_prompts:
        sets["train"] = data / "probe.parquet"
    return sets


def _starts(experiment: Experiment, stage: str, folder: Path, data: Path, file: Path) -> None:
    """Step 0 of all: the starting models."""
    of = experiment.identity()
    there = {line.get("model") for line in results.read(file) if (line["method"], line["of"]) == ("start", of)}
    for seed in experiment.warm_starts.seeds:
        warm_start = data.parent / f"warm_start_{seed}"
        model = fingerprint(warm_start)
        if model not in there:
            samples = folder / "samples" / f"{stage}-start-{seed}"
            who = {"kind": "counts", "method": "start", "settings": {}, "of": of, "warm_start": seed, "model": model}
            counted = evaluate(warm_start, experiment, _sets(experiment, stage, data), samples)
            results.append(file, [{**who, "seed": None, **line} for line in counted])
            shutil.rmtree(samples)


def missing(experiment: Experiment, wanted: Iterable[Run], lines: Iterable[results.Line]) -> list[Run]:
    """Those without results. A trial may have its under the name of another method that has it too."""
    there = {
        (name, line["of"], line["seed"])
        for line in lines
        if line["kind"] == "curves"
        for name in (line["method"], None)
    }
    return [
        run
        for run in wanted
        if (run.method if run.stage == "test" else None, run.of(experiment), run.seed) not in there
    ]


def _all(experiment: Experiment, wanted: list[Run], folder: Path, data: Path, file: Path, jobs: int) -> None:
    todo = missing(experiment, wanted, results.read(file))
    say(f"{len(wanted) - len(todo)} of {len(wanted)} runs are there")
    started, finished = time.monotonic(), 0

    def work(run: Run) -> None:
        nonlocal finished
        begun = time.monotonic()
        results.append(file, _one(experiment, run, folder, data))
        finished += 1
        left = (time.monotonic() - started) / finished * (len(todo) - finished)
        say(f"{run.name}: {time.monotonic() - begun:.0f} s; {finished} of {len(todo)}, {left / 60:.0f} min left")

    in_parallel(jobs, work, todo)


def in_parallel(jobs: int, work: Callable[[Any], object], items: Iterable[Any]) -> None:
    """`work` on each item; where a command fails the others go on, and the exit status is 1. Ctrl-C ends all."""
    failed = 0
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except CommandFailed as error:
                    failed += 1
                    say(str(error))
        except BaseException:
            for future in futures:
                future.cancel()
            end_all()
            raise
    if failed:
        say(f"{failed} of {len(futures)} failed; the same command tries them again")
        raise typer.Exit(1)


def _one(experiment: Experiment, run: Run, folder: Path, data: Path) -> list[results.Line]:
    """Train, look at the checkpoints, and give the lines of the results."""
    seed = experiment.warm_start_of(run.seed)
    warm_start = data.parent / f"warm_start_{seed}"
    start = {"warm_start": seed, "model": fingerprint(warm_start)}
    of, settings = run.of(experiment), experiment.settings_of(run.method, run.settings)
    place = folder / "runs" / f"{run.stage}-{run.method}-{of}-seed-{run.seed}"
    checkpoints = train(experiment, settings, place, data, warm_start, run.seed)
    who = {"method": run.method, "settings": run.settings, "of": of, **start, "seed": run.seed}
    steps = [step for step in experiment.evaluation.steps if step]
    sets = _sets(experiment, run.stage, data)
    lines = [
        {"kind": "counts", **who, **line} for line in evaluate(checkpoints, experiment, sets, place / "samples", steps)
    ]
    # The last line of a run: where it is, all others are.
    lines.append({"kind": "curves", **who, **curves(place, experiment, settings)})
    (place / "trained").unlink()
    for left in (place / "samples", checkpoints):
        shutil.rmtree(left, ignore_errors=True)
    return lines


def say(text: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    try:
        app()
    except CommandFailed as error:
        sys.exit(str(error))
