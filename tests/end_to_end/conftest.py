"""What all end-to-end tests start from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole trainings are set up in these tests: on a slow machine one takes longer than any other test may."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """Data and a briefly warm-started model, made by the command that the README names."""
    folder = tmp_path_factory.mktemp("inputs")
    command = [sys.executable, "-m", "verl_setpo.cli", "data"]
    sizes = ["--train-size", "64", "--test-size", "8"]
    subprocess.run([*command, "polynomial", "--out", str(folder / "data"), *sizes], check=True)
    model = ["tiny-model", "--task", "polynomial", "--data", str(folder / "data"), "--out", str(folder / "model")]
    subprocess.run([*command, *model, "--steps", "600"], check=True)
    return folder
