"""Trainings whose servers misbehave by plan: the run, its record, and what holds after each fault."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.signals.fake_server import fails, hangs

SIGNAL = "algorithm.set_rl.signal."
REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = REPOSITORY / "recipes" / "cpu" / "run_tiny_fsdp.sh"
KEY = "sk-canary-9d41c7e2b6"
"""Must not be found again in anything that a run writes."""
LIMIT_SECONDS = 1500
PROMPTS, ROLLOUTS = 8, 8
TOLERANCE_S = 2.0
"""What a step's wait may take beyond `wait_s`, on a busy machine."""

FOR_EVER = hangs(600)
BROKEN = fails(500, f"no answer for Bearer {KEY}")


class Training:
    """A run of the recipe in a session of its own, started at once; of a finished one, its record."""

    def __init__(self, inputs: Path, folder: Path, method: str, steps: int, *overrides: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.status, self.seconds, self.ray_logs = folder, -1, 0.0, ""
        # Short: the names of Ray's sockets hold it.
        self.ray_folder = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))
        environment = {
            **os.environ,
            "METHOD": method,
            "DATA_DIR": str(inputs / "data"),
            "MODEL_PATH": str(inputs / "model"),
            "RUN_DIR": str(folder),
            "STEPS": str(steps),
            "TRAIN_BATCH_SIZE": str(PROMPTS),
            "LR": "1e-5",  # answers stay as different as they are: no two groups are the same
            "VAL_N": "1",
            "TEST_FREQ": "1000",
            "PYTHON": sys.executable,
            "RAY_TMPDIR": str(self.ray_folder),
            "CANARY_KEY": KEY,
        }
        always = [
            "trainer.val_before_train=False",
            f"algorithm.set_rl.rollout_log={folder / 'rollouts'}",
            f"+{SIGNAL}api_key_env=CANARY_KEY",
        ]
        self.started = time.time()
        with open(folder / "train.log", "w") as output:
            self.process = subprocess.Popen(
                [str(RECIPE), *always, *overrides],
                env=environment,
                cwd=REPOSITORY,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        try:
            self.status = self.process.wait(timeout=LIMIT_SECONDS)
            self.seconds = (self.folder / "train.log").stat().st_mtime - self.started
            files = [path for path in sorted(self.ray_folder.rglob("logs/**/*")) if path.is_file()]
            self.ray_logs = "\n".join(path.read_text(errors="replace") for path in files)
        finally:
            self.end()

    def end(self) -> None:
        """Nothing of it is left: no process, and none of Ray's files."""
        subprocess.run(["pkill", "-KILL", "--session", str(self.process.pid)], check=False)
        self.process.wait()
        shutil.rmtree(self.ray_folder, ignore_errors=True)

    @property
    def log(self) -> str:
        return (self.folder / "train.log").read_text(errors="replace")

    @property
    def metrics(self) -> dict[int, dict[str, float]]:
        path = self.folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return {line["step"]: line["data"] for line in lines}

    def rows(self, step: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "rollouts" / f"{step}.jsonl").read_text().splitlines()]

    def groups(self, step: int) -> list[list[dict[str, Any]]]:
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows(step):
            groups[row["uid"]].append(row)
        return list(groups.values())

    def figures(self, step: int, signal: str) -> dict[str, float]:
        """Those of the signal, by their short names."""
        prefix = f"set_rl/{signal}/"
        return {name.removeprefix(prefix): v for name, v in self.metrics[step].items() if name.startswith(prefix)}

    def kill_store_actor(self) -> None:
        """Of the processes of this run only: they are in its session."""
        listed = subprocess.run(
            ["ps", "-s", str(self.process.pid), "-o", "pid=,args="], capture_output=True, text=True, check=True
        )
        found = [line.split()[0] for line in listed.stdout.splitlines() if "ray::ShardActor" in line]
        assert found, listed.stdout
        subprocess.run(["kill", "-9", *found], check=True)


def step_of(folder: Path) -> int:
    """The step that a run is in; 0 before the first. verl writes the line of a step before it starts the next."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") + 1 if path.exists() else 0


def train(inputs: Path, folder: Path, method: str, steps: int, *overrides: str) -> Training:
    run = Training(inputs, folder, method, steps, *overrides)
    run.wait()
    return run


def signal_keys(name: str, url: str, model: str, **keys: Any) -> list[str]:
    more = {"base_url": url, "model": model, **keys}
    return [f"{SIGNAL}name={name}", *(f"+{SIGNAL}{key}={value}" for key, value in more.items())]


@dataclass
class Record:
    """A finished training, and the steps of each of its faults."""

    run: Training
    signal: str
    steps: dict[str, list[int]]
    last: int

    def of(self, fault: str) -> list[dict[str, float]]:
        """The figures of the signal in the steps of a fault."""
        return [self.run.figures(step, self.signal) for step in self.steps[fault]]

    def failed(self, step: int) -> float:
        return self.run.metrics[step]["set_rl/signal_failed_groups"]

    def warned(self, step: int, kind: str) -> int:
        """Groups of which the run's output says that they failed for this reason."""
        line = (
            rf"step {step}: (\d+) prompts have no signal from {self.signal} and train on their base advantage: {kind}:"
        )
        return sum(int(count) for count in re.findall(line, self.run.log))

    def is_clean(self, step: int) -> bool:
        return self.failed(step) == 0 and self.run.figures(step, self.signal)["groups"] == PROMPTS


def planned(faults: Sequence[tuple[str, int, Any]]) -> tuple[dict[int, Any], dict[str, list[int]], int]:
    """Faults by step, steps by fault, and the step after all: step 1 and one step after each fault are clean."""
    plan: dict[int, Any] = {}
    steps: dict[str, list[int]] = {}
    step = 2
    for name, count, fault in faults:
        steps[name] = list(range(step, step + count))
        plan |= dict.fromkeys(steps[name], fault)
        step += count + 1
    return plan, steps, step


def check_goes_on(record: Record, fault: str) -> None:
    """The fault's steps are there, and the one after them is clean."""
    assert set(record.steps[fault]) <= set(record.run.metrics), record.run.log[-6000:]
    assert record.is_clean(record.steps[fault][-1] + 1)


def everything_written(run: Training) -> str:
    texts = [path.read_text(errors="replace") for path in run.folder.rglob("*") if path.is_file()]
    return "\n".join([*texts, run.ray_logs])


def check_key_is_nowhere(run: Training) -> None:
    written = everything_written(run)
    assert "CANARY_KEY" in written
    assert "***" in written
    assert len(run.ray_logs) > 1000
    assert KEY not in written
