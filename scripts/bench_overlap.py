"""What an LLM judge costs a training step: asked while rollouts generate (this package), or after them, one by one.

Trains an untrained model through verl's own entrypoint on the CPU, with plain GRPO and with Poly-EPO and a judge that
takes --judge-seconds a call, in turns, and compares their steps. The judge is a stand-in that sleeps and puts equal
responses into one cluster: only its time matters here. Needs an idle machine.
    python scripts/bench_overlap.py --out runs/bench_overlap.json --figure docs/bench_overlap.png
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from fastapi import FastAPI, Request

from verl_setpo.signals import Rollout, Signal, SignalBatch, register_signal
from verl_setpo.signals.judge import Judge, JudgeSettings

REPOSITORY = Path(__file__).resolve().parent.parent
PROMPTS, ROLLOUTS = 16, 8
FIRST = 2
"""Steps left out at the start of each run: things are loaded and compiled."""
PARTS = ("gen", "old_log_prob", "adv", "update_actor")


@register_signal("judge_afterwards")
class JudgeAfterwards(Signal):
    """The contrast: a judge that is asked when all rollouts are there, one prompt after the other."""

    provides = "clusters"
    needs_question = True

    def __init__(self, base_url: str, model: str) -> None:
        self.settings = JudgeSettings(base_url=base_url, model=model)

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        import torch

        async def judge_all() -> list[list[int]]:
            judge = Judge(self.settings)
            try:
                return [(await judge.cluster(g[0].question, [r.text() for r in g])).clusters for g in groups]
            finally:
                await judge.close()

        clusters_PN = torch.full((len(groups), max(map(len, groups))), -1)
        for p, clusters in enumerate(asyncio.run(judge_all())):
            clusters_PN[p, : len(clusters)] = torch.tensor(clusters)
        return SignalBatch(clusters_PN=clusters_PN)


@contextmanager
def stand_in_judge(seconds: float) -> Iterator[str]:
    """The URL of a server that answers each chat completion after `seconds`, many at a time."""
    app = FastAPI()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "judge", "object": "model", "created": 0, "owned_by": "bench"}]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> dict[str, Any]:
        body = await request.json()
        await asyncio.sleep(seconds)
        lines = body["messages"][-1]["content"].split("\n")
        shown = [json.loads(line) for line in lines if line.startswith('{"id"')]
        numbers: dict[str, int] = {}
        answer = {
            item["id"]: {"strategy": "a text", "cluster_id": numbers.setdefault(item["solution"], len(numbers) + 1)}
            for item in shown
        }
        message = {"role": "assistant", "content": json.dumps(answer)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}

    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    finally:
        server.should_exit = True


def make_inputs(folder: Path, width: int, layers: int) -> None:
    """Prompts, and a model that was never trained: its responses are long, and all that counts is their time."""
    from verl_setpo.tasks.tiny_model import build_model, build_tokenizer, save

    command = [sys.executable, "-m", "verl_setpo.cli", "data", "polynomial", "--out", str(folder / "data")]
    subprocess.run([*command, "--test-size", "8", "--overwrite"], check=True, stdout=subprocess.DEVNULL)
    tokenizer = build_tokenizer()
    (folder / "model").mkdir(exist_ok=True)
    save(build_model(tokenizer, width=width, layers=layers), tokenizer, folder / "model", {})


def train(folder: Path, inputs: Path, method: str, mode: str, steps: int, tokens: int, judge_url: str) -> list[dict]:
    """The metrics of each step of one run, without the first ones."""
    own = {"grpo": mode, "overlapped": f"set_{mode}", "afterwards": f"set_{mode}"}[method]
    judge = [
        f"algorithm.set_rl.signal.base_url={judge_url}",
        "algorithm.set_rl.signal.model=judge",
    ]
    signal = {
        "grpo": [],
        "overlapped": judge,
        "afterwards": ["algorithm.set_rl.signal.name=judge_afterwards", *("+" + key for key in judge)],
    }[method]
    overrides = [
        f"trainer.v1.trainer_mode={own}",
        *signal,
        f"data.max_response_length={tokens}",
        f"actor_rollout_ref.rollout.max_model_len={tokens + 32}",
        # Fewer places than rollouts, as on a GPU: groups finish one after the other.
        "actor_rollout_ref.rollout.max_num_seqs=32",
        # The policy stays as it is, and so does the work of a step.
        "actor_rollout_ref.actor.optim.lr=0",
        "actor_rollout_ref.actor.optim.weight_decay=0",
        "trainer.val_before_train=False",
    ]
    environment = {
        **os.environ,
        "METHOD": "grpo" if method == "grpo" else "poly_epo",
        "SIGNAL": "judge" if method == "overlapped" else "answer",
        "DATA_DIR": str(inputs / "data"),
        "MODEL_PATH": str(inputs / "model"),
        "RUN_DIR": str(folder),
        "STEPS": str(FIRST + steps),
        "TRAIN_BATCH_SIZE": str(PROMPTS),
        "ROLLOUT_N": str(ROLLOUTS),
        "TEST_FREQ": "-1",
        "PYTHON": sys.executable,
        # Ray's workers import this file for the signal above.
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "scripts"), os.environ.get("PYTHONPATH", "")]),
        "VERL_USE_EXTERNAL_MODULES": "bench_overlap",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "train.log", "w") as log:
        process = subprocess.Popen(
            [str(REPOSITORY / "recipes" / "cpu" / "run_tiny_fsdp.sh"), *overrides],
            env=environment,
            cwd=REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait()
        finally:
            subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)
    if status != 0:
        raise SystemExit(f"bench_overlap: {method} ended with status {status}, see {folder / 'train.log'}.")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["data"] for line in lines if line["step"] > FIRST]


def seconds(steps: Sequence[dict], name: str) -> list[float]:
    return [step.get(f"timing_s/{name}", 0.0) for step in steps]


def summarise(runs: dict[str, list[dict]]) -> dict[str, Any]:
    """Medians of each method, and of the ratios of its steps to plain GRPO's steps of the same number."""
    base = seconds(runs["grpo"], "step")
    found: dict[str, Any] = {}
    for method, steps in runs.items():
        step = seconds(steps, "step")
        ratios = [own / plain for own, plain in zip(step, base, strict=False)]
        found[method] = {
            "steps": len(step),
            "step_s": statistics.median(step),
            "parts_s": {part: statistics.median(seconds(steps, part)) for part in PARTS},
            "paired_ratio": statistics.median(ratios),
            "ratio_of_medians": statistics.median(step) / statistics.median(base[: len(step)]),
        }
        waits = [s["set_rl/judge/collect_wait_s"] for s in steps if "set_rl/judge/collect_wait_s" in s]
        if waits:
            found[method]["collect_wait_s"] = statistics.median(waits)
            found[method]["ready"] = statistics.median(s["set_rl/judge/ready"] for s in steps)
    return found


