"""One worker process as the one who asks sees it: started when needed, ended when it takes too long.

Neither multiprocessing nor a pool of processes on top of it: both import the main module of the parent into the child,
which in a Ray worker is Ray.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from enum import Enum
from multiprocessing import Pipe
from multiprocessing.connection import Connection

MAX_QUESTIONS = 20_000
"""A worker is replaced after so many: the parser behind math-verify keeps what it has learnt, and grows."""


class Verdict(Enum):
    """What came of a question. The first four are the worker's answers, the others say why there is none."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"
    RAISED = "raised"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    UNASKED = "no time left"


class StartError(RuntimeError):
    """The worker process does not start, so that no answer can be compared."""


class Worker:
    """At most one process, started by the first question and again after each end. For one thread at a time.

    In a forked copy of the process that started it, it starts another one and leaves the first alone.
    """

    def __init__(self, module: str = "verl_setpo.equivalence.worker") -> None:
        """module: what runs in the process; it calls `verl_setpo.equivalence.worker.serve`."""
        self.module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection | None = None
        self._owner = 0
        self._ready = False
        self._asked = 0

    @property
    def pid(self) -> int | None:
        """The process id, None while there is no process."""
        return None if self._process is None else self._process.pid

    def ask(self, one: str, other: str, limit_s: float, deadline: float, *, gold_first: bool = False) -> Verdict:
        """Whether two answers are equal; with one == other, whether that answer can be compared (EQUAL).

        gold_first: `one` is the truth and `other` is to be graded, which is a narrower question.
        Returns within `limit_s` seconds after the process has started, and before `deadline` (`time.monotonic`); a
        process that does not answer in time is killed. Raises StartError when it does not start.
        """
        channel = self._started(deadline)
        wait_s = min(limit_s, deadline - time.monotonic())
        if channel is None or wait_s <= 0:
            return Verdict.UNASKED
        self._asked += 1
        try:
            question = {"one": one, "other": other, "gold_first": gold_first, "limit_s": limit_s}
            channel.send_bytes(json.dumps(question).encode())
            if channel.poll(wait_s):
                return Verdict(json.loads(channel.recv_bytes())["verdict"])
        except (EOFError, OSError):
            self.kill()
            return Verdict.CRASHED
        self.kill()
        return Verdict.TIMED_OUT if wait_s == limit_s else Verdict.UNASKED

    def start(self, deadline: float) -> bool:
        """Start the process, if there is none, and wait for it; False when it is not ready by `deadline`.

        Raises StartError when it does not start.
        """
        return self._started(deadline) is not None

    def kill(self) -> None:
        """End the process, if there is one, and wait for its end."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
        self._process = self._channel = None
        self._ready, self._asked = False, 0

    def _started(self, deadline: float) -> Connection | None:
        """The connection to a process that is ready; None when it is not by `deadline`, but may be later."""
        if self._process is not None and self._owner != os.getpid():
            self.kill()
        # One that ended between two questions says nothing about the next answer.
        if self._process is not None and self._ready and (self._process.poll() is not None or self._worn_out()):
            self.kill()
        if self._process is None:
            if time.monotonic() >= deadline:
                return None
            self._start()
        assert self._channel is not None
        if not self._ready:
            try:
                if not self._channel.poll(max(0.0, deadline - time.monotonic())):
                    return None
                reply = json.loads(self._channel.recv_bytes())
            except (EOFError, OSError):
                reply = {"cause": "it ended at once"}
            if reply.get("verdict") != "ready":
                self.kill()
                raise StartError(f"the process that runs math-verify does not start: {reply['cause']}")
            self._ready = True
        return self._channel

    def _worn_out(self) -> bool:
        return self._asked >= MAX_QUESTIONS

    def _start(self) -> None:
        self._owner = os.getpid()
        self._channel, its_end = Pipe()
        with its_end:
            fd = its_end.fileno()
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", self.module, str(fd), str(os.getpid())],
                    # Ray and launch scripts extend sys.path while they run.
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                    pass_fds=(fd,),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except OSError as error:
                raise StartError(f"the process that runs math-verify does not start: {error}") from error
