"""Which rows of a published set to use: those that can be graded, of the difficulty asked for, once each."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from verl_setpo.tasks.math_sets import HubSet
from verl_setpo.tasks.math_sets_rows import NO_DIFFICULTY, Dropped, Item, pass_rate, value_at

DUPLICATE = "the problem of an earlier row"
OUT_OF_RANGE = "outside --min-difficulty and --max-difficulty"
# Above this share the columns are not what we take them for, and the rest would be no fair sample of the set.
MOST_DROPPED = 0.5

Reader = Callable[[Mapping[str, Any]], Item | Dropped]


@dataclass(frozen=True)
class Selection:
    """Which rows of a set to write; None keeps all.

    Args:
        max_rows: at most so many rows of each file.
        train_size: exactly so many training rows.
        test_size: so many problems of the training split are held out as the test set, for a set that has none.
        difficulty: lowest and highest pass rate, both included.
        seed: shuffle by it. Without it rows keep their order, and rows are drawn by seed 0.
    """

    max_rows: int | None = None
    train_size: int | None = None
    test_size: int | None = None
    difficulty: tuple[float, float] | None = None
    seed: int | None = None


@dataclass
class Counts:
    """What became of the rows of one published split: how many were read, and dropped for which reason."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def check(entry: HubSet, selection: Selection) -> None:
    """Raises ValueError for an option that means nothing, or nothing for this set."""
    for name in ("max_rows", "train_size", "test_size"):
        size = getattr(selection, name)
        if size is not None and size < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {size}: give at least 1")
    if selection.test_size is not None and "test" in entry.splits:
        raise ValueError(f"--test-size does not apply: {entry.name} has a test split of its own, so leave it out")
    if selection.difficulty is not None:
        low, high = selection.difficulty
        if entry.difficulty is None:
            raise ValueError(f"--min-difficulty and --max-difficulty do not apply: {entry.name} has no difficulty")
        if low > high:
            raise ValueError(f"--min-difficulty is {low:g}, above --max-difficulty {high:g}: exchange them")


def keep(
    entry: HubSet, rows: Iterable[Mapping[str, Any]], read: Reader, selection: Selection, split: str
) -> tuple[list[Item], Counts]:
    """The rows of a split that can be graded and are asked for, and what became of the others.

    A problem is kept once in a training split. A test split is scored as published, with what it repeats.

    Raises ValueError when more than half of the rows cannot be graded, or none is left.
    """
    counts = Counts()
    kept: list[Item] = []
    seen: set[str] = set()
    ungraded, example = 0, ""
    for number, row in enumerate(rows):
        counts.read += 1
        item = read(row)
        if isinstance(item, Dropped):
            ungraded += 1
            example = example or f"row {number} ({item.reason}): {item.shown}"
            reason: str | None = item.reason
        elif (reason := _unwanted(entry, row, selection)) is None and split == "train" and item.key in seen:
            reason = DUPLICATE
        if reason is not None:
            counts.dropped[reason] += 1
        elif isinstance(item, Item):
            seen.add(item.key)
            kept.append(item)
    if ungraded > MOST_DROPPED * counts.read:
        raise ValueError(
            f"{ungraded} of {counts.read} rows of {entry.name}'s {split} split cannot be graded, such as "
            f"{example}; give --revision or --local-path with rows like those of {entry.hub}"
        )
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.dropped.items())
        raise ValueError(
            f"none of the {counts.read} rows of {entry.name}'s {split} split is left ({reasons or 'it is empty'}): "
            "ask for more, or give another --local-path"
        )
    return kept, counts


def _unwanted(entry: HubSet, row: Mapping[str, Any], selection: Selection) -> str | None:
    """The reason why the row's difficulty is not asked for, or None."""
    if selection.difficulty is None or entry.difficulty is None:
        return None
    rate = pass_rate(value_at(row, entry.difficulty))
    if rate is None:
        return NO_DIFFICULTY
    low, high = selection.difficulty
    return None if low <= rate <= high else OUT_OF_RANGE


def select(entry: HubSet, items: Mapping[str, list[Item]], selection: Selection) -> dict[str, list[Item]]:
    """Hold out a test set, cut to size and shuffle, by one random state: a seed gives the same rows again.

    Raises ValueError when there are fewer problems than asked for.
    """
    rng = random.Random(selection.seed or 0)
    chosen = {split: list(items[split]) for split in ("train", "test") if split in items}
    if selection.test_size is not None or selection.train_size is not None:
        have, need = len(chosen["train"]), (selection.train_size or 1) + (selection.test_size or 0)
        if have < need:
            asked = " and ".join(
                f"--{split}-size {size}"
                for split, size in (("train", selection.train_size), ("test", selection.test_size))
                if size is not None
            )
            raise ValueError(f"{entry.name} has {have} problems that can be used, too few for {asked}: ask for fewer")
    if selection.test_size is not None:
        drawn = set(rng.sample(range(have), selection.test_size))
        chosen["test"] = [item for index, item in enumerate(chosen["train"]) if index in drawn]
        chosen["train"] = [item for index, item in enumerate(chosen["train"]) if index not in drawn]
    for split, kept in chosen.items():
        sizes = [len(kept), selection.max_rows, selection.train_size if split == "train" else None]
        most = min(size for size in sizes if size is not None)
        if most < len(kept):
            kept = [kept[index] for index in sorted(rng.sample(range(len(kept)), most))]
        if selection.seed is not None:
            rng.shuffle(kept)
        chosen[split] = kept
    return chosen


def seen_in_training(items: Mapping[str, list[Item]]) -> int:
    """How many test problems are training problems too."""
    training = {item.key for item in items.get("train", ())}
    return sum(item.key in training for item in items.get("test", ()))
