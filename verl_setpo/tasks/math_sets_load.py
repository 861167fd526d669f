"""Fetch a published set of problems by the `datasets` library: from the hub, its cache, or a local copy."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_setpo.tasks.math_sets import HubSet

if TYPE_CHECKING:
    from datasets import Dataset

# What datasets calls the readers of single files.
_READERS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".arrow": "arrow",
}


_COMMIT = re.compile(r"[0-9a-f]{40}")
# No copy of a set has nearly so many files, folders and notes of the download.
_MOST_ENTRIES = 500


@dataclass(frozen=True)
class Source:
    """The rows of a set, by our splits, and what is known of where they came from."""

    splits: Mapping[str, "Dataset"]
    origin: Mapping[str, Any]


@contextmanager
def opened(entry: HubSet, *, local_path: Path | None = None, revision: str | None = None) -> Iterator[Source]:
    """The set's splits, valid inside the `with` block.

    Args:
        entry: the set.
        local_path: a parquet, json, jsonl or csv file, or a folder that a download of the repository, the hub's
            cache or `Dataset.save_to_disk` made. A local copy may lack a split; the hub may not.
        revision: of the hub's repository: a branch, tag or commit.

    Raises ValueError with one sentence that says what is missing and what to do.
    """
    if local_path is None:
        found = _from_hub(entry, revision)
        yield Source(_ours(entry, found, entry.hub, partly=False), _origin(entry, found, revision))
        return
    if revision is not None:
        raise ValueError(f"--revision is {revision!r} beside --local-path: a local copy has no other revision")
    if local_path.name in ("", ".."):  # datasets takes a folder's name for the set's
        local_path = local_path.resolve()
    # datasets copies what it reads to a cache; a local file needs none that stays.
    with tempfile.TemporaryDirectory(prefix="verl-setpo-data-") as cache, _quiet():
        found = _from_disk(entry, local_path, cache)
        splits = _ours(entry, found, f"--local-path {local_path}", partly=True)
        yield Source(splits, {"local_path": str(local_path.resolve()), "commit": _commit_of(local_path)})


def pick_column(dataset: "Dataset", candidates: Sequence[str], entry: HubSet, split: str) -> str:
    """The first of `candidates` that the dataset has; "a.b" is field b of struct a. Raises ValueError without one."""
    from datasets import Features

    for path in candidates:
        features: Any = dataset.features
        for name in path.split("."):
            features = features.get(name) if isinstance(features, Features | dict) else None
        if features is not None:
            return path
    raise ValueError(
        f"{entry.name}'s {split} split has the columns {', '.join(map(repr, dataset.column_names))} and none of "
        f"{', '.join(map(repr, candidates))}: give --local-path or --revision with a copy that has it"
    )


def _from_hub(entry: HubSet, revision: str | None) -> Mapping[str, "Dataset"]:
    from datasets import load_dataset
    from huggingface_hub import HfApi

    try:
        if revision is not None and not _COMMIT.fullmatch(revision):
            revision = HfApi().dataset_info(entry.hub, revision=revision).sha
        found = load_dataset(entry.hub, entry.config, data_files=dict(entry.files) or None, revision=revision)
    # Whatever datasets, huggingface_hub, httpx or pyarrow raise is for the user the same event.
    except Exception as error:
        raise ValueError(_hub_trouble(entry, revision, error)) from error
    # Without internet datasets takes what it has, whatever revision was asked for.
    if revision is not None and _commits(found) - {revision}:
        raise ValueError(
            f"--revision {revision} of {entry.hub} is not in the hub's cache, and the hub cannot be reached: "
            "leave --revision out to take the one that is, or give --local-path"
        )
    return found


def _hub_trouble(entry: HubSet, revision: str | None, error: Exception) -> str:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError) or "is a gated dataset" in f"{error}":
        return (
            f"{entry.hub} is gated on the hub: accept its terms on https://huggingface.co/datasets/{entry.hub}, "
            "log in with `hf auth login` (or set HF_TOKEN), and try again"
        )
    if isinstance(error, RevisionNotFoundError) or isinstance(error.__cause__, RevisionNotFoundError):
        return f"--revision {revision} is no branch, tag or commit of {entry.hub}: give another, or leave it out"
    if isinstance(error, DatasetNotFoundError | RepositoryNotFoundError):
        return f"the hub has no {entry.hub} that you may read: log in with `hf auth login`, or give --local-path"
    return (
        f"{entry.hub} could not be fetched from the hub ({_cause(error)}): run `hf download --repo-type dataset "
        f"{entry.hub} --local-dir DIR` (formerly huggingface-cli) where there is internet and give --local-path DIR, "
        "or set HF_ENDPOINT to a mirror"
    )


def _from_disk(entry: HubSet, path: Path, cache: str) -> Mapping[str, "Dataset"]:
    from datasets import DatasetDict, load_dataset, load_from_disk

    if not path.exists():
        raise ValueError(f"--local-path {path} does not exist: name a file or folder that holds {entry.name}")
    try:
        if path.is_file():
            reader = _READERS.get(path.suffix.lower())
            if reader is None:
                raise ValueError(f"give one of {', '.join(_READERS)}, or a folder")
            return load_dataset(reader, data_files={_split_of(entry, path): str(path)}, cache_dir=cache)
        path = _snapshot(path)
        if (path / "dataset_dict.json").is_file():
            return load_from_disk(str(path))
        if (path / "state.json").is_file():
            return DatasetDict({_split_of(entry, path): load_from_disk(str(path))})
        files = {split: name for split, name in entry.files.items() if (path / name).is_file()}
        if not files:
            _check_entries(path)
        return load_dataset(str(path), _config(entry, path), data_files=files or None, cache_dir=cache)
    except Exception as error:
        raise ValueError(f"--local-path {path} cannot be read as {entry.name}: {_cause(error)}") from error


def _snapshot(path: Path) -> Path:
    """The files inside the hub's cache folder datasets--OWNER--NAME; any other folder as it is."""
    snapshots = sorted((path / "snapshots").glob("*/")) if (path / "snapshots").is_dir() else []
    if not snapshots:
        return path
    main = path / "refs" / "main"
    named = path / "snapshots" / main.read_text().strip() if main.is_file() else None
    if named is not None and named.is_dir():
        return named
    if len(snapshots) > 1:
        raise ValueError(f"it holds {len(snapshots)} revisions: name one of the folders in {path / 'snapshots'}")
    return snapshots[0]


