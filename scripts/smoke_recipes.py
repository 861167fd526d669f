"""The work of scripts/smoke_recipes.sh: compose every recipe, and train those for FSDP for two steps on the CPU.

A recipe is run as a user runs it: by its own variables and trailing overrides. To compose it, PYTHON names a program
that writes down the command line instead of running it; the command line is then composed and checked here, many in
one process. What is looked at after a training is what the recipe itself wrote: verl's file of metrics.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 600
STEPS = 2
SET_LOO = ("set_loo+grpo", "set_loo+gspo", "set_loo+dapo", "grpo", "gspo", "dapo", "grpo_div")
POLY_EPO = ("poly_epo", "grpo", "gspo", "dapo", "grpo_div")
EMBEDDERS = ("local", "endpoint", "reward_model")
JUDGES = ("pool", "colocated", "endpoint", "answer")
SERVER = "http://localhost:8000/v1"

console = Console(width=120)


@dataclass(frozen=True)
class Case:
    """One way to run a recipe: its script below recipes/, and the variables that choose method and signal."""

    script: str
    variables: Mapping[str, str]
    overrides: tuple[str, ...] = ()
    data: str = "polynomial"

    @property
    def name(self) -> str:
        return f"{Path(self.script).stem} {' '.join(self.variables.values())}"


# ------------------------------------------------------------------------------------------------ what is composed


def all_cases() -> Iterator[Case]:
    """Every recipe with every method that it offers, and its first method with every signal."""
    for script in sorted((REPOSITORY / "recipes").glob("*/run_*.sh")):
        folder = script.parent.name
        if folder == "cpu":
            continue
        text = script.read_text()
        methods = [name for name in (SET_LOO if folder == "set_loo" else POLY_EPO) if offers(text, name)]
        served = [("EMBEDDER", value) for value in EMBEDDERS] + [("JUDGE", value) for value in JUDGES]
        signals = [{key: value} for key, value in served if f"{key}=" in text] or [{}]
        for method in methods:
            for signal in signals if method == methods[0] else signals[:1]:
                yield Case(f"{folder}/{script.name}", {"METHOD": method, **signal})


def offers(script: str, method: str) -> bool:
    """Whether a recipe's own list of methods, the comment beside METHOD, has this one."""
    line = next(line for line in script.splitlines() if line.startswith("METHOD="))
    return method in line.partition("#")[2].replace("|", " ").split()


def command_line(case: Case, inputs: Path) -> list[str]:
    """What the recipe would hand to `python -m verl.trainer.main_ppo`."""
    with tempfile.TemporaryDirectory() as folder:
        recorder, said = Path(folder) / "python", Path(folder) / "arguments"
        recorder.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {said}\n')
        recorder.chmod(0o755)
        variables = {
            **case.variables,
            "PYTHON": str(recorder),
            "MODEL_PATH": str(inputs / "model"),
            "JUDGE_PATH": str(inputs / "judge"),
            "EMBEDDER_PATH": str(inputs / "model"),
            "TRAIN_FILES": str(inputs / "polynomial" / "train.parquet"),
            "VAL_FILES": str(inputs / "polynomial" / "test.parquet"),
            "EMBEDDER_URL": SERVER,
            "JUDGE_URL": SERVER,
        }
        run = subprocess.run(
            ["bash", str(REPOSITORY / "recipes" / case.script), *case.overrides],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if run.returncode != 0 or not said.is_file():
            raise ValueError(f"the script ended with {run.returncode}: {run.stdout[-1000:]}")
        words = said.read_text().split("\0")[:-1]
    if words[:2] != ["-m", "verl.trainer.main_ppo"]:
        raise ValueError(f"the script does not start verl.trainer.main_ppo, but {' '.join(words[:2])}")
    return words[2:]


def check_composition(case: Case, inputs: Path) -> None:
    """Compose as verl does, then all that can be checked without a process: verl's checks and ours.

    Raises whatever the first failing check raises.
    """
    from hydra import compose, initialize_config_module
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.trainer.ppo.v1 import get_trainer_cls
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    words = command_line(case, inputs)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=words)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Disabled critic")  # as it should be
        validate_config(config, need_reference_policy(config), need_critic(config))
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    if config.reward.reward_model.enable:
        omega_conf_to_dataclass(config.reward.reward_model)
    get_trainer_cls(config.trainer.v1.trainer_mode)
    if get_custom_reward_fn(config) is None:
        raise ValueError("the reward function is not found")
    check_values(words, config)
    if config.algorithm.get("set_rl") is not None:
        check_readers(config)


