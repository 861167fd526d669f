"""Commands with many processes, which all end with them, and at the latest with this one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_live: set[int] = set()


def run(
    words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, limit_s: float | None = None
) -> None:
    """Run a command in a session of its own, with its output in `log`.

    Raises RuntimeError with the end of the log where it fails, or takes more than `limit_s` seconds.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        _live.add(process.pid)
        try:
            status = process.wait(limit_s)
            how = f"ended with status {status}"
        except subprocess.TimeoutExpired:
            status, how = -1, f"took more than {limit_s:g} s"
        finally:
            _end(process.pid)
            _live.discard(process.pid)
    if status:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-3:]
        raise RuntimeError(f"{Path(words[0]).name} {how}, see {log}: {' / '.join(last)}")


def end_all() -> None:
    """End what runs in other threads."""
    for leader in list(_live):
        _end(leader)


def _end(leader: int) -> None:
    """Ray and vLLM leave children behind: end what is left of a session, and nothing else."""
    for number, wait in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 0.0)):
        left = [int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and _session(int(pid)) == leader]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if left:
            time.sleep(wait)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None
