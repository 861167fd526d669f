"""An evaluation from its options to its figures: load, draw, grade, and go on where a killed one stopped."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_setpo.evaluate import generate, manifest
from verl_setpo.evaluate.grading import WORKERS, Graders
from verl_setpo.evaluate.journal import Fields, Journal, Key, in_order, sample_seed
from verl_setpo.evaluate.merge import hf_folder
from verl_setpo.evaluate.models import Model
from verl_setpo.evaluate.progress import Meter
from verl_setpo.evaluate.sets import EvalSet, Row
from verl_setpo.evaluate.summary import Figures, compared, read_graded
from verl_setpo.evaluation.text import printable

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate on what, into which folder.

    engine: further arguments of vLLM's EngineArgs. workers: processes that grade.
    """

    out: Path
    models: Sequence[Model]
    sets: Sequence[EvalSet]
    options: manifest.Options
    engine: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    workers: int = WORKERS


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the message says how to go on."""


def evaluate(asked: Evaluation, console: Console) -> None:
    """Draw what is missing of an evaluation, and grade it.

    Raises:
        ValueError, EngineError, OSError: it cannot be done; the message is one sentence for the user.
        Interrupted: it was stopped; all samples that had come are in the folder.
    """
    asked.options.check()
    with manifest.locked(asked.out):
        manifest.settle(asked.out, asked.options, asked.sets, asked.models)
        journals = {model: _journals(asked, model) for model in asked.models}
        try:
            for run, models in groupby(asked.models, key=lambda model: model.run):
                todo = [_Samples(model, journals[model]) for model in models]
                todo = [one for one in todo if not all(journal.is_finished for journal in one.journals)]
                if todo:
                    _evaluate_run(asked, run, todo, console)
        except KeyboardInterrupt:
            done = sum(len(journal) for of_model in journals.values() for journal in of_model)
            total = sum(j.num_rows * j.n for of_model in journals.values() for j in of_model)
            raise Interrupted(
                f"Stopped: {done} of {total} samples are in {printable(asked.out)}; the same command draws the others."
            ) from None
        finally:
            for of_model in journals.values():
                for journal in of_model:
                    journal.close()


def all_figures(out: Path, ks: Sequence[int] | None = None) -> list[Figures]:
    """The figures of all finished files of a folder, in the order in which its models and sets were named."""
    models, sets = manifest.order(out)
    found = []
    for path in out.glob("*/*/validation/*.jsonl"):
        if path.stem.isdecimal():
            found.append((path.parts[-4], int(path.stem), path.parts[-3], path))
    found.sort(key=lambda one: (models.index(one[0]), one[1], sets.index(one[2]) if sets else one[2]))
    return compared([read_graded(path, run, step, name) for run, step, name, path in found], ks)


def _journals(asked: Evaluation, model: Model) -> list[Journal]:
    return [
        Journal(
            asked.out / model.run / one.name / "validation" / f"{model.step}.jsonl",
            one.name,
            asked.options.seed,
            len(one.rows),
            asked.options.n,
        )
        for one in asked.sets
    ]


@dataclass
class _Samples:
    """The samples of one model: its journals, one a set, and what was given to the graders."""

    model: Model
    journals: Sequence[Journal]
    graded: dict[tuple[int, Key], Future[Fields]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.model.run} step {self.model.step}" if self.model.step else self.model.run

    @property
    def complete(self) -> bool:
        return all(journal.complete for journal in self.journals)

    def finish(self) -> None:
        """Wait for the verdicts, and put all in order."""
        for number, journal in enumerate(self.journals):
            if not journal.is_finished:
                journal.finish(partial(self._verdict, number))
        self.graded.clear()

    def _verdict(self, number: int, key: Key) -> Fields:
        return self.graded[number, key].result()


def _evaluate_run(asked: Evaluation, run: str, todo: Sequence[_Samples], console: Console) -> None:
    """Draw and grade what is missing of one model, or of the checkpoints of one run."""
    with Graders(asked.options.reward, asked.workers) as graders:
        if asked.options.reward.is_own:
            for one in asked.sets:
                check_gradable(one, graders)
        else:
            graders.load()
        for samples in todo:
            for number, (one, journal) in enumerate(zip(asked.sets, samples.journals, strict=True)):
                for key, fields in journal.ungraded():
                    samples.graded[number, key] = graders.submit(to_grade(one.rows[key.row], fields))
            if samples.complete:
                samples.finish()
        missing = [samples for samples in todo if not samples.complete]
        if missing:
            _draw(asked, asked.out / run, missing, graders, console)
        if graders.first_error is not None:
            console.print(
                f"{run}: the reward function failed {graders.failed} times, first with: "
                f"{printable(graders.first_error)[:300]}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def check_gradable(one: EvalSet, graders: Graders) -> None:
    """Raises ValueError for a row whose ground truth our reward cannot grade by, before anything is generated."""
    for row in one.rows:
        error = graders.check(to_grade(row, {"output": ""}))
        if error is not None:
            raise ValueError(
                f"{printable(one.path)}, row {row.index}: {printable(error.removeprefix('ValueError: '))} "
                "(--reward path:name takes another)"
            )


def to_grade(row: Row, fields: Fields) -> Fields:
    """What a reward function is asked about a response."""
    return {
        "data_source": row.data_source,
        "output": fields["output"],
        "gts": row.ground_truth,
        "extra_info": row.extra_info,
    }


def _draw(asked: Evaluation, folder: Path, todo: Sequence[_Samples], graders: Graders, console: Console) -> None:
    """Draw the missing samples, append each, and have it graded meanwhile; checkpoints of one kind by one engine."""
    generate.check_vllm()
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[Model, Path] = {}
    for samples in todo:
        model = samples.model
        console.print(
            f"{samples.label}: loading {printable(model.path)}", markup=False, highlight=False, soft_wrap=True
        )
        paths[model] = hf_folder(model, folder / "merged" / str(model.step), folder / f"merge-{model.step}.log")
    for _, group in groupby(todo, key=lambda samples: _kind(paths[samples.model])):
        of_one_engine = list(group)
        job = _job(asked, of_one_engine, paths)
        log = folder / f"engine-{of_one_engine[0].model.step}.log"
        with ExitStack() as stack, generate.engine(job, log) as messages:
            samples, meter = of_one_engine[0], stack.enter_context(_meter(console, of_one_engine[0]))
            for message in messages:
                if "ready" in message:
                    if message["ready"]:
                        stack.close()
                        samples.finish()
                        samples = of_one_engine[message["ready"]]
                        meter = stack.enter_context(_meter(console, samples))
                    meter.begin()
                    continue
                number, key = message["set"], Key(message["row"], message["sample"])
                row = asked.sets[number].rows[key.row]
                drawn = {name: message[name] for name in ("input", "output", "finish_reason", "num_tokens")}
                fields = {**drawn, "gts": row.ground_truth, "step": samples.model.step, "data_source": row.data_source}
                samples.journals[number].append(key, in_order(fields))
                samples.graded[number, key] = graders.submit(to_grade(row, fields))
                meter.advance(message["num_tokens"])
        samples.finish()


def _meter(console: Console, samples: _Samples) -> Meter:
    total = sum(journal.num_rows * journal.n for journal in samples.journals)
    return Meter(console, samples.label, total, sum(len(journal) for journal in samples.journals))


def _kind(path: Path) -> tuple[bytes, ...]:
    """What models must have in common to be loaded by one engine, one after another: all but the weights."""
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    return tuple((path / name).read_bytes() if (path / name).is_file() else b"" for name in names)


def _job(asked: Evaluation, todo: Sequence[_Samples], paths: dict[Model, Path]) -> dict[str, Any]:
    """What `verl_setpo.evaluate.engine` is told."""
    models = []
    for samples in todo:
        sets = []
        for one, journal in zip(asked.sets, samples.journals, strict=True):
            wanted = [[*key, sample_seed(asked.options.seed, one.name, key)] for key in journal.missing()]
            rows = {key[0] for key in wanted}
            sets.append({"messages": {row: one.rows[row].messages for row in sorted(rows)}, "wanted": wanted})
        models.append({"path": str(paths[samples.model]), "sets": sets})
    return {
        "models": models,
        "dtype": asked.options.dtype,
        "engine": asked.engine,
        "chat_template_kwargs": asked.options.chat_template_kwargs,
        "trust_remote_code": asked.trust_remote_code,
        "sampling": asked.options.sampling(),
    }
