"""Runs for the tests of the page: files in the shapes that verl 0.9.1 and our rollout log write."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HOSTILE_TEXTS = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'><svg onload='window.hacked = 1'>",
    "<!--<script>--></pre></details><iframe srcdoc='<script>parent.hacked = 1</script>'>",
    "javascript:window.hacked=1 {{ 7 * 7 }} ${window.hacked = 1} {% raw %}",
    "\u202eright to left\u202c \u2066isolate \x00\x07\x1b[31mred\x1b[0m \x85 \u2028 \u2029 \ufeff \U000e0041",
    "half a pair \ud800 and \udfff, combining e" + "\u0301" * 500,
    "&lt;b&gt; &#60;script&#62; \\u003cscript\\u003e <b>bold</b> <a href='http://example.com'>link</a>",
)


def validation_row(
    problem: str, session: int, correct: bool, answer: str, output: str, uid: str | None = None
) -> dict[str, Any]:
    return {
        "input": f"system\nAnswer.\nuser\n{problem}\nassistant\n",
        "output": output,
        "gts": f"truth of {problem}",
        "score": float(correct),
        "step": 0,
        "reward": float(correct),
        "acc": correct,
        "pred": answer,
        "uid": f"{uid or problem}_{session}_0",
    }


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """ASCII JSON, so that half surrogates can be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def write_validation(
    run: Path, step: int, chance: Callable[[int], float], num_problems: int = 30, num_samples: int = 8, seed: int = 0
) -> None:
    """Problem i is answered right with a chance of chance(i), in three ways."""
    rng = random.Random(f"{run.name} {step} {seed}")
    rows = []
    for i in range(num_problems):
        for session in range(num_samples):
            correct = rng.random() < chance(i)
            answer = f"way {rng.randrange(3)} of {i}" if correct else "no"
            text = f"Let us see. Problem {i}, sample {session} of {run.name}.\nIt is \\boxed{{{answer}}}"
            rows.append(validation_row(f"problem {i}", session, correct, answer, text))
    write_lines(run / "validation" / f"{step}.jsonl", rows)


def write_metrics(run: Path, steps: int, ours: bool) -> None:
    rows = []
    for step in range(1, steps + 1):
        data = {"critic/score/mean": 0.3 + 0.5 * step / steps, "actor/entropy": 2.0 / step, "timing_s/step": 1.5}
        if ours:
            data |= {
                "set_rl/correct_clusters_per_prompt/mean": 2.5 - step / steps,
                "set_rl/prompts_with_correct": 0.9,
                "set_rl/credit_share": 0.2,
                "set_rl/zero_advantage_prompts": 0.1,
            }
        rows.append({"step": step, "data": data})
    write_lines(run / "metrics.jsonl", rows)


def write_rollouts(run: Path, step: int, texts: str | None = "texts", log: str | None = "log") -> None:
    """Four prompts of four rollouts, the first and second in one cluster; the folders as named, None for none."""
    text_rows, log_rows = [], []
    for p in range(4):
        for session in range(4):
            key = f"{run.name}-{step}-{p}_{session}_0"
            reward = float(session < 3)
            text_rows.append(
                {
                    "input": f"user\ntraining prompt {p} of step {step}\nassistant\n",
                    "output": f"A response of {run.name}, session {session}.\nSo it is \\boxed{{{session // 2}}}",
                    "gts": "0",
                    "score": reward,
                    "step": step,
                    "uid": key,
                }
            )
            log_rows.append(
                {
                    "step": step,
                    "uid": key.rsplit("_", 2)[0],
                    "session": session,
                    "key": key,
                    "prompt_index": p,
                    "answer": str(session // 2),
                    "length": 12,
                    "truncated": session == 3,
                    "reward": reward,
                    "cluster": session // 2,
                    "credit": round(0.125 * (session - 1) * (p + 1), 6),
                    "base_advantage": 0.5,
                    "advantage": round(0.5 + 0.125 * (session - 1) * (p + 1), 6),
                    "has_signal": True,
                }
            )
    if texts is not None:
        write_lines(run / texts / f"{step}.jsonl", text_rows)
    if log is not None:
        write_lines(run / log / f"{step}.jsonl", log_rows)


def write_three_runs(folder: Path) -> list[Path]:
    """grpo without anything of ours, setpo with all, bare with validations only; problems 0 to 9 are lost by setpo."""
    grpo, setpo, bare = folder / "grpo", folder / "setpo", folder / "bare"
    write_validation(grpo, 0, lambda i: 0.3)
    write_validation(grpo, 10, lambda i: 0.8)
    write_validation(setpo, 0, lambda i: 0.3)
    write_validation(setpo, 10, lambda i: 0.1 if i < 10 else 0.95)
    write_validation(bare, 10, lambda i: 0.5)
    write_metrics(grpo, 10, ours=False)
    write_metrics(setpo, 10, ours=True)
    for step in (1, 5, 10):
        write_rollouts(grpo, step, log=None)
        write_rollouts(setpo, step)
    return [grpo, setpo, bare]


def write_hostile_run(folder: Path, num_problems: int = 10_000) -> Path:
    """Scripts and broken text in every field of a file of validations, among them responses of 1 MB."""
    run = folder / "<img src=x onerror='window.hacked=1'>"
    for step in (0, 7):
        rng = random.Random(step)

        def rows(rng: random.Random = rng, step: int = step) -> Iterable[dict[str, Any]]:
            for i in range(num_problems):
                hostile = HOSTILE_TEXTS[i % len(HOSTILE_TEXTS)]
                for session in range(2):
                    # What changes most carries its rollouts: the responses of a megabyte.
                    is_huge = i % 2500 == 0
                    correct = step == 7 if is_huge else session == 0 and rng.random() < 0.5
                    huge = "\ud800\u202e<script>" * 100_000 if is_huge else ""
                    row = validation_row(
                        f"{hostile} {i}", session, correct, f"{hostile} {rng.randrange(2)}", f"{hostile}{huge}", f"u{i}"
                    )
                    yield row | {"step": step}

        write_lines(run / "validation" / f"{step}.jsonl", rows())
    hostile = {"critic/score/mean": 1e308, "actor/entropy": "<script>", "timing_s/step": 2.0, "<script>": 1}
    write_lines(run / "metrics.jsonl", [{"step": step, "data": hostile} for step in (1, 2)])
    for step in (1, 2):
        log, texts = [], []
        for i in range(64):
            hostile_text = HOSTILE_TEXTS[i % len(HOSTILE_TEXTS)]
            key = f"{hostile_text}{i // 8}_{i % 8}_0"
            texts.append({"input": hostile_text, "output": hostile_text, "gts": "", "score": 1.0, "uid": key})
            odd = {"reward": 10**400 if i % 3 else True, "cluster": [[]], "credit": "1", "advantage": None}
            log.append({"key": key, "answer": hostile_text, "strategy": hostile_text, "session": "x", **odd})
        write_lines(run / "a" / f"{step}.jsonl", texts)
        write_lines(run / "b" / f"{step}.jsonl", log)
    return run