def draw(figures: dict[str, Any], path: Path) -> None:
    """Where the seconds of a median step go, a bar for each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {
        "grpo": "GRPO, no judge",
        "overlapped": "Poly-EPO, judge while rollouts generate",
        "afterwards": "Poly-EPO, judge after them, one by one",
    }
    labels = {
        "gen": "generation",
        "old_log_prob": "log probs",
        "adv": "advantage, with the wait for the judge",
        "update_actor": "update",
    }
    methods = [method for method in names if method in figures["methods"]]
    chart, axes = pyplot.subplots(figsize=(8, 0.9 + 0.6 * len(methods)))
    left = [0.0] * len(methods)
    for part in PARTS:
        widths = [figures["methods"][method]["parts_s"][part] for method in methods]
        axes.barh([names[m] for m in methods], widths, left=left, label=labels[part])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds of a step; the judge takes {figures['judge_seconds']:g} s a call")
    axes.legend(loc="lower right", fontsize="small")
    chart.tight_layout()
    chart.savefig(path, dpi=150)


def main(
    out: Annotated[Path | None, typer.Option(help="Write the figures here, as JSON.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw them here, as PNG.")] = None,
    steps: Annotated[int, typer.Option(help="Steps a run that count.")] = 10,
    rounds: Annotated[int, typer.Option(help="Runs of each method, in turns.")] = 2,
    afterwards_steps: Annotated[int, typer.Option(help="Steps of the judge after the rollouts; 0: leave it out.")] = 2,
    judge_seconds: Annotated[float, typer.Option(help="What the judge takes for a call.")] = 2.0,
    mode: Annotated[str, typer.Option(help="verl's trainer: sync or colocate_async.")] = "sync",
    tokens: Annotated[int, typer.Option(help="Longest response.")] = 384,
    width: Annotated[int, typer.Option(help="Of the model.")] = 192,
    layers: Annotated[int, typer.Option(help="Of the model.")] = 4,
    work_dir: Annotated[Path, typer.Option(help="For inputs, logs and metrics.")] = Path("runs/bench_overlap"),
) -> None:
    """Measure."""
    work_dir = work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    make_inputs(work_dir, width, layers)
    runs: dict[str, list[dict]] = {}
    with stand_in_judge(judge_seconds) as url:
        turns = [(method, steps, turn) for turn in range(rounds) for method in ("grpo", "overlapped")]
        turns += [("afterwards", afterwards_steps, 0)] if afterwards_steps else []
        for method, count, turn in turns:
            folder = work_dir / f"{mode}-{method}-{turn}"
            (folder / "metrics.jsonl").unlink(missing_ok=True)
            runs.setdefault(method, []).extend(train(folder, work_dir, method, mode, count, tokens, url))
            print(f"{mode}, {method}: median step {statistics.median(seconds(runs[method], 'step')):.3f} s", flush=True)
    figures = {
        "mode": mode,
        "judge_seconds": judge_seconds,
        "prompts": PROMPTS,
        "rollouts": ROLLOUTS,
        "tokens": tokens,
        "methods": summarise(runs),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")
    if figure:
        draw(figures, figure)


if __name__ == "__main__":
    typer.run(main)
