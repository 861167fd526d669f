"""What the commands of `verl-setpo data` have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="Folder to make: train.parquet, test.parquet or both, and dataset.json.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what this command wrote there before.")]
LocalPath = Annotated[
    Path | None,
    typer.Option(
        help="Read this in place of the hub: a parquet, json, jsonl or csv file, or a folder made by `hf download`, "
        "the hub's cache or save_to_disk, with the columns that are named above."
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub's repository. Default: main.")]


@contextmanager
def errors_as_one_sentence() -> Iterator[None]:
    """ValueError and OSError end the command with status 2 and the sentence on stderr."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
