"""The command `verl-setpo credit`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from verl_setpo.credit.study import Study

# verl and torch are imported inside the command, so that --help is quick.

SHOWN_PROMPTS = 3


def credit(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Rollouts: verl's trainer.rollout_data_dir or trainer.validation_data_dir, our "
            "algorithm.set_rl.rollout_log, or a .jsonl, .json or .csv with prompt (or uid), reward (or score), and any "
            "of cluster, answer (or pred), text (or output, response). A folder of STEP.jsonl: its last step.",
        ),
    ],
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE...]", help="Keys of algorithm.set_rl.signal: equal=math, base_url=... ."),
    ] = None,
    estimator: Annotated[
        list[str] | None,
        typer.Option(
            help="set_loo, poly_epo, pass_at_n, grpo_div, grpo (verl's), grpo_no_std. Repeat for several.",
            show_default="set_loo, poly_epo, grpo_div, grpo",
        ),
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="A set objective besides, by name or import path. Repeat for several.")
    ] = None,
    coef: Annotated[float | None, typer.Option(help="Of set_loo and grpo_div.", show_default="0.1")] = None,
    set_size: Annotated[
        int | None,
        typer.Option(help="Of poly_epo and set objectives.", show_default="4, or one less than there are rollouts"),
    ] = None,
    num_sets: Annotated[int | None, typer.Option(help="Sets drawn a prompt.", show_default="all")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draw of sets.", show_default="0")] = None,
    signal: Annotated[
        str | None,
        typer.Option(
            help="clusters (of the file), answer, ngram, judge, embedding, or a registered one.",
            show_default="the first of clusters, answer, ngram that the file allows",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Of the model to train, for n-grams of its tokens.", show_default="words")
    ] = None,
    shaping: Annotated[str | None, typer.Option(help="Of set_loo.", show_default="neg_log1p")] = None,
    no_zero_single_cluster: Annotated[
        bool, typer.Option("--no-zero-single-cluster", help="poly_epo: a set with one cluster is worth something.")
    ] = False,
    reward_range: Annotated[
        tuple[float, float] | None, typer.Option(help="Lowest and highest reward.", show_default="0 1")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Of a folder: the file to read.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Show this prompt, by number or uid, rollout by rollout.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read so many prompts only.")] = None,
    sweep_set_size: Annotated[str | None, typer.Option(metavar="2-6", help="Compare set sizes: 2-6, or 2,4,6.")] = None,
    sweep_coef: Annotated[str | None, typer.Option(metavar="0.1,1,5", help="Compare coefs.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures here.")] = None,
) -> None:
    """What would each estimator give these rollouts? A dry run of advantages by the trainer's own code."""
    from rich.console import Console

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # verl's, about engines that are not installed
        from verl_setpo.credit.asked import Asked
        from verl_setpo.credit.study import study

    given = {
        "coef": coef,
        "set_size": set_size,
        "num_sets": num_sets,
        "seed": seed,
        "shaping": shaping,
        "zero_single_cluster": False if no_zero_single_cluster else None,
        "reward_range": None if reward_range is None else list(reward_range),
    }
    asked = Asked(
        path=path,
        estimators=estimator,
        objectives=objective or [],
        keys={key: value for key, value in given.items() if value is not None},
        signal=signal,
        signal_arguments=keys or [],
        tokenizer=tokenizer,
        step=step,
        limit=limit,
        sweep_set_size=sweep_set_size,
        sweep_coef=sweep_coef,
    )
    try:
        if json_file is not None:
            _check_writable(json_file)
        found = study(asked)
        chosen = found.prompts.most_telling(SHOWN_PROMPTS) if prompt is None else [found.find_prompt(prompt)]
    except ValueError as error:
        _fail(str(error))
    _print(Console(highlight=False), found, chosen, whole=prompt is not None)
    if json_file is not None:
        _write(json_file, found)


def _print(console: Any, found: Study, chosen: list[int], whole: bool) -> None:
    from verl_setpo.credit import tables

    console.print(found.source.understood, markup=False)
    console.print(f"Signal: {tables.cut(found.signal_text, 200)}", markup=False)
    for note in found.notes:
        console.print(f"Note: {note}", markup=False, soft_wrap=True)
    total = len(found.prompts.numbers)
    shown_tables = []
    for number in chosen:
        shown = found.prompts.shown(number)
        console.print()
        console.print(tables.title(shown, total), markup=False)
        shown_tables.append(tables.prompt_table(shown, whole))
        console.print(shown_tables[-1])
    console.print()
    labels = [tables.label(choice, credited[0]) for choice, credited in found.results]
    console.print(tables.summary(list(zip(labels, found.figures, strict=True))))
    for swept in found.sweeps:
        console.print()
        console.print(tables.sweep_table(swept))
    console.print()
    console.print(tables.legend(shown_tables, found.prompts.by_kernel), markup=False)
    for choice, _ in found.results:
        line = choice.overrides(found.signal, found.signal_keys)
        console.print(f"{tables.cut(choice.name, 30)} in a run: {tables.cut(line, 300)}", markup=False)
    for warned in found.warned:
        console.print(f"Warning: {tables.cut(warned.message, 600)}", markup=False, style="yellow")


def _check_writable(path: Path) -> None:
    """Before a judge is paid."""
    import os

    target = path if path.exists() else path.parent
    if path.is_dir() or not target.exists() or not os.access(target, os.W_OK):
        raise ValueError(f"--json {path} cannot be written: name a file in a folder that is there and yours.")


def _write(path: Path, found: Study) -> None:
    import json

    from verl_setpo.credit.report import json_report

    content = json_report(found)
    try:
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="ascii")
    except OSError as error:
        _fail(f"--json {path} cannot be written ({error.strerror}): name another file.")


def _fail(message: str) -> NoReturn:
    from verl_setpo.evaluation.text import printable

    typer.echo(f"Error: {printable(message)}", err=True)
    raise typer.Exit(1)
