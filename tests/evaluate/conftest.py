"""A tiny model that answers, its test set, and the command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from verl_setpo.cli import app

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
N = 32
ROWS = 4
SAMPLING = ["--n", str(N), "--max-tokens", "24", "--dtype", "float32"]
SLOWLY = ["--engine", '{"max_num_seqs": 2}']
"""Two samples at a time, so that there is a time to be killed in."""


@pytest.fixture(scope="session")
def polynomials(tmp_path_factory) -> Path:
    """A folder with train.parquet and test.parquet of `ROWS` rows: few problems, soon learnt."""
    from verl_setpo.tasks.data import write_dataset

    folder = tmp_path_factory.mktemp("evaluate") / "polynomials"
    ranges = {"a": (1, 1), "b": (1, 3), "c": (1, 3)}
    write_dataset(folder, "polynomial", train_size=5, test_size=ROWS, seed=0, style="tiny", **ranges)
    return folder


@pytest.fixture(scope="session")
def model(polynomials, tmp_path_factory) -> Path:
    """A model that gives points, few of them right."""
    from verl_setpo.tasks.make_model import make_tiny_model

    folder = tmp_path_factory.mktemp("evaluate") / "tiny"
    make_tiny_model("polynomial", polynomials, folder, seed=0, steps=100, threads=1, report=lambda _: None)
    return folder


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start `verl-setpo evaluate` in a process of its own."""

    def begin(*arguments: object) -> subprocess.Popen[str]:
        # A shell without job control starts what it has in the background, tests too, with Ctrl-C ignored.
        heeding = ["env", "--default-signal=INT"]
        return subprocess.Popen(
            [*heeding, sys.executable, "-m", "verl_setpo.cli", "evaluate", *map(str, arguments)],
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture(scope="session")
def evaluated(start, model, polynomials, tmp_path_factory) -> Path:
    """The folder of an evaluation that nothing has disturbed."""
    out = tmp_path_factory.mktemp("evaluate") / "undisturbed"
    process = start(model, "--data", polynomials / "test.parquet", "--out", out, *SAMPLING, *SLOWLY)
    said, wrong = process.communicate(timeout=240)
    assert process.returncode == 0, said + wrong
    (out / "said.txt").write_text(said)
    return out


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "120"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments: object) -> str:
    """The one sentence of a command that does nothing."""
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").strip()
