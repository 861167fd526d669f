"""Checkpoints to counts: samples by `verl-setpo evaluate`, of which one line a checkpoint and set is kept."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import run

from reproduction.experiment import Experiment

Line = dict[str, Any]


def evaluate(model: Path, experiment: Experiment, sets: dict[str, Path], folder: Path, trained: bool) -> Iterator[Line]:
    """Draw samples, count, and give {"step", "set", "temperature", "n", "correct": [...], "distinct": [...]}.

    Args:
        model: a Hugging Face folder or, where `trained`, a folder of checkpoints.
        sets: name and parquet file of each set of prompts.

    `correct` counts the correct samples of each prompt, `distinct` its different correct answers (strategies, where
    the reward names them). The samples themselves stay in `folder`.
    """
    evaluation = experiment.evaluation
    for temperature in evaluation.temperatures:
        out = folder / f"temperature_{temperature}"
        command = ["verl-setpo", "evaluate", f"run={model}", "--out", str(out), "--n", str(evaluation.n)]
        command += ["--temperature", str(temperature), "--max-tokens", str(evaluation.max_tokens), "--dtype", "float32"]
        for name, file in sets.items():
            command += ["--data", f"{name}={file}"]
        if experiment.own_task:
            command += ["--reward", f"{experiment.own_task}:compute_score"]
        if trained:
            command += ["--steps", ",".join(map(str, evaluation.looked_at(temperature)))]
        run(command, folder / f"temperature_{temperature}.log")
        for name in sets:
            for file in sorted((out / "run" / name / "validation").glob("*.jsonl"), key=lambda path: int(path.stem)):
                counts = count(file)
                yield {"step": int(file.stem), "set": name, "temperature": temperature, "n": evaluation.n, **counts}


def count(samples: Path) -> dict[str, list[int]]:
    """The correct samples and the different correct answers of each prompt, in the order of the prompts.

    A correct sample without an answer, or a strategy where the reward names them, adds none.
    """
    correct: dict[str, int] = defaultdict(int)
    answers: dict[str, set[str]] = defaultdict(set)
    with samples.open(encoding="utf-8") as lines:
        for line in lines:
            sample = json.loads(line)
            prompt = sample["uid"].split("_")[0]
            correct[prompt] += sample["acc"] > 0
            answer = str(sample["strategy"] if "strategy" in sample else sample["pred"])
            answers[prompt] |= {answer} if sample["acc"] > 0 and answer else set()
    return {"correct": list(correct.values()), "distinct": [len(answers[prompt]) for prompt in correct]}
