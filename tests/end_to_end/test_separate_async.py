"""verl's fully asynchronous mode on the CPU: a trainer, a rollout worker apart from it, and a slow judge.

Rollouts are up to a version old here, so that their log probs differ from the trainer's by what an update changes. To
see whether weights arrive, the second update has a learning rate of 0: the third step trains on rollouts of the second
or third version of the weights, which are the same.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse

from tests.end_to_end.test_training_on_cpu import train
from tests.signals.fake_server import completion, serve

PROMPTS, HELD_BACK = 8, 3


class SlowJudge:
    """Takes a second, and for the first problems that it is asked about until the first step has its batch."""

    def __init__(self, first_step: Path) -> None:
        self.first_step = first_step
        self.asked: list[str] = []

    @property
    def held_back(self) -> list[str]:
        return self.asked[:HELD_BACK]

    def __call__(self, body: dict[str, Any]) -> Response:
        lines = body["messages"][-1]["content"].split("\n")
        question = json.loads(lines[1])
        if question.startswith("y="):  # not the question by which a judge is tried at the start
            self.asked.append(question)
        texts = {line["id"]: line["solution"] for line in map(json.loads, (x for x in lines if x.startswith('{"id"')))}
        clusters = {name: zlib.crc32(text.encode()) % 3 + 1 for name, text in texts.items()}
        verdict = {name: {"strategy": "some", "cluster_id": cluster} for name, cluster in clusters.items()}

        async def say() -> AsyncIterator[bytes]:
            await asyncio.sleep(1)
            while question in self.held_back and not self.first_step.exists():
                await asyncio.sleep(0.02)
            yield completion(json.dumps(verdict)).body

        return StreamingResponse(say(), media_type="application/json")


def problems(texts: Path) -> set[str]:
    """Of the rollouts that verl wrote for a step."""
    inputs = [json.loads(line)["input"] for line in texts.read_text().splitlines()]
    return {re.search(r"y=\S+", text).group() for text in inputs}


@pytest.mark.slow
def test_poly_epo_trains_in_separate_async_mode_with_a_slow_judge_and_vllm_follows_the_trainer(
    inputs, tmp_path, monkeypatch
):
    # A message of verl's about hybrid_engine=False fails where it is printed.
    monkeypatch.setenv("VERL_LOGGING_LEVEL", "WARN")
    judge = SlowJudge(tmp_path / "rollouts" / "1.jsonl")
    with serve(judge) as server:
        run = train(
            inputs,
            tmp_path / "run",
            "poly_epo",
            3,
            "trainer.v1.trainer_mode=set_separate_async",
            "actor_rollout_ref.hybrid_engine=False",
            "actor_rollout_ref.rollout.nnodes=1",
            "ray_kwargs.ray_init.num_gpus=2",
            "actor_rollout_ref.actor.optim.lr_scheduler_type=cosine",
            "actor_rollout_ref.actor.optim.num_cycles=1.5",
            "trainer.val_before_train=False",
            "trainer.test_freq=-1",
            f"trainer.rollout_data_dir={tmp_path / 'texts'}",
            f"algorithm.set_rl.rollout_log={tmp_path / 'rollouts'}",
            f"algorithm.set_rl.signal.base_url={server.url}",
            "algorithm.set_rl.signal.model=judge",
            signal_name="judge",
        )
    assert sorted(run.metrics) == [1, 2, 3]
    steps = [run.metrics[step] for step in (1, 2, 3)]

    # A prompt joins a batch when its verdict is there: no step waits for one, and those held back come later.
    for step in steps:
        assert step["set_rl/judge/groups"] == PROMPTS
        assert step["set_rl/judge/ready"] == 1
        assert step["set_rl/signal_failed_groups"] == 0
        assert 0 <= step["set_rl/credit_share"] <= 1
    assert steps[0]["set_rl/judge/held_groups"] >= HELD_BACK
    batches = [problems(tmp_path / "texts" / f"{step}.jsonl") for step in (1, 2, 3)]
    for question in judge.held_back:
        assert [question in batch for batch in batches] == [False, True, False]

    # The first update moved the weights, the second did not; the second step's rollouts are a version old.
    old, difference = "training/off_policy/trajectory_staleness/mean", "training/rollout_probs_diff_mean"
    assert [step["actor/grad_norm"] > 0 for step in steps] == [True, True, True]
    assert steps[0][old] == 0
    assert steps[0][difference] < 1e-6
    assert steps[1][old] > 0
    assert steps[1][difference] > 1e-3
    # The new weights are in vLLM: it would be as far from the trainer as in the second step if they were not.
    assert steps[2][difference] < 1e-6
