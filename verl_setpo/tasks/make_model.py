"""Build, warm-start, measure and save a tiny model: what `verl-setpo data tiny-model` does."""

import random
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from verl_setpo.tasks.data import read_dataset
from verl_setpo.tasks.files import new_folder
from verl_setpo.tasks.own import check_answers, find_task
from verl_setpo.tasks.tiny_model import RECORD, build_model, build_tokenizer, save
from verl_setpo.tasks.warm_start import DEFAULTS, SampleFigures, WarmStartConfig, measure, to_prompts, train

# Held-out prompts in the figures at the end.
MEASURED_PROMPTS = 48
# Training prompts whose answers are scored before anything is trained.
CHECKED_PROMPTS = 16


def make_tiny_model(
    task: str,
    data: Path,
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    target: float | None = None,
    wrong_share: float | None = None,
    max_new_tokens: int | None = None,
    layers: int = 3,
    width: int = 64,
    threads: int = 1,
    overwrite: bool = False,
    report: Callable[[str], None] = print,
) -> SampleFigures:
    """Make the folder `out`, whole or not at all, and return the figures on held-out prompts.

    `task` is one of `TASKS` or a file of one's own (`find_task`). `steps`, `target`, `wrong_share` and `max_new_tokens`
    replace the values of `DEFAULTS`, those of `WarmStartConfig` for a task of one's own, where they are given.
    Raises ValueError that names the option at fault.
    """
    module = find_task(task)
    config = _config(module.DATA_SOURCE, seed, steps, target, wrong_share, max_new_tokens)
    if threads < 1:
        raise ValueError(f"--threads is {threads}: give at least 1")
    record, train_rows, test_rows = read_dataset(data)
    if record["task"] != module.DATA_SOURCE:
        raise ValueError(f"--data {data} holds the task {record['task']}, not {task}: give --task {record['task']}")
    if record["style"] != "tiny":
        raise ValueError(f"--data {data} has prompts in English: make it again with --style tiny")
    truths = [row["reward_model"]["ground_truth"] for row in train_rows[:CHECKED_PROMPTS]]
    check_answers(module, truths, random.Random(seed))
    with new_folder(out, record=RECORD, overwrite=overwrite) as folder:
        started, threads_before = time.monotonic(), torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            tokenizer = build_tokenizer()
            model = build_model(tokenizer, layers=layers, width=width, seed=seed)
            report(f"{model.num_parameters()} parameters, {len(train_rows)} training prompts")
            steps_done = train(model, tokenizer, to_prompts(module, train_rows, tokenizer), config, report)
            held_out = to_prompts(module, test_rows[:MEASURED_PROMPTS], tokenizer)
            figures = measure(model, tokenizer, held_out, seed=seed, max_new_tokens=config.max_new_tokens)
        finally:
            torch.set_num_threads(threads_before)
        seconds = round(time.monotonic() - started, 1)
        save(
            model,
            tokenizer,
            folder,
            {
                "task": module.DATA_SOURCE,
                "dataset": record,
                "config": asdict(config),
                "layers": layers,
                "width": width,
                "threads": threads,
                "steps_done": steps_done,
                "seconds": seconds,
                "held_out": asdict(figures),
            },
        )
    report(
        f"{out}: pass@1 {figures.pass_at_1:.3f} and {figures.distinct_correct:.2f} distinct correct answers in 64 "
        f"samples, on {len(held_out)} held-out prompts; {steps_done} steps, {seconds:.0f} s"
    )
    return figures


def _config(
    task: str,
    seed: int,
    steps: int | None,
    target: float | None,
    wrong_share: float | None,
    max_new_tokens: int | None,
) -> WarmStartConfig:
    config = replace(DEFAULTS.get(task, WarmStartConfig()), seed=seed)
    if steps is not None:
        if steps < 1:
            raise ValueError(f"--steps is {steps}: give at least 1")
        config = replace(config, steps=steps)
    if target is not None:
        config = replace(config, target=target)
    if wrong_share is not None:
        if not 0 <= wrong_share <= 1:
            raise ValueError(f"--wrong-share is {wrong_share}: give a share from 0 to 1")
        config = replace(config, wrong_share=wrong_share)
    if max_new_tokens is not None:
        if max_new_tokens < 1:
            raise ValueError(f"--max-new-tokens is {max_new_tokens}: give at least 1")
        config = replace(config, max_new_tokens=max_new_tokens)
    return config
