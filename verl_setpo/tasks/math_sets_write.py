"""Write a published set of problems in verl's schema: what can be graded, with the papers' prompt."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from verl_setpo.tasks.data import RECORD, check_style, make_row, write_parquet
from verl_setpo.tasks.files import new_folder
from verl_setpo.tasks.math_sets import HubSet
from verl_setpo.tasks.math_sets_load import opened, pick_column
from verl_setpo.tasks.math_sets_prompt import Prompt
from verl_setpo.tasks.math_sets_rows import Item, read_countdown, read_math
from verl_setpo.tasks.math_sets_select import Reader, Selection, check, keep, seen_in_training, select

if TYPE_CHECKING:
    from datasets import Dataset

ABILITY = "math"


@dataclass(frozen=True)
class Written:
    """Rows of each file, what was dropped of each split, and how many test problems are training problems too."""

    rows: Mapping[str, int]
    dropped: Mapping[str, Mapping[str, int]]
    seen_in_training: int

    def tell(self, out: Path) -> None:
        """One line on the terminal, and a warning where test problems are training problems too."""
        names = {"train": "training", "test": "test"}
        text = f"{out}: {' and '.join(f'{count:,} {names[split]}' for split, count in self.rows.items())} prompts"
        reasons: Counter[str] = sum((Counter(dict(each)) for each in self.dropped.values()), Counter())
        if reasons:
            text += "; dropped " + ", ".join(f"{count:,} ({reason})" for reason, count in reasons.most_common())
        typer.echo(text)
        if self.seen_in_training:
            typer.echo(f"warning: {self.seen_in_training:,} test prompts are training prompts too", err=True)


def write_math_set(
    out: Path,
    entry: HubSet,
    prompt: Prompt,
    selection: Selection,
    *,
    local_path: Path | None = None,
    revision: str | None = None,
    overwrite: bool = False,
) -> Written:
    """Write a set of `SETS` as train.parquet, test.parquet or both, and dataset.json.

    Args:
        out: the folder to make, whole or not at all.
        entry: the set.
        prompt: how a question becomes messages.
        selection: which rows.
        local_path: a copy in place of the hub (`math_sets_load.opened`).
        revision: of the hub's repository.
        overwrite: replace an earlier dataset.

    Raises ValueError with one sentence for an option, a column, a split or a set at fault.
    """

    def reader(dataset: "Dataset", split: str) -> tuple[Reader, list[str]]:
        question = pick_column(dataset, entry.question, entry, split)
        answer = pick_column(dataset, entry.answer, entry, split)
        columns = [question, answer]
        if entry.kind and entry.kind[0] in dataset.column_names:
            columns.append(entry.kind[0])
        if entry.difficulty is not None and selection.difficulty is not None:
            columns.append(pick_column(dataset, (entry.difficulty,), entry, split))
        return lambda row: read_math(entry, row, question, answer), columns

    with new_folder(out, record=RECORD, overwrite=overwrite) as folder:
        return _fill(folder, entry, reader, prompt.messages, prompt.record(), selection, local_path, revision)


def write_countdown_set(
    out: Path,
    entry: HubSet,
    style: str,
    selection: Selection,
    *,
    local_path: Path | None = None,
    revision: str | None = None,
    overwrite: bool = False,
) -> Written:
    """Write the published Countdown problems with our prompt and ground truth of `style`; see `write_math_set`."""
    check_style(style)

    def reader(dataset: "Dataset", split: str) -> tuple[Reader, list[str]]:
        numbers = pick_column(dataset, entry.question, entry, split)
        target = pick_column(dataset, entry.answer, entry, split)
        return lambda row: read_countdown(row, numbers, target, style), [numbers, target]

    def messages(question: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}]

    with new_folder(out, record=RECORD, overwrite=overwrite) as folder:
        return _fill(folder, entry, reader, messages, {"style": style}, selection, local_path, revision)


def _fill(
    folder: Path,
    entry: HubSet,
    reader: Callable[["Dataset", str], tuple[Reader, list[str]]],
    messages: Callable[[str], list[dict[str, str]]],
    prompt_record: Mapping[str, Any],
    selection: Selection,
    local_path: Path | None,
    revision: str | None,
) -> Written:
    check(entry, selection)
    items, counts = {}, {}
    with opened(entry, local_path=local_path, revision=revision) as source:
        for split, dataset in source.splits.items():
            read, paths = reader(dataset, split)
            columns = list(dict.fromkeys(path.split(".")[0] for path in paths))
            rows = dataset.select_columns(columns).to_list()
            items[split], counts[split] = keep(entry, rows, read, selection, split)
    items = select(entry, items, selection)
    for split, kept in items.items():
        rows = [
            make_row(entry.name, messages(item.question), item.answer, ability=ABILITY, split=split, index=index)
            for index, item in enumerate(kept)
        ]
        write_parquet(rows, folder / f"{split}.parquet")
    dropped = {split: dict(count.dropped.most_common()) for split, count in counts.items()}
    written = Written({split: len(kept) for split, kept in items.items()}, dropped, seen_in_training(items))
    record = {
        "task": entry.name,
        "source": source.origin,
        **prompt_record,
        **{name: value for name, value in vars(selection).items() if value is not None},
        "rows_read": {split: count.read for split, count in counts.items()},
        "rows_dropped": dropped,
        "rows": written.rows,
        "test_prompts_in_training": written.seen_in_training,
        "sha256": {split: _digest(kept) for split, kept in items.items()},
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return written


def _digest(items: Sequence[Item]) -> str:
    """A fingerprint of the problems and answers in their order: the same data has the same one anywhere."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.question, item.answer]).encode())
    return digest.hexdigest()
