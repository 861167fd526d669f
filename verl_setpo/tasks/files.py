"""Write a folder whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(out: Path, *, record: str, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `out`, which becomes `out` by one rename when the block ends well.

    When the block raises, or the process is stopped, `out` is as it was before. A process that is killed outright
    leaves its temporary folder, .NAME.PID.partial, which may be deleted.

    Args:
        out: the folder to make. Its parents are made too.
        record: a file that each folder of this kind holds. `overwrite` replaces a folder only if it has that file,
            so that a mistyped --out never deletes anything else.
        overwrite: replace an earlier folder of the same kind.

    Raises ValueError when `out` is a file, or a folder that is not empty and may not be replaced.
    """
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a folder")
    if out.exists() and any(out.iterdir()):
        if not (out / record).is_file():
            raise ValueError(
                f"--out {out} is not empty and has no {record}, so --overwrite will not replace it: name a new folder"
            )
        if not overwrite:
            raise ValueError(f"--out {out} is not empty: name a new folder, or add --overwrite to replace it")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    retired = out.with_name(f".{out.name}.{os.getpid()}.old")
    partial.mkdir(parents=True)
    try:
        yield partial
        if overwrite and out.exists():
            out.rename(retired)
        partial.rename(out)
    except BaseException:
        if retired.exists() and not out.exists():
            retired.rename(out)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)
