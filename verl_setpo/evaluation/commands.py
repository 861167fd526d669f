"""The command `verl-setpo report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from verl_setpo.evaluation.comparison import Comparison


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Directories with validation/STEP.jsonl and metrics.jsonl, as verl writes them."
        ),
    ],
    labels: Annotated[
        str | None, typer.Option(help="A name for each run, separated by commas. Default: the directories' names.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for report.md, report.json and report.png.")] = Path("report"),
    ks: Annotated[str, typer.Option(help="The k of pass@k, separated by commas.")] = "1,4,16,64",
) -> None:
    """Compare runs: pass@k, distinct correct answers, and time, with intervals, a table and a picture."""
    # Imported here: `verl-setpo --help` must not wait for numpy and matplotlib.
    from rich.console import Console

    from verl_setpo.evaluation.comparison import NothingInCommonError, compare
    from verl_setpo.evaluation.formats import rich_table
    from verl_setpo.evaluation.runs import read_run
    from verl_setpo.evaluation.text import printable

    names = _labels(runs, labels)
    parsed_ks = _ks(ks)
    try:
        comparison = compare([read_run(path, name) for path, name in zip(runs, names, strict=True)], parsed_ks)
        written = _write(comparison, runs, out)
    except NothingInCommonError as error:
        _fail(str(error))
    except OSError as error:  # NoGenerationsError, and files that cannot be read or written
        _fail(str(error))

    console = Console(highlight=False)
    console.print(rich_table(comparison))
    for note in comparison.notes:
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


def _write(comparison: Comparison, runs: list[Path], out: Path) -> list[Path]:
    import json

    from verl_setpo.evaluation.figure import save_figure
    from verl_setpo.evaluation.formats import json_report, markdown_report

    out.mkdir(parents=True, exist_ok=True)
    text, data, figure = out / "report.md", out / "report.json", out / "report.png"
    save_figure(comparison, figure)
    text.write_text(markdown_report(comparison, figure.name), encoding="utf-8")
    content = json_report(comparison, [str(path) for path in runs])
    data.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return [text, data, figure]


def _fail(message: str) -> NoReturn:
    from verl_setpo.evaluation.text import printable

    typer.echo(f"Error: {printable(message)}", err=True)
    raise typer.Exit(1)
