"""The engine's process as the one who starts it sees it: samples come out, and it never outlives its parent."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_setpo.evaluation.text import printable

END_S = 10.0
MODULE = "verl_setpo.evaluate.engine"


class EngineError(RuntimeError):
    """No samples came, or no more; the message is one sentence for the user."""


def check_vllm() -> None:
    """Raises ValueError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "vLLM, which generates the samples, is not installed: pip install 'verl-setpo[gpu]', or use "
            "scripts/install.sh where there is no GPU; `verl-setpo grade` does without."
        )


@contextlib.contextmanager
def engine(job: dict[str, Any], log: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """Run `verl_setpo.evaluate.engine`; yields its messages. The process and its children end with the block.

    Args:
        job: see there.
        log: takes what vLLM says.

    Raises:
        EngineError: while the messages are read: the engine refuses the job, or ends before it is done.
    """
    theirs: int | None
    mine, theirs = os.pipe()
    process = None
    try:
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches the parent alone, and all children of vLLM can be ended together.
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                start_new_session=True,
                env={**os.environ, "PYTHONSAFEPATH": "1"},  # no file of the working directory passes for a library
            )
        os.close(theirs)  # so that the pipe ends with the process
        theirs = None
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: its messages, none, will tell
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        with os.fdopen(os.dup(mine), "rb") as messages:
            yield _messages(messages, process, log)
    finally:
        os.close(mine)
        if theirs is not None:
            os.close(theirs)
        if process is not None:
            _end(process)


def _messages(lines: Iterator[bytes], process: subprocess.Popen[bytes], log: Path) -> Iterator[dict[str, Any]]:
    for line in lines:
        message = json.loads(line) if line.endswith(b"\n") else {}
        if "done" in message:
            return
        if "refused" in message:
            raise EngineError(printable(message["refused"]))
        if "error" in message:
            raise EngineError(f"{printable(message['error'])} (what vLLM said: {printable(log)})")
        if message:
            yield message
    status = process.wait()
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    cause = ", most often by the system for want of memory" if status == -signal.SIGKILL else ""
    raise EngineError(f"The process of vLLM {how}{cause}, before it was done: see {printable(log)}.")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all of its session."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # at which it ends itself
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
