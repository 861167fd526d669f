"""What an LLM judge costs a training step: asked while rollouts generate (this package), or after them, one by one.

Trains an untrained model through verl's own entrypoint on the CPU. In one run every second step has a judge that takes
--judge-seconds a call and the others have none, so that neighbours can be compared however the machine drifts; another
run is plain GRPO, a third asks the judge afterwards. The judge is a stand-in that sleeps and puts equal responses into
one cluster: only its time matters here. Needs an idle machine.
    python scripts/bench_overlap.py --out runs/bench_overlap.json --figure docs/bench_overlap.png
"""

from __future__ import annotations

import asyncio
import json
import os
import random
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
from processes import run

from verl_setpo.signals import AnswerClusters, JudgeSignal, Rollout, Signal, SignalBatch, register_signal
from verl_setpo.signals.judge import Judge, JudgeSettings

REPOSITORY = Path(__file__).resolve().parent.parent
PROMPTS, ROLLOUTS = 16, 8
FIRST = 2
"""Steps left out at the start of each run: things are loaded and compiled."""
WAIT = "set_rl/judge_every_other/collect_wait_s"
PARTS = ("gen", "old_log_prob", "adv", "update_actor")


@register_signal("judge_every_other")
class JudgeEveryOther(JudgeSignal):
    """The judge in every second step, equal answers in the others. With one reward worker only, which counts."""

    def __init__(self, **keys: Any) -> None:
        super().__init__(**keys)
        self.submitted = self.collected = 0

    async def submit(self, rollout: Rollout, settle: bool = False) -> None:
        step, self.submitted = self.submitted // (PROMPTS * ROLLOUTS), self.submitted + 1
        if step % 2:
            await super().submit(rollout, settle)

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        step, self.collected = self.collected, self.collected + 1
        return super().collect(groups) if step % 2 else AnswerClusters().collect(groups)

    def metrics(self) -> dict[str, float]:
        return {} if self.collected % 2 else super().metrics()


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
    signal = {"every other": "judge_every_other", "afterwards": "judge_afterwards"}.get(method)
    keys = {"name": signal, "+base_url": judge_url, "+model": "judge"} if signal else {}
    overrides = [
        f"trainer.v1.trainer_mode={'set_' if signal else ''}{mode}",
        *(f"{'+' * key.startswith('+')}algorithm.set_rl.signal.{key.lstrip('+')}={keys[key]}" for key in keys),
        f"data.max_response_length={tokens}",
        f"actor_rollout_ref.rollout.max_model_len={tokens + 32}",
        # Fewer places than rollouts, as on a GPU: groups finish one after the other.
        "actor_rollout_ref.rollout.max_num_seqs=16",
        # The policy stays as it is, and so does the work of a step.
        "actor_rollout_ref.actor.optim.lr=0",
        "actor_rollout_ref.actor.optim.weight_decay=0",
        "trainer.val_before_train=False",
    ]
    environment = {
        **os.environ,
        "METHOD": "grpo" if method == "grpo" else "poly_epo",
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
    try:
        run([str(REPOSITORY / "recipes" / "cpu" / "run_tiny_fsdp.sh"), *overrides], folder / "train.log", environment)
    except RuntimeError as error:
        raise SystemExit(f"bench_overlap: {method}: {error}") from error
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["data"] for line in lines if line["step"] > FIRST]


def seconds(steps: Sequence[dict], name: str) -> list[float]:
    return [step.get(f"timing_s/{name}", 0.0) for step in steps]


def summarise(runs: dict[str, list[dict]]) -> dict[str, Any]:
    """Medians of each kind of step, and how much longer a step with the judge is than the one before it."""
    mixed = runs.get("every other", [])
    judged = [step for step in mixed if WAIT in step]
    kinds = {
        "grpo": runs.get("grpo", []),
        "without": [step for step in mixed if WAIT not in step],
        "overlapped": judged,
        "afterwards": runs.get("afterwards", []),
    }
    found: dict[str, Any] = {
        kind: {
            "steps": len(steps),
            "step_s": statistics.median(seconds(steps, "step")),
            "parts_s": {part: statistics.median(seconds(steps, part)) for part in PARTS},
        }
        for kind, steps in kinds.items()
        if steps
    }
    if judged:
        with_, without = (seconds(kinds[kind], "step") for kind in ("overlapped", "without"))
        ratios = [one / other for one, other in zip(with_, without, strict=True)]
        found["overlapped"] |= {
            "paired_ratio": statistics.median(ratios),
            "paired_ratio_95": interval(ratios),
            "collect_wait_s": statistics.median(step[WAIT] for step in judged),
            "longest_collect_wait_s": max(step[WAIT] for step in judged),
            "ready": statistics.mean(step["set_rl/judge_every_other/ready"] for step in judged),
        }
    return found


def interval(values: Sequence[float], draws: int = 2000) -> list[float]:
    """95 % of bootstrapped medians."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return [medians[int(0.025 * draws)], medians[int(0.975 * draws)]]


def draw(figures: dict[str, Any], path: Path) -> None:
    """Where the seconds of a median step go, a bar for each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {
        "grpo": "GRPO, no judge",
        "without": "Poly-EPO, no judge",
        "overlapped": "Poly-EPO, judge while rollouts generate",
        "afterwards": "Poly-EPO, judge after them, one by one",
    }
    labels = {
        "gen": "generation",
        "old_log_prob": "log probs",
        "adv": "advantage, with the wait for the judge",
        "update_actor": "update",
    }
    methods = [method for method in names if method in figures["kinds"]]
    chart, axes = pyplot.subplots(figsize=(9, 1.2 + 0.5 * len(methods)), layout="constrained")
    left = [0.0] * len(methods)
    for part in PARTS:
        widths = [figures["kinds"][method]["parts_s"][part] for method in methods]
        axes.barh([names[m] for m in methods], widths, left=left, label=labels[part])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds of a step; the judge takes {figures['judge_seconds']:g} s a call")
    chart.legend(loc="outside upper center", ncols=len(PARTS), fontsize="small")
    chart.savefig(path, dpi=150)


def main(
    out: Annotated[Path | None, typer.Option(help="Write the figures here, as JSON.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw them here, as PNG.")] = None,
    pairs: Annotated[int, typer.Option(help="Steps with the judge, and as many without.")] = 20,
    grpo_steps: Annotated[int, typer.Option(help="Steps of plain GRPO; 0: leave it out.")] = 10,
    afterwards_steps: Annotated[int, typer.Option(help="Steps of the judge after the rollouts; 0: leave it out.")] = 2,
    judge_seconds: Annotated[float, typer.Option(help="What the judge takes for a call.")] = 2.0,
    mode: Annotated[str, typer.Option(help="verl's trainer: sync or colocate_async.")] = "sync",
    tokens: Annotated[int, typer.Option(help="Longest response.")] = 256,
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
        for method, count in (("every other", 2 * pairs), ("grpo", grpo_steps), ("afterwards", afterwards_steps)):
            if count:
                folder = work_dir / f"{mode}-{method.replace(' ', '-')}"
                (folder / "metrics.jsonl").unlink(missing_ok=True)
                runs[method] = train(folder, work_dir, method, mode, count, tokens, url)
                print(f"{mode}, {method}: median {statistics.median(seconds(runs[method], 'step')):.3f} s", flush=True)
    figures = {
        "mode": mode,
        "judge_seconds": judge_seconds,
        "prompts": PROMPTS,
        "rollouts": ROLLOUTS,
        "tokens": tokens,
        "kinds": summarise(runs),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")
    if figure:
        draw(figures, figure)


if __name__ == "__main__":
    typer.run(main)
