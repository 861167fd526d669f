"""Grading by a reward function, beside generation, with a hard limit on the time of each response.

The function runs in processes of its own: whatever a response makes it do, loop for ever or crash, costs that response
its score and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from verl_setpo.evaluate.grader import OWN
from verl_setpo.evaluation.text import printable

START_S = 120.0
WORKERS = 2


@dataclass(frozen=True)
class Reward:
    """A reward function by verl's path and name. timeout_s: for one response, in seconds."""

    path: str = OWN[0]
    name: str = OWN[1]
    kwargs: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 60.0

    @property
    def is_own(self) -> bool:
        return (self.path, self.name) == OWN


def parse_reward(text: str | None, kwargs: dict[str, Any], timeout_s: float) -> Reward:
    """`path:name`, the path as verl's reward.custom_reward_function.path: a file, or pkg://package.module.

    Raises:
        ValueError: it has no name.
    """
    if text is None:
        return Reward(kwargs=kwargs, timeout_s=timeout_s)
    path, mark, name = text.rpartition(":")
    if not mark or not path or not name.isidentifier():
        raise ValueError(
            f"--reward {printable(text)} is not path:name: give my_reward.py:compute_score or "
            "pkg://package.module:compute_score"
        )
    return Reward(path, name, kwargs, timeout_s)


class RewardError(ValueError):
    """The reward function cannot be used; the message is one sentence for the user."""


class Graders:
    """Processes that grade for this one, in the order in which responses come. A context manager.

    errors: the first error a function raised, by how often any was raised; `failed` counts responses without a verdict.
    """

    def __init__(self, reward: Reward, workers: int = WORKERS) -> None:
        self.reward = reward
        self.failed = 0
        self.first_error: str | None = None
        self._lock = threading.Lock()
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        self._processes = [_Process(reward) for _ in range(workers)]
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grading")

    def __enter__(self) -> Graders:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()

    def submit(self, response: dict[str, Any]) -> Future[dict[str, Any]]:
        """Grade a response (data_source, output, gts, extra_info): its future gives score, reward, acc, pred, ...

        A response without a verdict scores 0 with `grader_failed` 1. The future raises RewardError where the function
        cannot be loaded.
        """
        return self._threads.submit(self._grade, response)

    def check(self, response: dict[str, Any]) -> str | None:
        """Why this response cannot be graded, None if it can. Raises RewardError where no function is loaded."""
        process = self._idle.get()
        try:
            return process.ask(response).get("error")
        finally:
            self._idle.put(process)

    def load(self) -> None:
        """Load the function now. Raises RewardError where that fails."""
        process = self._idle.get()
        try:
            process.start()
        finally:
            self._idle.put(process)

    def _grade(self, response: dict[str, Any]) -> dict[str, Any]:
        process = self._idle.get()
        try:
            answer = process.ask(response)
        finally:
            self._idle.put(process)
        if "graded" in answer:
            graded = answer["graded"]
            if graded.get("grader_failed"):
                with self._lock:
                    self.failed += 1
            return graded
        with self._lock:
            self.failed += 1
            self.first_error = self.first_error or answer["error"]
        return {"score": 0.0, "reward": 0.0, "acc": 0.0, "pred": "", "grader_failed": 1.0}


class _Process:
    """At most one grader process, started by its first response and again after each kill. For one thread at a time."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def ask(self, response: dict[str, Any]) -> dict[str, Any]:
        """{"graded": ...} or {"error": ...}. Raises RewardError where the function cannot be loaded."""
        self.start()
        answer = self._exchange(response, self.reward.timeout_s)
        if answer is None:
            self._kill()
            return {"error": f"no verdict after {self.reward.timeout_s:g} s, or the process that grades died"}
        return answer

    def kill(self) -> None:
        """End the process for good; a thread that waits for it gets an error."""
        self._closed = True
        if self._process is not None:
            _kill_session(self._process)

    def start(self) -> None:
        """Start the process, unless it runs. Raises RewardError where the function cannot be loaded."""
        if self._process is not None:
            return
        if self._closed:
            raise RewardError("grading has ended")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "verl_setpo.evaluate.grader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the parent's to handle, and its own children end with it
        )
        reward = self.reward
        kwargs = {"workers": 1, **reward.kwargs} if reward.is_own else reward.kwargs
        settings = {"path": reward.path, "name": reward.name, "kwargs": kwargs, "timeout_s": reward.timeout_s}
        answer = self._exchange(settings, START_S)
        if answer is None or "error" in answer:
            self._kill()
            cause = f"is not loaded after {START_S:.0f} s" if answer is None else f"cannot be loaded: {answer['error']}"
            raise RewardError(f"The reward function {printable(reward.path)}:{reward.name} {printable(cause)}")

    def _exchange(self, message: dict[str, Any], limit_s: float) -> dict[str, Any] | None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert isinstance(process.stdout, io.BufferedReader)
        deadline = time.monotonic() + limit_s
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            line = b""
            while not line.endswith(b"\n"):
                ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
                block = process.stdout.read1(1 << 16) if ready else b""
                if not block:
                    return None
                line += block
        except OSError:  # it died
            return None
        return json.loads(line)

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _kill_session(process)
            process.wait()


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """With the processes that the reward function has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
