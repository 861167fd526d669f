"""Train recipes for two steps on the CPU. What is looked at then is what the recipe itself wrote: verl's metrics."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from processes import run

from smoke.composition import REPOSITORY, Case, all_cases

LIMIT_SECONDS = 600
STEPS = 2


def trained_cases() -> list[Case]:
    """Two steps each: every FSDP recipe, and between them every method, base, signal and way to serve it."""
    compact = "+reward.reward_model.rollout.engine_kwargs.vllm.structured_outputs_config="
    judge = (
        compact + "{backend:xgrammar,disable_any_whitespace:true}",
        # An untrained judge fills what it may, and says the same of all unless it draws.
        "algorithm.set_rl.signal.max_strategy_chars=16",
        "algorithm.set_rl.signal.temperature=1",
        "ray_kwargs.ray_init.num_gpus=2",
    )
    pool = (
        "ray_kwargs.ray_init.num_gpus=2",
        "algorithm.set_rl.signal.max_tokens=256",
        "reward.reward_model.rollout.max_model_len=256",
    )
    small, seven, poly = "run_qwen2_5_math_1_5b_fsdp.sh", "run_qwen2_5_math_7b_fsdp.sh", "run_qwen3_4b_polaris_fsdp.sh"
    count = "run_qwen2_5_3b_countdown_fsdp.sh"
    local = {"EMBEDDER": "local"}
    return [
        Case(f"set_loo/{small}", {"METHOD": "set_loo+grpo", **local}),
        Case(f"set_loo/{small}", {"METHOD": "set_loo+gspo", **local}),
        Case(f"set_loo/{small}", {"METHOD": "set_loo+dapo", **local}),
        Case(f"set_loo/{seven}", {"METHOD": "set_loo+grpo", "EMBEDDER": "reward_model"}, pool),
        Case(f"set_loo/{seven}", {"METHOD": "grpo_div"}),
        Case(f"set_loo/{seven}", {"METHOD": "dapo"}),
        Case(f"set_loo/{count}", {"METHOD": "set_loo+grpo", **local, "ROLLOUT_N": "7"}, data="countdown"),
        Case(f"set_loo/{count}", {"METHOD": "set_loo+grpo", **local, "ROLLOUT_N": "3"}, data="countdown"),
        Case("set_loo/run_qwen2_5_32b_fsdp.sh", {"METHOD": "set_loo+grpo", **local}),
        Case("set_loo/run_qwen2_5_32b_fsdp.sh", {"METHOD": "gspo"}),
        Case(f"poly_epo/{poly}", {"METHOD": "poly_epo", "JUDGE": "pool"}, judge),
        Case(f"poly_epo/{poly}", {"METHOD": "grpo"}),
        Case(
            "poly_epo/run_qwen3_4b_polaris_async_fsdp.sh",
            {"METHOD": "poly_epo", "JUDGE": "answer", "WEIGHT_TRANSFER": "zmq"},
            ("ray_kwargs.ray_init.num_gpus=2",),
        ),
        Case("poly_epo/run_qwen3_1_7b_polynomial_fsdp.sh", {"METHOD": "poly_epo"}),
        Case(
            "poly_epo/run_qwen3_1_7b_multiplication_fsdp.sh",
            {"METHOD": "poly_epo", "MAX_RESPONSE_LENGTH": "128"},
            data="multiplication",
        ),
    ]


def untrained_recipes() -> list[str]:
    """Recipes for FSDP that no case trains: a new one must not go by unproven."""
    trained = {case.script for case in trained_cases()}
    scripts = {case.script for case in all_cases() if case.script.endswith("_fsdp.sh")}
    return sorted(scripts - trained)


def train(case: Case, inputs: Path, folder: Path) -> str:
    """Run the recipe for two steps; returns what to show of it. Raises ValueError where a step is missing or empty,
    RuntimeError where the recipe fails or takes too long."""
    from tests.signals.embedding.models import MINILM

    folder.mkdir(parents=True)
    variables = {
        "PYTHON": sys.executable,
        "MODEL_PATH": str(inputs / ("model" if case.data == "polynomial" else f"{case.data}-model")),
        "TRAIN_FILES": str(inputs / case.data / "train.parquet"),
        "VAL_FILES": str(inputs / case.data / "test.parquet"),
        "OUTPUT_DIR": str(folder),
        "LOGGER": '["console","file"]',
        "NNODES": "1",
        "NGPUS_PER_NODE": "1",
        "TRAIN_BATCH_SIZE": "8",
        "PPO_MINI_BATCH_SIZE": "8",
        "MAX_PROMPT_LENGTH": "64",
        "MAX_RESPONSE_LENGTH": "32",
        "PPO_MAX_TOKEN_LEN_PER_GPU": "4096",
        "VAL_N": "2",
        "SAVE_FREQ": "2",
        "TEST_FREQ": "2",
        "ROLLOUT_TP": "1",
        "ROLLOUT_GPU_MEM_UTIL": "0.1",
        "ROLLOUT_NGPUS_PER_NODE": "1",
        "REMOVE_PADDING": "False",
        "OFFLOAD": "False",
        "EMBEDDER_PATH": str(MINILM),
        "EMBEDDER_DEVICE": "cpu",
        "EMBEDDER_GPU_SHARE": "0",
        "JUDGE_PATH": str(inputs / "judge"),
        "JUDGE_MAX_MODEL_LEN": "16384",
        "JUDGE_MAX_PROMPT_TOKENS": "8192",
        "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
        "HF_HUB_OFFLINE": "1",
        **case.variables,
    }
    trailing = ["+platform=cpu", f"trainer.total_training_steps={STEPS}", "trainer.val_before_train=False"]
    command = ["bash", str(REPOSITORY / "recipes" / case.script), *trailing, *case.overrides]
    log = folder / "train.log"
    run(command, log, {**os.environ, **variables}, LIMIT_SECONDS)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return judge_steps(case, {line["step"]: line["data"] for line in lines}, folder)


def judge_steps(case: Case, metrics: Mapping[int, Mapping[str, float]], folder: Path) -> str:
    """What the metrics say; ValueError where an optimiser step, a signal or the checkpoint is missing."""
    norms = [metrics.get(step, {}).get("actor/grad_norm", math.nan) for step in range(1, STEPS + 1)]
    if not all(math.isfinite(norm) for norm in norms) or not any(norm > 0 for norm in norms):
        raise ValueError(f"actor/grad_norm is {norms} in steps 1 to {STEPS}: a step was skipped")
    if not (folder / "checkpoints" / f"global_step_{STEPS}").is_dir():
        raise ValueError(f"there is no checkpoint of step {STEPS}")
    said = f"grad norm {', '.join(f'{norm:.3g}' for norm in norms)}"
    ours = case.variables["METHOD"].startswith("set_loo") or case.variables["METHOD"] in ("poly_epo", "grpo_div")
    for step in range(1, STEPS + 1) if ours else ():
        failed = metrics[step].get("set_rl/signal_failed_groups", math.nan)
        if failed != 0:
            raise ValueError(f"set_rl/signal_failed_groups is {failed} in step {step}")
    if ours:
        said += f", credit share {metrics[STEPS]['set_rl/credit_share']:.2f}"
    return said


def make_inputs(folder: Path) -> None:
    """Tiny data and warm-started models by the package's own commands, and an untrained judge."""
    from tests.signals.vllm_server import save_tiny_judge

    cli = [sys.executable, "-m", "verl_setpo.cli", "data"]
    # A tiny model learns to multiply in an hour, and 8 products by heart in a minute.
    sizes = {task: ["--train-size", "64", "--test-size", "8"] for task in ("polynomial", "countdown")}
    sizes["multiplication"] = ["--train-size", "8", "--test-size", "8", "--digits", "2", "2"]
    for task in sizes:
        data, model = folder / task, folder / ("model" if task == "polynomial" else f"{task}-model")
        subprocess.run([*cli, task, "--out", str(data), *sizes[task]], check=True, stdout=subprocess.DEVNULL)
        tiny = [
            *cli,
            "tiny-model",
            "--task",
            task,
            "--data",
            str(data),
            "--out",
            str(model),
            "--steps",
            "300",
            "--target",
            "0.5",
        ]
        subprocess.run(tiny, check=True, stdout=subprocess.DEVNULL)
    save_tiny_judge(folder / "judge")
