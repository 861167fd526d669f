"""A sample of the rows of a run's data files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from omegaconf import DictConfig, ListConfig, OmegaConf

FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
"""What verl's data set reads (verl 0.9.1, verl/utils/dataset/rl_dataset.py)."""


class CannotRead(Exception):
    """A file is not to be read here, but may be where the run is; the message says why."""


class BrokenData(Exception):
    """No run can read a file; the message names it and says why."""


def own_reader(config: DictConfig) -> str | None:
    """The file of a data set of the user's own, which reads what it likes; None for verl's."""
    return OmegaConf.select(config, "data.custom_cls.path")


def sample(config: DictConfig, count: int, key: str = "train_files") -> tuple[list[dict[str, Any]], int]:
    """Rows of `data.<key>`, evenly spread over all its files, and how many there are.

    A row has the columns that the reward sees, and `at`, its place in words.
    Raises CannotRead or BrokenData.
    """
    value = config.data[key]
    files = [Path(str(name)).expanduser() for name in (value if isinstance(value, list | ListConfig) else [value])]
    remote = next((str(file) for file in files if ":/" in str(file)), None)
    if remote is not None:
        raise CannotRead(f"data.{key}={remote} is not on this machine")
    tables = [(file, *_opened(file)) for file in files]
    total = sum(size for _, _, size in tables)
    wanted = [index * total // min(count, total) for index in range(min(count, total))]
    prompt = str(config.data.get("prompt_key", "prompt"))
    columns = {"data_source", "reward_model", "extra_info", prompt}
    rows: list[dict[str, Any]] = []
    for file, table, size in tables:
        own, wanted = [i for i in wanted if i < size], [i - size for i in wanted if i >= size]
        if own:
            with _readable(file):
                found = table.take(own, columns=[name for name in table.schema.names if name in columns]).to_pylist()
            for index, row in zip(own, found, strict=True):
                # verl's name for the messages once they are in a batch.
                rows.append({"raw_prompt": row.pop(prompt, None), **row, "at": f"row {index} of {file.name}"})
    return rows, total


def _opened(file: Path) -> tuple[ds.Dataset, int]:
    """A file as a table, and its rows."""
    if not file.is_file():
        raise CannotRead(f"there is no file {file}")
    if file.suffix not in FORMATS:
        raise BrokenData(f"{file.name} is none of {', '.join(FORMATS)}, and verl reads nothing else")
    with _readable(file):
        table = ds.dataset(str(file), format=FORMATS[file.suffix])
        return table, table.count_rows()


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        # Arrow puts the path before the cause, and more than once.
        cause = str(error).rpartition(": ")[2].strip() or type(error).__name__
        raise BrokenData(f"{file.name} cannot be read ({cause:.200})") from None
