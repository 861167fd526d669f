"""Prompts and starting models of an experiment, by the commands that users have for them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from processes import run

from reproduction.experiment import Experiment


def options(given: dict[str, Any]) -> list[str]:
    """{"train-size": 195, "a": [1, 3]} as --train-size 195 --a 1 3."""
    words: list[str] = []
    for name, value in given.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def make_data(experiment: Experiment, folder: Path) -> Path:
    """A folder with train.parquet, validation.parquet, test.parquet and probe.parquet (some training prompts)."""
    import pyarrow.parquet as pq

    data = folder / "data"
    if not (data / "test.parquet").is_file():
        partial = folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        task = ["own", str(experiment.own_task)] if experiment.own_task else [experiment.task]
        run(["verl-setpo", "data", *task, "--out", str(partial), *options(experiment.data)], folder / "data.log")
        held_out, train = pq.read_table(partial / "test.parquet"), pq.read_table(partial / "train.parquet")
        pq.write_table(held_out.slice(0, experiment.validation), partial / "validation.parquet")
        pq.write_table(held_out.slice(experiment.validation), partial / "test.parquet")
        pq.write_table(train.slice(0, experiment.evaluation.train_prompts), partial / "probe.parquet")
        partial.rename(data)
    return data


def make_warm_start(experiment: Experiment, folder: Path, seed: int) -> Path:
    """The starting model of a seed."""
    model = folder / f"warm_start_{seed}"
    if not (model / "config.json").is_file():
        task = str(experiment.own_task or experiment.task)
        command = ["verl-setpo", "data", "tiny-model", "--task", task, "--data", str(folder / "data")]
        command += ["--out", str(model), "--seed", str(seed), *options(experiment.warm_starts.options)]
        run(command, folder / f"warm_start_{seed}.log")
    return model


def fingerprint(model: Path) -> str:
    """A short hash of a model's weights: the same seed and command give weights that differ from machine to machine."""
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:12]
