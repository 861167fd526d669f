"""Validation files in verl's own shape, written by verl's own code; a browser, and a page of three runs for it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.browser import chromium
from tests.evaluation.report_files import write_three_runs
from tests.evaluation.test_report import invoke

Answers = dict[str, list[tuple[bool, str]]]  # problem -> (correct, parsed answer) of each sample


@pytest.fixture(scope="session")
def verl_write() -> Callable[..., None]:
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    return PPOTrainer._write_generations


@pytest.fixture(scope="session")
def write_validation(verl_write: Callable[..., None]) -> Callable[..., Path]:
    """Write `<step>.jsonl` as `_validate` does; `drop` names fields that this reward function does not return."""

    def write(directory: Path, step: int, answers: Answers, drop: tuple[str, ...] = ()) -> Path:
        rows: list[dict[str, Any]] = []
        for problem, samples in answers.items():
            prompt = str(uuid.uuid4())  # new at each validation, as in verl
            for session, (correct, answer) in enumerate(samples):
                rows.append({"problem": problem, "ok": correct, "pred": answer, "uid": f"{prompt}_{session}_0"})
        scores = [float(row["ok"]) for row in rows]
        extra = {
            "reward": scores,
            "acc": [row["ok"] for row in rows],
            "pred": [row["pred"] for row in rows],
            "uid": [row["uid"] for row in rows],
        }
        verl_write(
            inputs=[f"user\n{row['problem']}\nassistant\n" for row in rows],
            outputs=["<think>\n...</think> \u2028 [red]\x1b[31m SECRET" for _ in rows],
            gts=[{"target": row["problem"]} for row in rows],
            scores=scores,
            reward_extra_infos_dict={key: values for key, values in extra.items() if key not in drop},
            dump_path=str(directory),
            global_steps=step,
        )
        return directory / f"{step}.jsonl"

    return write


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    result = invoke(*write_three_runs(folder), "--out", folder / "out", "--ks", "1,4,8")
    assert result.exit_code == 0, result.output
    return folder / "out" / "report.html"
