"""The command `verl-setpo report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from verl_setpo.evaluation.run_folders import RunFolder


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Directories with any of validation/STEP.jsonl, metrics.jsonl, folders of rollouts, as verl writes; "
            "or the folder of `verl-setpo evaluate` or `grade`, or one in it.",
        ),
    ],
    labels: Annotated[
        str | None, typer.Option(help="A name for each run, separated by commas. Default: the directories' names.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Directory for report.html, .md, .json and .png; of several test sets, one in it each.")
    ] = Path("report"),
    ks: Annotated[
        str | None, typer.Option(help="The k of pass@k, separated by commas. Default: 1,4,16,64, up to the samples.")
    ] = None,
    validation: Annotated[str, typer.Option(help="trainer.validation_data_dir, in each run.")] = "validation",
    metrics: Annotated[str, typer.Option(help="File of verl's file logger, in each run.")] = "metrics.jsonl",
    rollouts: Annotated[
        str | None,
        typer.Option(help="Folder of trainer.rollout_data_dir and rollout_log, in each run. Default: all are tried."),
    ] = None,
) -> None:
    """Compare runs: a page with charts, gained and lost problems, and rollouts side by side; a table; a picture."""
    # Imported here: `verl-setpo --help` must not wait for numpy and matplotlib.
    from rich.console import Console

    from verl_setpo.evaluation.comparison import NothingInCommonError
    from verl_setpo.evaluation.formats import rich_table
    from verl_setpo.evaluation.report.build import write_report
    from verl_setpo.evaluation.run_folders import by_set, run_folders
    from verl_setpo.evaluation.runs import Layout
    from verl_setpo.evaluation.text import printable

    found = [run_folders(path) for path in runs]
    folders = [folder for of_path in found for folder in of_path]
    sets = by_set(folders) if any(len(by_set(of_path)) > 1 for of_path in found) else {"": folders}
    _check_runs(folders, several_sets=len(sets) > 1)
    names = dict(zip(folders, _labels(folders, labels, several_sets=len(sets) > 1), strict=True))
    parsed_ks = None if ks is None else _ks(ks)
    layout = Layout(validation, metrics, rollouts)
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"{printable(out)} is a file: name a directory", param_hint="--out")
    console = Console(highlight=False)
    for set_name, members in sets.items():
        try:
            written = write_report([(member, names[member]) for member in members], layout, parsed_ks, out / set_name)
        except NothingInCommonError as error:
            _fail(str(error))
        except OSError as error:  # NoGenerationsError, and files that cannot be read or written
            _fail(f"{error.filename}: {error.strerror}." if error.strerror else str(error))
        if written.comparison is not None:
            console.print(rich_table(written.comparison))
        for note in written.notes:
            console.print(f"Note: {note}", markup=False, soft_wrap=True)
        for path in written.paths:
            console.print(printable(path), markup=False, soft_wrap=True)


def _check_runs(folders: Sequence[RunFolder], several_sets: bool) -> None:
    from verl_setpo.evaluation.text import printable

    places = [folder.path.resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise typer.BadParameter(f"{printable(folder.path)} is given twice: give it once", param_hint="RUN")
        if several_sets and not folder.is_evaluation:
            raise typer.BadParameter(
                f"{printable(folder.path)} cannot stand beside several test sets: name the folders NAME/SET of one set "
                "instead of those that hold several",
                param_hint="RUN",
            )


def _labels(folders: Sequence[RunFolder], labels: str | None, several_sets: bool) -> list[str]:
    names = [f"{one.name} {one.set_name}" if several_sets else one.name for one in folders]
    if labels is not None:
        names = [name.strip() for name in labels.split(",")]
    if len(names) != len(folders):
        raise typer.BadParameter(f"{len(names)} labels for {len(folders)} runs", param_hint="--labels")
    if labels is None and len(set(names)) < len(names):
        names = [str(folder.path) for folder in folders]  # a/seed1 and b/seed1
    if len(set(names)) < len(names) or "" in names:
        raise typer.BadParameter("each run needs a label of its own", param_hint="--labels")
    return names


def _ks(text: str) -> list[int]:
    try:
        ks = [int(part) for part in text.split(",")]
    except ValueError:
        ks = []
    if not ks or min(ks) < 1:
        raise typer.BadParameter("give positive whole numbers separated by commas, such as 1,4,16", param_hint="--ks")
    return ks


def _fail(message: str) -> NoReturn:
    from verl_setpo.evaluation.text import printable

    typer.echo(f"Error: {printable(message)}", err=True)
    raise typer.Exit(1)
