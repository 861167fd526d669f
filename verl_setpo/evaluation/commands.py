"""The command `verl-setpo report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verl_setpo.evaluation.comparison import Comparison
    from verl_setpo.evaluation.report.content import Content
    from verl_setpo.evaluation.runs import Run


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Directories with any of validation/STEP.jsonl, metrics.jsonl, folders of rollouts, as verl writes.",
        ),
    ],
    labels: Annotated[
        str | None, typer.Option(help="A name for each run, separated by commas. Default: the directories' names.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for report.html, .md, .json and .png.")] = Path("report"),
    ks: Annotated[str, typer.Option(help="The k of pass@k, separated by commas.")] = "1,4,16,64",
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

    from verl_setpo.evaluation.comparison import NothingInCommonError, compare
    from verl_setpo.evaluation.formats import rich_table
    from verl_setpo.evaluation.report.content import build_content
    from verl_setpo.evaluation.report.notes import notes_on_missing
    from verl_setpo.evaluation.report.page import html_page
    from verl_setpo.evaluation.runs import Layout, read_run
    from verl_setpo.evaluation.text import printable

    names = _labels(runs, labels)
    parsed_ks = _ks(ks)
    try:
        layout = Layout(validation, metrics, rollouts)
        read = [read_run(path, name, layout) for path, name in zip(runs, names, strict=True)]
        validated = [run for run in read if run.validations]
        comparison = compare(validated, parsed_ks) if validated else None
        content = build_content(read, comparison)
        notes = [*(comparison.notes if comparison else ()), *notes_on_missing(read)]
        out.mkdir(parents=True, exist_ok=True)
        page = out / "report.html"
        page.write_text(html_page(read, comparison, content, notes), encoding="utf-8")
        written = [page]
        if comparison is not None:
            written += _write(comparison, content, validated, out, notes)
    except NothingInCommonError as error:
        _fail(str(error))
    except OSError as error:  # NoGenerationsError, and files that cannot be read or written
        _fail(str(error))

    console = Console(highlight=False)
    if comparison is not None:
        console.print(rich_table(comparison))
    for note in notes:
        console.print(f"Note: {note}", markup=False)
    for path in written:
        console.print(printable(path), markup=False, soft_wrap=True)


def _labels(runs: list[Path], labels: str | None) -> list[str]:
    names = [path.resolve().name for path in runs] if labels is None else [name.strip() for name in labels.split(",")]
    if len(names) != len(runs):
        raise typer.BadParameter(f"{len(names)} labels for {len(runs)} runs", param_hint="--labels")
    if labels is None and len(set(names)) < len(names):
        names = [str(path) for path in runs]  # a/seed1 and b/seed1
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


def _write(
    comparison: Comparison, content: Content, runs: Sequence[Run], out: Path, notes: Sequence[str]
) -> list[Path]:
    import json

    from verl_setpo.evaluation.figure import save_figure
    from verl_setpo.evaluation.formats import json_report, markdown_report
    from verl_setpo.evaluation.report.content import content_json
    from verl_setpo.evaluation.report.page import paired_table

    text, data, figure = out / "report.md", out / "report.json", out / "report.png"
    save_figure(comparison, figure)
    text.write_text(markdown_report(comparison, figure.name, notes, paired_table(content.paired)), encoding="utf-8")
    values = json_report(comparison, [str(run.path) for run in runs], notes) | content_json(content)
    data.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return [text, data, figure]


def _fail(message: str) -> NoReturn:
    from verl_setpo.evaluation.text import printable

    typer.echo(f"Error: {printable(message)}", err=True)
    raise typer.Exit(1)
