"""Ray and the real servers, started at most once for all tests that need them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.signals.vllm_server import judge_model, vllm_embeddings, vllm_judge

# Commands print as to a pipe, whatever the terminal of who runs the tests asks for: typer reads these when imported.
for variable in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE"):
    os.environ.pop(variable, None)

__all__ = ["judge_model", "ray_logs", "vllm_embeddings", "vllm_judge"]

KEY, KEY_ENV = "sk-canary-29f1c7e04ab8", "VERL_SETPO_TESTS_KEY"
WRONG_KEY, WRONG_KEY_ENV = "sk-canary-wrong-71d3", "VERL_SETPO_TESTS_WRONG_KEY"
"""Keys of servers, in the environment of this process and of all actors. They must appear nowhere else."""


@pytest.fixture(scope="session")
def ray_logs():
    """A running Ray; its value is the folder into which Ray writes what actors print."""
    import ray

    os.environ[KEY_ENV], os.environ[WRONG_KEY_ENV] = KEY, WRONG_KEY
    ray.init(num_cpus=4, num_gpus=0, include_dashboard=False, logging_level="ERROR", configure_logging=False)
    yield Path(ray._private.worker._global_node.get_logs_dir_path())
    ray.shutdown()
    del os.environ[KEY_ENV], os.environ[WRONG_KEY_ENV]


@pytest.fixture(autouse=True)
def same_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filtering in `datasets` leaves a copy in place of os.environ; rich would go on reading the old one."""
    monkeypatch.setattr(os, "environ", os.environ)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Trainings first: the longest files of all, which nobody should be left with at the end."""
    items.sort(key=lambda item: "end_to_end" not in item.nodeid)
