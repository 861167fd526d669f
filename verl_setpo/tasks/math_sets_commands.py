"""`verl-setpo data NAME` for each published set, made from the table, and `verl-setpo data list`."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from verl_setpo.tasks.math_sets import COUNTDOWN, SETS, HubSet
from verl_setpo.tasks.options import LocalPath, Out, Overwrite, Revision, errors_as_one_sentence

# datasets and pyarrow are imported inside the commands, so that --help is quick.


def _write(
    entry: HubSet,
    *,
    out: Out,
    local_path: LocalPath = None,
    revision: Revision = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="A text with {question}, or a file with one (.jinja: with {{ question }}). Default: the question, and "
            "on a new line: Please reason step by step, and put your final answer within \\boxed{}."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message. Default: none.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="At most so many rows of each file, drawn by --seed.")] = None,
    test_size: Annotated[
        int | None,
        typer.Option(help="Hold so many problems out as test.parquet, drawn by --seed. Default: no test.parquet."),
    ] = None,
    min_difficulty: Annotated[
        str | None,
        typer.Option(help="Lowest pass rate to keep, such as 1/8: of 8 attempts of a 7B model 1 was right."),
    ] = None,
    max_difficulty: Annotated[str | None, typer.Option(help="Highest pass rate to keep; 0/8 is the hardest.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Shuffle by this seed. Default: the set's order, and draws by seed 0.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    from verl_setpo.tasks.math_sets_prompt import read_prompt
    from verl_setpo.tasks.math_sets_select import Selection
    from verl_setpo.tasks.math_sets_write import write_math_set

    with errors_as_one_sentence():
        written = write_math_set(
            out,
            entry,
            read_prompt(prompt, system),
            Selection(
                max_rows=max_rows,
                test_size=test_size,
                difficulty=_difficulty(min_difficulty, max_difficulty),
                seed=seed,
            ),
            local_path=local_path,
            revision=revision,
            overwrite=overwrite,
        )
        written.tell(out)


def _difficulty(lowest: str | None, highest: str | None) -> tuple[float, float] | None:
    """The range of pass rates. Raises ValueError for a text that is none."""
    from verl_setpo.tasks.math_sets_rows import pass_rate

    if lowest is None and highest is None:
        return None
    rates = []
    for name, text, default in (("min", lowest, 0.0), ("max", highest, 1.0)):
        rate = default if text is None else pass_rate(text)
        if rate is None:
            raise ValueError(f"--{name}-difficulty is {text!r}: give a share such as 3/8 or 0.375")
        rates.append(rate)
    return rates[0], rates[1]


def _command(entry: HubSet) -> Callable[..., None]:
    """The command of one set: `_write` for it, with those of its options that mean something there."""
    signature = inspect.signature(_write)
    unfit = {"entry"}
    if "test" in entry.splits:
        unfit.add("test_size")
    if entry.difficulty is None:
        unfit |= {"min_difficulty", "max_difficulty"}

    def command(**options: Any) -> None:
        _write(entry, **options)

    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[parameter for name, parameter in signature.parameters.items() if name not in unfit]
    )
    command.__doc__ = f"{entry.hub}: {_rows(entry)} rows. {entry.purpose}.\n\n{columns(entry, 'problem')}"
    return command


_ANSWERS = {
    "text": "the answer",
    "after_hashes": "a solution with the answer after its last ####",
    "boxed": "a solution with the answer in its last \\boxed{}",
}


def columns(entry: HubSet, asked: str, answer: str | None = None) -> str:
    """Which columns a local copy needs, in words. asked, answer: what the question's and the answer's hold."""
    held = [
        f"{_any_of(entry.question)} (the {asked})",
        f"{_any_of(entry.answer)} ({answer or _ANSWERS[entry.answer_form]})",
    ]
    if entry.difficulty is not None:
        held.append(f"{entry.difficulty} (a text such as 3/8; only for --min-difficulty and --max-difficulty)")
    text = f"Columns that a local copy needs: {'; '.join(held)}."
    if any("." in name for name in (*entry.question, *entry.answer)):
        text += " Here a.b is field b of column a."
    if len(entry.splits) > 1:
        text += f" Files have {' or '.join(entry.splits)} in their names."
    return text


def _any_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _rows(entry: HubSet) -> str:
    return " + ".join(f"{entry.rows[split]:,} {split}" for split in entry.splits)


def list_sets() -> None:
    """All published sets: name, address on the hub, rows of each split."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # Narrow enough for 80 columns: what each set is for stands in --help.
    for title in ("name", "on the hub"):
        table.add_column(title, no_wrap=True)
    for title in ("train", "test"):
        table.add_column(title, no_wrap=True, justify="right")
    for entry in (*SETS.values(), COUNTDOWN):
        counts = [f"{entry.rows[split]:,}" if split in entry.splits else "" for split in ("train", "test")]
        table.add_row(entry.name, entry.hub, *counts)
    console = Console()
    console.print(table)
    console.print("Rows are as published. What each set is for: verl-setpo data --help", highlight=False)
    console.print("Without the hub, by a generator: polynomial, multiplication, countdown.", highlight=False)


def add_sets(app: typer.Typer) -> None:
    """Register `list` and one command for each set of the table."""
    app.command("list")(list_sets)
    for entry in SETS.values():
        app.command(entry.name, rich_help_panel="Published sets")(_command(entry))
