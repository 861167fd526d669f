"""What each method costs a training step: rounds of short trainings through verl's own entrypoint, on the CPU.

A round trains every method once, GRPO among them, in an order that moves on from round to round, so that a machine that
drifts does so for all. The learning rate is 0: all draw from the same policy, so that none pays for longer responses.
Two figures come of it: seconds a step beside those
of GRPO in the same round, which carry the noise of generation, and the phase in which methods differ (verl's
timing_s/adv), whose difference from GRPO's is small but steady. Needs an idle machine.
    python scripts/bench_step.py --rounds 8 --out docs/bench_step.json
"""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Annotated

import typer
from processes import run
from reproduction.results import Estimate, estimate
from reproduction.tables import table
from reproduction.train import RECIPE

METHODS = {
    "grpo": ("GRPO", {"METHOD": "grpo"}),
    "set_loo": ("SetPO, n-gram kernel", {"METHOD": "set_loo", "SIGNAL": "ngram"}),
    "set_loo_answer": ("SetPO, answer clusters", {"METHOD": "set_loo"}),
    "poly_epo": ("Poly-EPO, answer clusters", {"METHOD": "poly_epo"}),
}
FIRST = 5
"""Steps left out at the start of each training: things are loaded and compiled."""


def main(
    rounds: Annotated[int, typer.Option(min=3, help="A multiple of 4 gives each method each place in the order.")] = 8,
    steps: Annotated[int, typer.Option(min=FIRST + 5, help="Steps of each training.")] = 40,
    rollouts: Annotated[int, typer.Option(min=5, help="Rollouts of each of 16 prompts.")] = 8,
    work_dir: Annotated[Path, typer.Option(help="Data, model and logs.")] = Path("runs/bench_step"),
    out: Annotated[Path, typer.Option(help="Where the seconds of every step go, as JSON.")] = Path(
        "runs/bench_step.json"
    ),
) -> None:
    """Measure, write the seconds of every step, and print a table."""
    work_dir = work_dir.resolve()
    if not (work_dir / "model" / "config.json").is_file():
        data = ["verl-setpo", "data"]
        run([*data, "polynomial", "--out", str(work_dir / "data")], work_dir / "data.log")
        tiny = [
            "tiny-model",
            "--task",
            "polynomial",
            "--data",
            str(work_dir / "data"),
            "--out",
            str(work_dir / "model"),
        ]
        run([*data, *tiny], work_dir / "model.log")
    seconds: dict[str, dict[str, list[list[float]]]] = {name: {"step": [], "adv": []} for name in METHODS}
    names = list(METHODS)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for phase, values in train(name, number, steps, rollouts, work_dir).items():
                seconds[name][phase].append(values)
        typer.echo(f"round {number + 1} of {rounds}")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"first": FIRST, "rollouts": rollouts, "seconds": seconds}) + "\n")
    typer.echo(show(seconds))


def train(name: str, seed: int, steps: int, rollouts: int, work_dir: Path) -> dict[str, list[float]]:
    """Seconds of each step, and of its phase of advantages."""
    folder = work_dir / name
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    environment = {
        **os.environ,
        "RAY_ADDRESS": "local",
        "TASK": "polynomial",
        "DATA_DIR": str(work_dir / "data"),
        "MODEL_PATH": str(work_dir / "model"),
        "RUN_DIR": str(folder),
        "STEPS": str(steps),
        "SEED": str(seed),
        "ROLLOUT_N": str(rollouts),
        "TEST_FREQ": "-1",
        "LR": "0",
        **METHODS[name][1],
    }
    run([str(RECIPE), "trainer.val_before_train=False"], folder / "train.log", environment)
    rows = [json.loads(line)["data"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "timing_s/step" in row][FIRST:]
    return {phase: [row[f"timing_s/{phase}"] for row in rows] for phase in ("step", "adv")}


def show(seconds: dict[str, dict[str, list[list[float]]]]) -> str:
    """Of each training the median step and the median phase of advantages: now and then the phase takes 0.5 s more,
    under GRPO too. Differences from GRPO are of the same round, as a share of its step.
    """
    typical = {
        name: {phase: [statistics.median(one) for one in of[phase]] for phase in ("step", "adv")}
        for name, of in seconds.items()
    }
    grpo, rows = typical["grpo"], []
    for name, (label, _) in METHODS.items():
        ours = typical[name]
        cells = [f"{statistics.mean(ours['step']):.3f}", f"{1000 * statistics.mean(ours['adv']):.1f}"]
        for phase in ("step", "adv"):
            pairs = zip(ours[phase], grpo[phase], grpo["step"], strict=True)
            more = estimate([(one - other) / step for one, other, step in pairs])
            cells.append("" if name == "grpo" else _percent(more))
        rows.append([label, *cells])
    head = ["", "s a step", "ms of advantages", "step beside GRPO's", "advantages beside GRPO's, of its step"]
    return table(head, rows)


def _percent(value: Estimate) -> str:
    return f"{100 * value.mean:+.1f} % ({100 * (value.low or 0):+.1f} to {100 * (value.high or 0):+.1f})"


if __name__ == "__main__":
    typer.run(main)
