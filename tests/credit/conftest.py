"""The command on files, its figures read from its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from verl_setpo.cli import app


@dataclass
class Outcome:
    """What one call printed and wrote."""

    result: Result
    figures: dict[str, Any]

    @property
    def text(self) -> str:
        """The output without line breaks, which depend on the terminal."""
        return " ".join(self.result.stdout.split())

    def prompt(self, uid: str) -> dict[str, Any]:
        return next(prompt for prompt in self.figures["prompts"] if prompt["prompt"] == uid)

    def advantages(self, estimator: str, uid: str) -> list[float]:
        return self.prompt(uid)["advantages"][estimator]

    def summary(self, estimator: str) -> dict[str, Any]:
        return next(row for row in self.figures["summary"] if row["estimator"] == estimator)

    def warnings(self, kind: str) -> list[dict[str, Any]]:
        return [warned for warned in self.figures["warnings"] if warned["kind"] == kind]

    @property
    def kinds(self) -> set[tuple[str, str | None]]:
        return {(warned["kind"], warned["estimator"]) for warned in self.figures["warnings"]}


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["credit", *map(str, arguments)], env={"COLUMNS": "80"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments: object) -> str:
    """The one sentence of a call that shows nothing."""
    result = call(*arguments)
    assert result.exit_code != 0
    assert result.stdout == ""
    line = [line for line in result.stderr.splitlines() if "skipped" not in line][-1]
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


@pytest.fixture
def credit(tmp_path: Path) -> Callable[..., Outcome]:
    def run(*arguments: object) -> Outcome:
        path = tmp_path / "credit.json"
        result = call(*arguments, "--json", path)
        assert result.exit_code == 0, result.output
        return Outcome(result, json.loads(path.read_text(encoding="ascii")))

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as a file of JSON lines; a string is a line as it stands."""

    def to_file(rows: Sequence[dict[str, Any] | str], name: str = "rollouts.jsonl") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return to_file


def group(prompt: str, rewards: Sequence[float], clusters: Sequence[Any]) -> list[dict[str, Any]]:
    """One row a rollout."""
    return [
        {"prompt": prompt, "reward": reward, "cluster": cluster}
        for reward, cluster in zip(rewards, clusters, strict=True)
    ]
