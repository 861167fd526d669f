"""Prompts and starting models of an experiment, by the commands that users have for them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from processes import CommandFailed, run

from reproduction.experiment import RESPONSE, Experiment, recipes_own


def options(given: dict[str, Any]) -> list[str]:
    """{"train-size": 195, "a": [1, 3]} as --train-size 195 --a 1 3."""
    words: list[str] = []
    for name, value in given.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def make_data(experiment: Experiment, folder: Path) -> Path:
    """A folder with train.parquet, validation.parquet and test.parquet."""
    import pyarrow.parquet as pq

    data = folder / "data"
    if not (data / "test.parquet").is_file():
        partial = folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        task = ["own", str(experiment.own_task)] if experiment.own_task else [experiment.task]
        run(["verl-setpo", "data", *task, "--out", str(partial), *options(experiment.data)], folder / "data.log")
        held_out = pq.read_table(partial / "test.parquet")
        pq.write_table(held_out.slice(0, experiment.validation), partial / "validation.parquet")
        pq.write_table(held_out.slice(experiment.validation), partial / "test.parquet")
        partial.rename(data)
    return data


def make_probe(experiment: Experiment, data: Path, probe: Path) -> None:
    """Write the training prompts that are looked at to a file of their own."""
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(data / "train.parquet").slice(0, experiment.evaluation.train_prompts), probe)


def check_lengths(experiment: Experiment, data: Path, model: Path) -> None:
    """Raises CommandFailed where verl would cut off a prompt's beginning, or leave a response too little room.

    `verl-setpo evaluate` would do neither: starting models would be looked at with other prompts than are trained on.
    """
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    from verl_setpo.tasks.tiny_model import prompt_ids

    tokenizer = AutoTokenizer.from_pretrained(model)
    longest = max(
        len(prompt_ids(tokenizer, prompt))
        for name in ("train", "validation", "test")
        for prompt in pq.read_table(data / f"{name}.parquet")["prompt"].to_pylist()
    )
    for key, needed in (
        ("data.max_prompt_length", longest),
        ("actor_rollout_ref.rollout.max_model_len", longest + experiment.evaluation.max_tokens),
    ):
        room = int(experiment.settings.get(key, recipes_own(key)))
        if room < needed:
            raise CommandFailed(
                f"The longest prompt of {experiment.name} has {longest} tokens and {RESPONSE} is "
                f"{experiment.evaluation.max_tokens}, but {key} is {room}: set it to {needed} under settings."
            )


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
