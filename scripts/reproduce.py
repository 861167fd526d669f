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

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from processes import CommandFailed, end_all
from reproduction import results
from reproduction.evaluate import evaluate
from reproduction.experiment import Experiment, Settings, load
from reproduction.inputs import check_lengths, fingerprint, make_data, make_probe, make_warm_start
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
    method: Annotated[list[str] | None, typer.Option(help="Report these only.", show_default="all")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Report these only.", show_default="all")] = None,
    stage: Annotated[Literal["search", "test", "all"], typer.Option(help="A search is always of all trials.")] = "all",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time; 7 GB and about one core each.")] = 2,
    work_dir: Annotated[Path, typer.Option(help="Data, models and samples.")] = Path("runs/reproduce"),
    results_dir: Annotated[
        Path,
        typer.Option("--results", help="Where results go; a search that is not there is taken from docs/reproduce."),
    ] = PUBLISHED,
) -> None:
    """Train and evaluate what is missing."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # as a scheduler ends it, or a lost connection
        signal.signal(number, signal.default_int_handler)
    # The recipe and the command line of this installation, whichever is first in the shell's PATH.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # Threads that wait for a core which another training has cost both of them.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    experiment = _load(name)
    for given in method or []:
        if given not in experiment.methods:
            raise typer.BadParameter(f"{name} has no method {given}: it has {', '.join(experiment.methods)}")
    for given in seed or []:
        if given not in experiment.seeds:
            raise typer.BadParameter(f"{name} has no seed {given}: it has {', '.join(map(str, experiment.seeds))}")
    if stage == "search" and not experiment.searched:
        raise typer.BadParameter(f"{name} has no search of its own: --stage test")
    folder = (work_dir / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(work_dir):
        _run(experiment, folder, list(dict.fromkeys(method or experiment.methods)),
             list(dict.fromkeys(seed or experiment.seeds)), stage, jobs, results_dir)  # fmt: skip


@contextlib.contextmanager
def _alone_in(work_dir: Path) -> Iterator[None]:
    """Two of them would train in one folder, each deleting what the other has made."""
    with (work_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise typer.BadParameter(f"another run is going on in {work_dir}: wait, or give --work-dir") from None
        yield


def _run(
    experiment: Experiment,
    folder: Path,
    methods: list[str],
    seeds: list[int],
    stage: str,
    jobs: int,
    results_dir: Path,
) -> None:
    name = experiment.name
    # With other prompts or starting models the old ones stay where they are.
    inputs = folder.parent / (experiment.extends or name) / f"inputs-{experiment.inputs()}"
    search = results_dir / f"{experiment.search_of or name}.search.jsonl"
    if not search.is_file() and (PUBLISHED / search.name).is_file():
        results_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(PUBLISHED / search.name, search)
    if stage in ("search", "all") and experiment.searched:
        _stage(experiment, "search", list(search_runs(experiment)), folder, inputs, search, jobs)
    if stage in ("test", "all"):
        test = results_dir / f"{name}.test.jsonl"
        chosen = _chosen(experiment, results.read(search))
        wanted = [
            Run("test", one, experiment.methods[one].trials.index(chosen[one]), chosen[one], number)
            # Seed after seed, so that a part of them is a comparison already.
            for number in seeds
            for one in methods
        ]
        _stage(experiment, "test", wanted, folder, inputs, test, jobs)
        if results_dir.resolve() != PUBLISHED:
            again, published = (
                results.in_force(experiment, results.read(path), chosen) for path in (test, PUBLISHED / test.name)
            )
            console.print(beside(experiment, again, published), soft_wrap=True, markup=False)


def _stage(
    experiment: Experiment, stage: str, wanted: list[Run], folder: Path, inputs: Path, file: Path, jobs: int
) -> None:
    """Do the runs that are missing, and make what they begin with: a starting model takes minutes."""
    todo = missing(experiment, wanted, results.read(file))
    say(f"{stage}: {len(wanted) - len(todo)} of {len(wanted)} runs are there")
    if not todo:
        return
    seeds = list(dict.fromkeys(experiment.warm_start_of(run.seed) for run in todo))
    say(f"data and starting models of seeds {', '.join(map(str, seeds))} in {inputs}")
    inputs.mkdir(parents=True, exist_ok=True)
    data = make_data(experiment, inputs)
    in_parallel(jobs, lambda seed: make_warm_start(experiment, inputs, seed), seeds)
    make_probe(experiment, data, folder / "probe.parquet")
    check_lengths(experiment, data, inputs / f"warm_start_{seeds[0]}")
    _starts(experiment, stage, seeds, folder, data, file)
    _all(experiment, todo, folder, data, file, jobs)


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
    chosen = _chosen(experiment, search)
    test = results.in_force(experiment, test, chosen)
    write(experiment, chosen, results.in_force(experiment, search), test, raw / f"{name}.md")
    if any(line["method"] != "start" for line in test):
        draw(experiment, test, raw)
    console.print(str(raw / f"{name}.md"), soft_wrap=True)


def _chosen(experiment: Experiment, search: list[results.Line]) -> dict[str, Settings]:
    try:
        return results.choose(experiment, search)
    except ValueError as error:
        say(str(error))
        raise typer.Exit(1) from None


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


def sets_of(experiment: Experiment, stage: str) -> list[str]:
    """The sets of prompts that a stage looks at."""
    if stage == "search":
        return ["validation"]
    return ["test", "train"] if experiment.evaluation.train_prompts else ["test"]


def _files(experiment: Experiment, stage: str, folder: Path, data: Path) -> dict[str, Path]:
    return {
        name: folder / "probe.parquet" if name == "train" else data / f"{name}.parquet"
        for name in sets_of(experiment, stage)
    }


def _starts(experiment: Experiment, stage: str, seeds: Iterable[int], folder: Path, data: Path, file: Path) -> None:
    """Step 0 of all: the starting models of these seeds."""
    of = experiment.identity()
    lines = [line for line in results.read(file) if (line["method"], line["of"]) == ("start", of)]
    there = {(line.get("model"), line["set"], line["temperature"]) for line in lines}
    sets = sets_of(experiment, stage)
    for seed in seeds:
        warm_start = data.parent / f"warm_start_{seed}"
        model = fingerprint(warm_start)
        if not there.issuperset(product([model], sets, experiment.evaluation.temperatures)):
            samples = folder / "samples" / f"{stage}-start-{seed}-{of}"
            who = {"kind": "counts", "method": "start", "settings": {}, "of": of, "warm_start": seed, "model": model}
            files = _files(experiment, stage, folder, data)
            counted = evaluate(warm_start, experiment, files, samples, trained=False)
            results.append(file, [{**who, "seed": None, **line} for line in counted])
            shutil.rmtree(samples)


def missing(experiment: Experiment, wanted: Iterable[Run], lines: Iterable[results.Line]) -> list[Run]:
    """Those without all results. A trial may have its under the name of another method that has it too."""
    evaluation = experiment.evaluation
    there: dict[Any, set[Any]] = {}
    for line in lines:
        for name in (line["method"], None):
            run = (name, line["of"], line["seed"], line["warm_start"])
            there.setdefault(run, set()).add(tuple(line.get(key) for key in ("kind", "set", "temperature", "step")))
    todo = []
    for run in wanted:
        of = (run.method if run.stage == "test" else None, run.of(experiment), run.seed)
        looked_at = {
            ("counts", name, temperature, step)
            for name in sets_of(experiment, run.stage)
            for temperature in evaluation.temperatures
            for step in evaluation.looked_at(temperature)
        }
        found = there.get((*of, experiment.warm_start_of(run.seed)), set())
        if not found >= looked_at | {("curves", None, None, None)}:
            todo.append(run)
    return todo


def _all(experiment: Experiment, todo: list[Run], folder: Path, data: Path, file: Path, jobs: int) -> None:
    started, finished = time.monotonic(), 0

    def work(run: Run) -> None:
        nonlocal finished
        begun = time.monotonic()
        place = _place(experiment, run, folder)
        results.append(file, _one(experiment, run, folder, data, place))
        shutil.rmtree(place / "samples")
        (place / "trained").unlink()
        shutil.rmtree(place / "checkpoints")
        finished += 1
        left = (time.monotonic() - started) / finished * (len(todo) - finished)
        say(f"{run.name}: {time.monotonic() - begun:.0f} s; {finished} of {len(todo)}, {left / 60:.0f} min left")

    in_parallel(jobs, work, todo)


def in_parallel(jobs: int, work: Callable[[Any], object], items: Iterable[Any]) -> None:
    """`work` on each item; where a command fails the others go on, and the exit status is 1. Ctrl-C ends all."""
    failed, over = 0, threading.Event()

    def one(item: Any) -> None:
        if over.is_set():
            return
        try:
            work(item)
        except CommandFailed:
            raise
        except BaseException:
            over.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, item) for item in items]
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except CommandFailed as error:
                    failed += 1
                    say(str(error))
        except BaseException:
            over.set()
            while not all(future.done() for future in futures):
                end_all()  # and again: a thread may have been between two commands
                time.sleep(0.2)
            raise
    if failed:
        say(f"{failed} of {len(futures)} failed; the same command tries them again")
        raise typer.Exit(1)


def _place(experiment: Experiment, run: Run, folder: Path) -> Path:
    return folder / "runs" / f"{run.stage}-{run.method}-{run.of(experiment)}-seed-{run.seed}"


def _one(experiment: Experiment, run: Run, folder: Path, data: Path, place: Path) -> list[results.Line]:
    """Train, look at the checkpoints, and give the lines of the results."""
    seed = experiment.warm_start_of(run.seed)
    warm_start = data.parent / f"warm_start_{seed}"
    start = {"warm_start": seed, "model": fingerprint(warm_start)}
    of, settings = run.of(experiment), experiment.settings_of(run.method, run.settings)
    checkpoints = train(experiment, settings, place, data, warm_start, run.seed)
    who = {"method": run.method, "settings": run.settings, "of": of, **start, "seed": run.seed}
    files = _files(experiment, run.stage, folder, data)
    counted = evaluate(checkpoints, experiment, files, place / "samples", trained=True)
    lines = [{"kind": "counts", **who, **line} for line in counted]
    # The last line of a run: where it is, all others are.
    lines.append({"kind": "curves", **who, **curves(place, experiment, settings)})
    return lines


def say(text: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    try:
        app()
    except CommandFailed as error:
        sys.exit(str(error))
