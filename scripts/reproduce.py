"""Reproduce the papers' claims with tiny models: experiments through verl's own entrypoint, on the CPU.

    python scripts/reproduce.py run polynomial                               # search and report, some hours
    python scripts/reproduce.py run polynomial --method poly_epo --seed 1    # one training of the report
    python scripts/reproduce.py show polynomial                              # tables and plots from the raw results

An experiment is a file of scripts/experiments/. Its trials are compared on validation prompts, and the chosen one of
each method is trained with other seeds and reported on test prompts. A run that is there already is not repeated, so
the same command goes on after an interruption. Raw results are docs/reproduce/EXPERIMENT.{search,test}.jsonl.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent))

from reproduction import results
from reproduction.evaluate import evaluate
from reproduction.experiment import Experiment, Settings, load
from reproduction.inputs import make_data, make_warm_start
from reproduction.train import curves, train

REPOSITORY = Path(__file__).resolve().parent.parent
app = typer.Typer(add_completion=False, help=__doc__.splitlines()[0], pretty_exceptions_enable=False)
console = Console(highlight=False)
Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A file of scripts/experiments/, without .yaml.")]
Raw = Annotated[Path, typer.Option(help="Folder of the raw results.")]


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


@app.command()
def run(
    name: Name,
    method: Annotated[list[str] | None, typer.Option(help="These methods only.", show_default="all")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="These seeds only.", show_default="all")] = None,
    stage: Annotated[str, typer.Option(help="search, test, or all.")] = "all",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time; 7 GB and about one core each.")] = 2,
    work_dir: Annotated[Path, typer.Option(help="Data, models and samples.")] = Path("runs/reproduce"),
    raw: Raw = REPOSITORY / "docs" / "reproduce",
) -> None:
    """Train and evaluate what is missing."""
    experiment = _load(name)
    for given in method or []:
        if given not in experiment.methods:
            raise typer.BadParameter(f"{name} has no method {given}: it has {', '.join(experiment.methods)}")
    folder = (work_dir / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    say(f"data and {len(experiment.warm_starts.seeds)} starting models in {folder}")
    data = make_data(experiment, folder)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda one: make_warm_start(experiment, folder, one, folder / f"warm_start_{one}.log"),
                      experiment.warm_starts.seeds))  # fmt: skip
    for one in ("search", "test"):
        if stage in (one, "all"):
            file = raw / f"{name}.{one}.jsonl"
            _starts(experiment, one, folder, data, file)
            wanted = [
                run
                for run in _runs(experiment, one, raw)
                if (not method or run.method in method) and (not seed or run.seed in seed or one == "search")
            ]
            _all(experiment, wanted, folder, data, file, jobs)


@app.command()
def show(name: Name, raw: Raw = REPOSITORY / "docs" / "reproduce") -> None:
    """Write EXPERIMENT.md and the plots beside the raw results."""
    from reproduction.figures import draw
    from reproduction.tables import write

    experiment = _load(name)
    search, test = (results.read(raw / f"{name}.{stage}.jsonl") for stage in ("search", "test"))
    write(experiment, search, test, raw / f"{name}.md")
    draw(experiment, test, raw)
    console.print(str(raw / f"{name}.md"), soft_wrap=True)


def _load(name: str) -> Experiment:
    try:
        return load(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _runs(experiment: Experiment, stage: str, raw: Path) -> Iterator[Run]:
    """The runs of a stage, seed after seed, so that a part of them is a comparison already."""
    if stage == "search":
        for seed in experiment.search_seeds:
            for name, method in experiment.methods.items():
                for number, trial in enumerate(method.trials):
                    yield Run("search", name, number, trial, seed)
        return
    chosen = results.choose(experiment, results.read(raw / f"{experiment.name}.search.jsonl"))
    for seed in experiment.seeds:
        for name, method in experiment.methods.items():
            yield Run("test", name, method.trials.index(chosen[name]), chosen[name], seed)


def _sets(experiment: Experiment, stage: str, data: Path) -> dict[str, Path]:
    held_out = "validation" if stage == "search" else "test"
    sets = {held_out: data / f"{held_out}.parquet"}
    if stage == "test" and experiment.evaluation.train_prompts:
        sets["train"] = data / "probe.parquet"
    return sets


def _starts(experiment: Experiment, stage: str, folder: Path, data: Path, file: Path) -> None:
    """Step 0 of all: the starting models."""
    there = {line["warm_start"] for line in results.read(file) if line["method"] == "start"}
    for seed in experiment.warm_starts.seeds:
        if seed not in there:
            samples = folder / "samples" / f"{stage}-start-{seed}"
            who = {"kind": "counts", "method": "start", "settings": {}, "warm_start": seed, "seed": None}
            counted = evaluate(
                folder / f"warm_start_{seed}", experiment.evaluation, _sets(experiment, stage, data), samples
            )
            results.append(file, [{**who, **line} for line in counted])
            shutil.rmtree(samples)


def _all(experiment: Experiment, wanted: list[Run], folder: Path, data: Path, file: Path, jobs: int) -> None:
    done = {
        (line["method"], results.key(line["settings"]), line["seed"])
        for line in results.read(file)
        if line["kind"] == "curves"
    }
    todo = [run for run in wanted if (run.method, results.key(run.settings), run.seed) not in done]
    say(f"{len(wanted) - len(todo)} of {len(wanted)} runs are there")
    started, finished = time.monotonic(), 0
    stop = threading.Event()

    def work(run: Run) -> None:
        nonlocal finished
        if stop.is_set():
            return
        begun = time.monotonic()
        try:
            lines = list(_one(experiment, run, folder, data))
        except BaseException:
            stop.set()
            raise
        results.append(file, lines)
        finished += 1
        left = (time.monotonic() - started) / finished * (len(todo) - finished)
        say(f"{run.name}: {time.monotonic() - begun:.0f} s; {finished} of {len(todo)}, {left / 60:.0f} min left")

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work, run) for run in todo]:
            future.result()


def _one(experiment: Experiment, run: Run, folder: Path, data: Path) -> Iterator[dict[str, Any]]:
    """Train, look at the checkpoints, and give the lines of the results."""
    warm_start = experiment.warm_start_of(run.seed)
    place = folder / "runs" / run.name.replace(" ", "-")
    settings = {**experiment.methods[run.method].settings, **run.settings}
    checkpoints = train(experiment, settings, place, data, folder / f"warm_start_{warm_start}", run.seed)
    who = {"method": run.method, "settings": run.settings, "warm_start": warm_start, "seed": run.seed}
    steps = [step for step in experiment.evaluation.steps if step]
    sets = _sets(experiment, run.stage, data)
    for line in evaluate(checkpoints, experiment.evaluation, sets, place / "samples", steps):
        yield {"kind": "counts", **who, **line}
    # The last line of a run: where it is, all others are.
    yield {"kind": "curves", **who, **curves(place)}
    for left in (place / "samples", checkpoints):
        with contextlib.suppress(OSError):
            shutil.rmtree(left)


def say(text: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    app()
