"""Test sets: parquet files in verl's schema, as `verl-setpo data` writes them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_setpo.evaluation.text import printable

COLUMNS = ("prompt", "data_source", "reward_model")
RESERVED = ("merged",)  # folders beside those of the sets


@dataclass(frozen=True)
class Row:
    """One prompt of a test set."""

    index: int
    messages: list[dict[str, str]]
    data_source: str
    ground_truth: Any
    extra_info: dict[str, Any] | None


@dataclass(frozen=True)
class EvalSet:
    """A test set, or its first rows. sha256: of the whole file, in hex."""

    name: str
    path: Path
    sha256: str
    rows: tuple[Row, ...]


def split_name(spec: str) -> tuple[str | None, str]:
    """`NAME=VALUE` as (NAME, VALUE); anything else, such as a path with a "=" in it, as (None, `spec`).

    Raises:
        ValueError: a name that is no folder's name.
    """
    name, mark, value = spec.partition("=")
    if not mark or "/" in name or Path(spec).exists():
        return None, spec
    if folder_name(name) != name:
        raise ValueError(
            f"{printable(spec)}: a name has letters, digits, '.', '_' and '-' only, such as {folder_name(name)}"
        )
    return name, value


def folder_name(text: str) -> str:
    """`text` as the name of a folder that is not hidden."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".") or "_"


def read_sets(specs: Sequence[str], limit: int | None) -> list[EvalSet]:
    """Read each FILE or NAME=FILE.

    Args:
        limit: rows of each set to take, from its first on.

    Raises:
        ValueError: a file that is missing or no test set, or two sets with one name; the message is for the user.
    """
    sets = [read_set(spec, limit) for spec in specs]
    for number, one in enumerate(sets):
        for other in sets[:number]:
            if one.name == other.name:
                raise ValueError(
                    f"--data {printable(other.path)} and {printable(one.path)} are both the set {one.name!r}: "
                    f"name one of them, --data {one.name}-2={printable(one.path)}"
                )
    return sets


def read_set(spec: str, limit: int | None = None) -> EvalSet:
    """Read FILE or NAME=FILE. Without a name it is the rows' data_source where they share one, else the file's stem.

    Raises:
        ValueError: the file is missing or no test set; the message is one sentence for the user.
    """
    name, text = split_name(spec)
    path = Path(text)
    records = read_parquet(path, COLUMNS)
    if not records:
        raise ValueError(f"--data {printable(path)} has no rows: name a file that `verl-setpo data` wrote")
    rows = tuple(_row(path, index, record) for index, record in enumerate(records[:limit]))
    if name is None:
        sources = {row.data_source for row in rows}
        name = folder_name(sources.pop() if len(sources) == 1 else path.stem)
    if name in RESERVED:
        raise ValueError(
            f"--data {printable(path)}: a set cannot be named {name!r}: name it, --data NAME={printable(path)}"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    return EvalSet(name, path, digest.hexdigest(), rows)


def read_parquet(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of a parquet file that has these columns, and maybe others.

    Raises:
        ValueError: it is missing, a folder, no parquet, or lacks a column; the message is one sentence for the user.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir():
        raise ValueError(
            f"{printable(path)} is a folder: name a parquet file, such as {printable(path / 'test.parquet')}"
        )
    if not path.is_file():
        raise ValueError(f"There is no file {printable(path)}: make it with `verl-setpo data`.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{printable(path)} cannot be read as parquet: make it with `verl-setpo data`.") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{printable(path)} has no column {', '.join(missing)}: name a file in verl's schema, as `verl-setpo data` "
            "writes it."
        )
    return table.to_pylist()


def _row(path: Path, index: int, record: dict[str, Any]) -> Row:
    messages, reward = record["prompt"], record["reward_model"]
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        raise ValueError(
            f"{printable(path)}: the prompt of row {index} is not a list of messages with role and content as text"
        )
    if not isinstance(reward, dict) or reward.get("ground_truth") is None:
        raise ValueError(
            f"{printable(path)}: row {index} has no reward_model.ground_truth, without which nothing is graded"
        )
    # Parquet gives each row the fields of all others, as null.
    kept = [{key: value for key, value in message.items() if value is not None} for message in messages]
    return Row(index, kept, str(record["data_source"]), reward["ground_truth"], record.get("extra_info"))


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
    )
