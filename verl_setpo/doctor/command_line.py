"""The words of a run: those that a recipe's script hands to verl, and the config that they compose to."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

ENTRYPOINT = "verl.trainer.main_ppo"
SCRIPT_LIMIT_S = 60.0

# Stands for python in a script: writes down what verl would get, and is python for all else.
_RECORDER = """#!/bin/sh
case " $* " in *" {entrypoint} "*) [ -e {said} ] || printf '%s\\0' "$@" > {said}; exit 0 ;; esac
exec {python} "$@"
"""


def words_of(script: Path) -> list[str]:
    """The overrides that a script gives to `python -m verl.trainer.main_ppo`, which does not run.

    The script itself runs, with the variables of this process: what else it does (a folder, a download) is done.

    Raises:
        ValueError: the script starts no such run through python, python3 or $PYTHON, or not with overrides alone.
    """
    if not script.is_file():
        raise ValueError(f"--recipe {script}: there is no such file: name a shell script that starts verl.")
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "arguments"
        text = _RECORDER.format(entrypoint=ENTRYPOINT, said=shlex.quote(str(said)), python=shlex.quote(sys.executable))
        for name in ("python", "python3"):
            path = Path(folder) / name
            path.write_text(text)
            path.chmod(0o755)
        environment = {
            **os.environ,
            "PYTHON": str(Path(folder) / "python"),
            "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        output = _run(script, environment)
        if not said.is_file():
            last = f" (its last line: {output[-1]:.200})" if output else ""
            raise ValueError(
                f"--recipe {script} started no {ENTRYPOINT} through python, python3 or $PYTHON{last}: mend what it "
                "says, or give the overrides themselves."
            )
        words = said.read_text(encoding="utf-8", errors="replace").split("\0")[:-1]
    words = words[words.index(ENTRYPOINT) + 1 :]
    for word in words:
        if word.startswith("-"):
            raise ValueError(f"--recipe {script} gives verl the option {word}: only KEY=VALUE words are read here.")
    return words


def _run(script: Path, environment: dict[str, str]) -> list[str]:
    """The lines that it printed. In a session of its own, so that all it started ends with it."""
    process = subprocess.Popen(
        ["bash", str(script)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SCRIPT_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise ValueError(
            f"--recipe {script} was ended after {SCRIPT_LIMIT_S:g} s without a run of verl: give the overrides "
            "themselves."
        ) from None
    # What `set -x` traces is not what the script says.
    return [line for line in output.splitlines() if line.strip() and not line.startswith("+")]


def compose_run(words: Sequence[str]) -> DictConfig:
    """verl's config with the overrides, as its own entrypoint composes it, device included.

    Raises ValueError for a word that is none, and whatever Hydra raises for a key, with the key in it.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import open_dict
    from verl.utils.device import auto_set_device

    parser = OverridesParser.create()
    for word in words:
        try:
            parser.parse_override(word)
        except HydraException:  # which names what it expected, and not the word
            key = word.partition("=")[0]
            raise ValueError(f"{key}: its value cannot be read: quote it for Hydra, as in '{key}=\"a b\"'.") from None
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=list(words))
    with open_dict(config):
        config.pop("hydra", None)
    auto_set_device(config)
    return config
