"""Training and test sets in verl's parquet schema.

A folder holds train.parquet, test.parquet and dataset.json, the record of how they were made. The columns are
`data_source`, `prompt` (a list of messages with role and content), `ability`, `reward_model` (style "rule" and the
ground truth) and `extra_info` (split and index). The ground truth is a JSON string: a parquet column has one type,
and a struct with the fields of two tasks would give each row the other task's fields, set to null. That of a
published set (`math_sets_write`) is the answer's text.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from verl_setpo.tasks.files import new_folder
from verl_setpo.tasks.own import find_task, generate

RECORD = "dataset.json"
SPLITS = ("train", "test")
STYLES = ("tiny", "instruct")


class Problem(Protocol):
    """What a task's problem can do; `verl_setpo.tasks.polynomial.Problem` is one."""

    def prompt(self, style: str) -> str: ...

    def ground_truth(self, style: str) -> str: ...


def to_rows(task: Any, problems: Sequence[Problem], split: str, style: str) -> list[dict[str, Any]]:
    """One row in verl's schema per problem of `task`, a module. Raises ValueError for an unknown style."""
    check_style(style)
    return [
        make_row(
            task.DATA_SOURCE,
            [{"role": "user", "content": problem.prompt(style)}],
            problem.ground_truth(style),
            ability=getattr(task, "ABILITY", task.DATA_SOURCE),
            split=split,
            index=index,
        )
        for index, problem in enumerate(problems)
    ]


def check_style(style: str) -> None:
    """Raises ValueError for a style of prompt that no task has."""
    if style not in STYLES:
        raise ValueError(f"--style is {style!r}: give {' or '.join(STYLES)}")


def make_row(
    data_source: str, messages: list[dict[str, str]], ground_truth: str, *, ability: str, split: str, index: int
) -> dict[str, Any]:
    """One row in verl's schema. `index` counts the rows of the split."""
    return {
        "data_source": data_source,
        "prompt": messages,
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": {"split": split, "index": index},
    }


def write_dataset(
    out: Path,
    task: str,
    *,
    train_size: int,
    test_size: int,
    seed: int,
    style: str,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Generate a task's problems and write them, all of them different, as train.parquet and test.parquet.

    Args:
        out: the folder to make, whole or not at all (`new_folder`).
        task: a key of `TASKS`, or a file of one's own (`find_task`).
        train_size: rows of train.parquet.
        test_size: rows of test.parquet.
        seed: the same seed gives the same rows.
        style: "tiny" (a short prompt for a tiny model) or "instruct" (an instruction in English).
        overwrite: replace an earlier dataset.
        options: passed to the task's `generate`.

    Raises ValueError that names the option at fault.
    """
    for name, size in (("train", train_size), ("test", test_size)):
        if size < 1:
            raise ValueError(f"--{name}-size is {size}: give at least 1")
    module = find_task(task)
    record = {
        "task": module.DATA_SOURCE,
        "style": style,
        "seed": seed,
        "train_size": train_size,
        "test_size": test_size,
        **options,
    }
    with new_folder(out, record=RECORD, overwrite=overwrite) as folder:
        check_style(style)
        problems = generate(module, train_size + test_size, seed, style, options)
        rows = [
            to_rows(module, problems[:train_size], "train", style),
            to_rows(module, problems[train_size:], "test", style),
        ]
        for split, split_rows in zip(SPLITS, rows, strict=True):
            write_parquet(split_rows, folder / f"{split}.parquet")
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows that `make_row` made."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema(
        {
            "data_source": text,
            "prompt": pa.list_(pa.struct({"role": text, "content": text})),
            "ability": text,
            "reward_model": pa.struct({"style": text, "ground_truth": text}),
            "extra_info": pa.struct({"split": text, "index": pa.int64()}),
        }
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def read_dataset(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """The record, the training rows and the test rows of a folder that `write_dataset` made.

    Raises ValueError when the folder lacks one of the three files.
    """
    import pyarrow.parquet as pq

    missing = [name for name in (RECORD, *(f"{split}.parquet" for split in SPLITS)) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"--data {folder} has no {', '.join(missing)}: make it with `verl-setpo data`, by a task that is generated"
        )
    train, test = (pq.read_table(folder / f"{split}.parquet").to_pylist() for split in SPLITS)
    return json.loads((folder / RECORD).read_text()), train, test
