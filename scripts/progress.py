"""Shows a verl run as one line of progress, and keeps its whole output in a file.

    python -m verl.trainer.main_ppo ... 2>&1 | python scripts/progress.py --label grpo --steps 100 --log train.log

On a terminal the line moves; elsewhere a new line comes with every stage, every tenth step and every 20 seconds.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

STAGES = (
    ("Started a local Ray instance", "Ray is up, loading the trainer"),
    ("train and validate dataloader initialized", "data read, starting the actor"),
    ("actor and ref model engine initialized", "actor ready, starting vLLM"),
    ("all initialize finished", "vLLM ready, evaluating the starting model"),
    ("Training Progress:   0%", "training"),
)
FIGURES = (
    ("reward", r"critic/score/mean:([-\d.e]+)"),
    ("distinct correct", r"set_rl/correct_clusters_per_prompt/mean:([-\d.e]+)"),
    ("s/step", r"timing_s/step:([-\d.e]+)"),
)


def describe(line: str) -> str:
    """The figures of a step's line of metrics."""
    found = []
    for name, pattern in FIGURES:
        match = re.search(pattern, line)
        if match:
            found.append(f"{name} {float(match[1]):.2f}")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--log", required=True)
    arguments = parser.parse_args()

    console = Console()
    state = {"text": "starting", "step": 0}
    done = threading.Event()
    started = time.monotonic()

    def say() -> None:
        seconds = time.monotonic() - started
        step = f"step {state['step']}/{arguments.steps}, " if state["step"] else ""
        print(f"[{arguments.label}] {seconds:4.0f} s  {step}{state['text']}", flush=True)

    def heartbeat() -> None:
        while not done.wait(20):
            say()

    progress = Progress(
        SpinnerColumn(), TextColumn("{task.fields[label]:>9}"), BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TextColumn("{task.fields[text]}"),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    if not console.is_terminal:
        threading.Thread(target=heartbeat, daemon=True).start()
    with progress, open(arguments.log, "w", encoding="utf-8") as log:
        task = progress.add_task("", total=arguments.steps, label=arguments.label, text=state["text"])
        for line in sys.stdin:
            log.write(line)
            log.flush()
            match = re.search(r"step:(\d+) - ", line)
            stage = next((text for mark, text in STAGES if mark in line), None)
            if match:
                state["step"], state["text"] = int(match[1]), describe(line) or "evaluated"
            elif stage:
                state["text"] = stage
            else:
                continue
            progress.update(task, completed=state["step"], text=state["text"])
            if not console.is_terminal and (stage or state["step"] % 10 == 0):
                say()
    done.set()


if __name__ == "__main__":
    # A run's output may hold any bytes.
    sys.stdin.reconfigure(errors="replace")
    main()