def check_values(words: list[str], config: Any) -> None:
    """Every key of the command line has its value in the composed config, unless a later word sets it again."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parsed = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(words) if "/" not in o.key_or_group}
    for key, override in parsed.items():
        if key in ("set_rl", "model_engine", "platform") or key.startswith("hydra."):  # not in what is composed
            continue
        found, asked = OmegaConf.select(config, key), override.value()
        found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        if found != asked and str(found) != str(asked):
            raise ValueError(f"{key} is {found!r} in the composed config, and the recipe asks for {asked!r}")


def check_readers(config: Any) -> None:
    """Every key under algorithm.set_rl arrives at the object that reads it, with its value."""
    from omegaconf import OmegaConf

    from verl_setpo.signals import build_signal
    from verl_setpo.trainer.config_check import check_config
    from verl_setpo.trainer.inputs_check import check_inputs

    method = check_config(config)
    config.trainer.device = "cpu"  # the GPUs that a recipe asks for are not here
    check_inputs(config)
    asked = OmegaConf.to_container(config.algorithm.set_rl, resolve=True)
    signal = asked.pop("signal")
    for key, value in asked.items():
        read = getattr(method.settings, key)
        if read != value and list(read if isinstance(read, tuple) else [read]) != value:
            raise ValueError(f"algorithm.set_rl.{key}={value!r} is read as {read!r}")
    built = build_signal(signal.pop("name"), signal)
    readers = {**vars(built)}
    for name in ("settings", "_embedder"):
        if hasattr(built, name):
            readers.update(getattr(built, name).model_dump())
    readers.update(getattr(built, "_keys", {}))
    for key, value in signal.items():
        if value is None:  # left out, where the signal's kind has no such key
            continue
        if key not in readers or (readers[key] != value and not isinstance(readers[key], list | tuple)):
            raise ValueError(f"algorithm.set_rl.signal.{key}={value!r} does not reach the signal")


# ------------------------------------------------------------------------------------------------ what is trained


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


@contextlib.contextmanager
def session(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own, all of whose processes are ended: Ray and vLLM leave children behind."""
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)
            process.wait()


def train(case: Case, inputs: Path, folder: Path) -> str:
    """Run the recipe for two steps; returns what to show of it. Raises ValueError where a step is missing or empty."""
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
    with session(command, {**os.environ, **variables}, log) as process:
        status = process.wait(timeout=LIMIT_SECONDS)
    if status != 0:
        raise ValueError(f"ended with {status}; the end of {log}:\n{log.read_text(errors='replace')[-2500:]}")
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


# ------------------------------------------------------------------------------------------------ inputs


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


@dataclass
class Report:
    """What came of the cases."""

    table: Table = field(default_factory=lambda: Table("recipe", "result", "s", box=None))
    failed: int = 0

    def add(self, case: Case, result: str, started: float, failed: bool = False) -> None:
        self.failed += failed
        console.print(f"{'FAILED' if failed else 'ok'}  {case.name}: {result}", markup=False, highlight=False)
        self.table.add_row(case.name, "[red]failed" if failed else result, f"{time.monotonic() - started:.0f}")


def main(
    compose_only: Annotated[bool, typer.Option("--compose-only", help="Train nothing.")] = False,
    only: Annotated[str, typer.Option(help="Only cases whose name has this part.")] = "",
    work_dir: Annotated[Path, typer.Option(help="For inputs, logs, metrics; made anew.")] = Path("runs/smoke_recipes"),
) -> None:
    """Exit status 1 when any case fails."""
    sys.path.insert(0, str(REPOSITORY))
    work_dir = work_dir.resolve()
    shutil.rmtree(work_dir, ignore_errors=True)
    inputs = work_dir / "inputs"
    inputs.mkdir(parents=True)
    make_inputs(inputs)

    report = Report()
    composed = [case for case in all_cases() if only in case.name]
    for case in composed:
        started = time.monotonic()
        try:
            check_composition(case, inputs)
        except Exception as error:
            report.add(case, f"{type(error).__name__}: {error}", started, failed=True)
    console.print(f"{len(composed)} command lines composed and checked, {report.failed} failed")

    cases = [] if compose_only else [case for case in trained_cases() if only in case.name]
    for number, case in enumerate(cases):
        started = time.monotonic()
        try:
            report.add(case, train(case, inputs, work_dir / f"{number:02d}"), started)
        except (ValueError, subprocess.TimeoutExpired) as error:
            report.add(case, str(error), started, failed=True)
    if cases:
        console.print(report.table)
    if untrained := untrained_recipes() if cases and not only else []:
        console.print(f"FAILED  never trained: {', '.join(untrained)}")
        report.failed += 1
    raise typer.Exit(1 if report.failed or not (composed or cases) else 0)


def untrained_recipes() -> list[str]:
    """Recipes for FSDP that no case trains: a new one must not go by unproven."""
    trained = {case.script for case in trained_cases()}
    scripts = {case.script for case in all_cases() if case.script.endswith("_fsdp.sh")}
    return sorted(scripts - trained)


if __name__ == "__main__":
    typer.run(main)