def _check_entries(path: Path) -> None:
    """Raises ValueError for a folder such as a home: datasets would walk the whole of it, for minutes."""
    count = 0
    for _, folders, files in os.walk(path):
        count += len(folders) + len(files)
        if count > _MOST_ENTRIES:
            raise ValueError(f"it holds more than {_MOST_ENTRIES} files and folders: name the set's own folder or file")


def _commit_of(path: Path) -> str | None:
    """The commit of a copy, which the hub's cache has as a folder's name and `hf download` in a file of its own."""
    notes = sorted((path / ".cache" / "huggingface" / "download").rglob("*.metadata")) if path.is_dir() else []
    names = {note.read_text().partition("\n")[0] for note in notes} or {_snapshot(path).name}
    commits = [name for name in names if _COMMIT.fullmatch(name)]
    return commits[0] if len(commits) == len(names) == 1 else None


def _config(entry: HubSet, path: Path) -> str | None:
    """The hub's configuration, where the folder knows it: a copy of some of the files does not."""
    from datasets import get_dataset_config_names

    if entry.config is None:
        return None
    names = get_dataset_config_names(str(path))
    return entry.config if entry.config in names else None


def _split_of(entry: HubSet, path: Path) -> str:
    """Which split a single file or table is: the only one that the set has, else the one that its name says."""
    if len(entry.splits) == 1:
        return next(iter(entry.splits.values()))
    said = [split for split in entry.splits if re.search(rf"(?<![a-z]){split}(?![a-z])", path.stem.lower())]
    if len(said) != 1:
        raise ValueError(f"{entry.name} has the splits {' and '.join(entry.splits)}: put one of these into its name")
    return entry.splits[said[0]]


def _ours(entry: HubSet, found: Mapping[str, "Dataset"], where: str, *, partly: bool) -> dict[str, "Dataset"]:
    """Our splits among those found. The only split of a local copy is that of a set with one, whatever its name."""
    splits = {}
    for ours, theirs in entry.splits.items():
        if theirs in found:
            splits[ours] = found[theirs]
        elif partly and len(found) == len(entry.splits) == 1:
            splits[ours] = next(iter(found.values()))
    missing = [theirs for ours, theirs in entry.splits.items() if ours not in splits]
    if not splits or (missing and not partly):
        raise ValueError(
            f"{where} has the splits {', '.join(map(repr, found))} and no {' or '.join(map(repr, missing))}, which "
            f"{entry.name} needs: give another {'folder or file' if partly else '--revision, or --local-path'}"
        )
    return splits


def _origin(entry: HubSet, found: Mapping[str, "Dataset"], revision: str | None) -> dict[str, Any]:
    """Where the rows came from."""
    commits = sorted(_commits(found))
    return {
        "hub": entry.hub,
        "config": entry.config,
        "revision": revision,
        "commit": commits[0] if len(commits) == 1 else None,
    }


def _commits(found: Mapping[str, "Dataset"]) -> set[str]:
    """The commits of what came from the hub: datasets names the folders of its cache by them."""
    files = [Path(file["filename"]) for dataset in found.values() for file in dataset.cache_files]
    return {file.parent.name for file in files if _COMMIT.fullmatch(file.parent.name)}


def _cause(error: BaseException) -> str:
    """The first line of what lies at the bottom of an error: datasets wraps the cause in a general sentence."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, StopIteration) or "corresponds to no data" in str(error):  # datasets' words for no row
        return "it has no rows"
    lines = str(error).strip().splitlines()
    return f"{lines[0]:.300}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """A bar for each local file would be noise; one for a download is not. And what datasets logs of a file that it
    cannot read, it raises too, so that our one sentence says it."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    before = are_progress_bars_disabled()
    disable_progress_bars()
    with contextlib.ExitStack() as stack:
        if not before:
            stack.callback(enable_progress_bars)
        stack.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity(logging.CRITICAL)
        yield
