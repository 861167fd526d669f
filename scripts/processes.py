"""Commands with many processes, which all end with them, or when `end_all` is called."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_live: set[int] = set()
# How Python ends a traceback, in the driver and (as Ray prints it) in a worker.
_RAISED = re.compile(r"^[\w.]+(Error|Exception)(\(\w+\))?: ")


class CommandFailed(RuntimeError):
    """A command ended with another status than 0, or took too long: which, why, and where its log is."""


def run(
    words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, limit_s: float | None = None
) -> None:
    """Run a command in a session of its own, with its output in `log`.

    Raises CommandFailed with what the log says last where it fails, or takes more than `limit_s` seconds.
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
        raise CommandFailed(f"{Path(words[0]).name} {how}, see {log}: {_why(log.read_text(errors='replace'))}")


def _why(text: str) -> str:
    """The last exception of a log, or its last lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.match(line)]
    return " / ".join(line[:300] for line in raised[-1:] or lines[-3:])


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
