"""`verl-setpo doctor`, `verl-setpo doctor judge` and `verl-setpo doctor grader`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from verl_setpo.doctor.group import WORDS, WordsOrCommand

if TYPE_CHECKING:
    from verl_setpo.signals.judge import JudgeSettings
    from verl_setpo.signals.judge.quality import Group, Quality

# The checks, openai and rich are imported inside the commands, so that --help is quick.

doctor = typer.Typer(
    cls=WordsOrCommand, invoke_without_command=True, subcommand_metavar="[KEY=VALUE...] | COMMAND [ARGS]..."
)


@doctor.callback()
def environment(
    context: typer.Context,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A script that starts verl: it runs, up to that line, whose words are taken; yours come after them.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the data that are looked at, and graded.")] = 16,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Look into a Ray worker, which takes longest.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all findings here.")] = None,
    quiet: Annotated[bool, typer.Option(help="Print only what is not well.")] = False,
) -> None:
    """Would a run start, and train as its keys say? One page of checks, each with a cure; nothing is trained.

    Give the words that you would give to verl, such as +set_rl=set_loo data.train_files=...; without any, only the
    environment and our own config groups are looked at. Exit status 1 when a check fails.
    """
    if context.invoked_subcommand is not None:
        return
    import sys

    from rich.console import Console

    from verl_setpo.doctor import page

    asked = page.Asked(words=context.meta.get(WORDS, []), recipe=recipe, rows=rows, ray=ray)
    try:
        if json_file is not None:
            _check_writable(json_file)
    except ValueError as error:
        _fail(str(error))
    told = Console(file=sys.stderr)  # which checks redirect
    with told.status("") as status:
        checks, seconds = page.timed(asked, lambda name: status.update(f"checking: {name}"))
    page.print_page(Console(highlight=False), checks, seconds, quiet)
    if json_file is not None:
        _write(json_file, page.as_json(checks, seconds))
    if page.failed(checks):
        raise typer.Exit(1)


@doctor.command()
def judge(
    keys: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE...",
            help="The judge, in the keys of algorithm.set_rl.signal, with that prefix or without: "
            "base_url=http://localhost:8000/v1 model=Qwen/Qwen3-4B-Instruct-2507 api_key_env=JUDGE_KEY",
        ),
    ],
    shuffles: Annotated[int, typer.Option(min=1, help="How often each group is asked about, in new orders.")] = 3,
    groups: Annotated[
        Path | None,
        typer.Option(
            help='Groups whose strategies are known, one a line: {"question": ..., "responses": [...], '
            '"clusters": [0, 0, 1, -1], "tag": ...}.',
            show_default="those of this package",
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures here.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Ask about so many groups only, of all tags, for a first try.")
    ] = None,
) -> None:
    """Ask a judge about groups whose strategies are known: how often is it right, how steady, at what cost?

    Exit status 1 when it could not be asked or all calls failed.
    """
    import asyncio

    from rich.console import Console

    from verl_setpo.doctor.judge_keys import parse_settings
    from verl_setpo.doctor.judge_report import Report
    from verl_setpo.signals.endpoint import EndpointError
    from verl_setpo.signals.judge.quality import BUILTIN_GROUPS

    path = groups or BUILTIN_GROUPS
    try:
        settings = parse_settings(keys)
        chosen = _choose(path, limit)
        if json_file is not None:
            _check_writable(json_file)
        quality, causes = asyncio.run(_ask(settings, chosen, shuffles))
    except EndpointError as error:
        _fail(error.message)
    except ValueError as error:
        _fail(str(error))

    report = Report(settings, path, chosen, quality, causes)
    report.print(Console(highlight=False))
    if json_file is not None:
        _write(json_file, report.json())
    if report.all_failed:
        raise typer.Exit(1)


@doctor.command()
def grader(
    data_file: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="Instead, grade the own ground truth of each row of this parquet file; of a generated problem, a "
            "solution.",
        ),
    ] = None,
) -> None:
    """Grade answers whose verdict is known with the reward for mathematics and with a second, independent grader.

    Exit status 1 when the reward is wrong where it is not known to be, when a row of --data cannot be graded, or when
    there was nothing to grade.
    """
    from rich.console import Console

    from verl_setpo.doctor import grader as graders
    from verl_setpo.doctor.grader_report import print_cases, print_rows
    from verl_setpo.equivalence.process import StartError

    console = Console(highlight=False)
    try:
        if data_file is None:
            cases = graders.load_cases()
            with _progress("grading cases", len(cases)) as advance:
                graded = graders.grade_cases(cases, advance)
            print_cases(console, graded)
            well = not any(one.bad for one in graded)
        else:
            rows = list(graders.read_rows(data_file))
            with _progress("grading rows", len(rows)) as advance:
                hard = graders.hard_rows(rows, advance)
            print_rows(console, data_file, len(rows), hard)
            well = all(row.gradable is not False for row in hard)
    except (ValueError, StartError) as error:
        _fail(str(error))
    if not well:
        raise typer.Exit(1)


@contextlib.contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; what it yields moves it on by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def _choose(path: Path, limit: int | None) -> list[Group]:
    """The first group of each tag, then the second of each, and so on, so that a few still show every weakness."""
    import itertools

    from verl_setpo.signals.judge.quality import load_groups

    try:
        groups = load_groups(path)
    except OSError as error:
        raise ValueError(f"--groups {path} cannot be read ({error.strerror}): name a file of groups.") from None
    by_tag: dict[str, list[Group]] = {}
    for group in groups:
        by_tag.setdefault(group.tag, []).append(group)
    turns = itertools.zip_longest(*by_tag.values())
    return [group for turn in turns for group in turn if group is not None][:limit]


def _check_writable(path: Path) -> None:
    """Before the calls are paid for."""
    import os

    target = path if path.exists() else path.parent
    if path.is_dir() or not target.exists() or not os.access(target, os.W_OK):
        raise ValueError(f"--json {path} cannot be written: name a file in a folder that is there and yours.")


async def _ask(settings: JudgeSettings, groups: list[Group], shuffles: int) -> tuple[Quality, dict[str, str]]:
    """The figures, and the first failure of each kind in words."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from verl_setpo.signals.endpoint import EndpointError
    from verl_setpo.signals.judge import Judge, Verdict
    from verl_setpo.signals.judge.quality import measure

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    causes: dict[str, str] = {}
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking the judge", total=None)
        judge = Judge(settings)
        try:
            await judge.check()
        finally:
            await judge.close()
        progress.update(task, description="asking the judge", total=len(groups) * shuffles)

        def on_call(result: Verdict | EndpointError) -> None:
            if isinstance(result, EndpointError):
                causes.setdefault(result.kind, result.message)
            progress.advance(task)

        return await measure(settings, groups, shuffles, on_call), causes


def _write(path: Path, content: dict[str, object]) -> None:
    import json

    try:
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        _fail(f"--json {path} cannot be written ({error.strerror}): name another file.")


def _fail(message: str) -> NoReturn:
    from verl_setpo.evaluation.text import printable

    typer.echo(f"Error: {printable(message)}", err=True)
    raise typer.Exit(1)
