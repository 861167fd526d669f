"""Compose every recipe as verl does, and check what can be checked without training.

A recipe is run as a user runs it: by its own variables and trailing overrides. PYTHON names a program that writes down
the command line instead of running it; the command line is then composed and checked here, many in one process.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SET_LOO = ("set_loo+grpo", "set_loo+gspo", "set_loo+dapo", "grpo", "gspo", "dapo", "grpo_div")
POLY_EPO = ("poly_epo", "grpo", "gspo", "dapo", "grpo_div")
EMBEDDERS = ("local", "endpoint", "reward_model")
JUDGES = ("pool", "colocated", "endpoint", "answer")
SERVER = "http://localhost:8000/v1"


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
