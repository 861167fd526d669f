"""A judge that misbehaves by plan, and what its verdicts make of the advantages."""

from __future__ import annotations

import json
import math
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from fastapi import Response

from tests.end_to_end.faulty_run import KEY, PROMPTS, step_of
from tests.signals.fake_server import FakeServer, completion, free_port
from verl_setpo.set_rl import marginal_set_advantage
from verl_setpo.tasks.polynomial import parse_answer


@dataclass(frozen=True)
class Fault:
    """answer: what the first `tries` requests about each of the first `groups` groups of a step get.

    event: happens at the first request of the step.
    """

    answer: Callable[[dict[str, Any]], Response | None] = lambda body: None
    groups: int = PROMPTS
    tries: float = math.inf
    event: Callable[[], None] | None = None


class PlannedJudge:
    """Clusters by the text, and misbehaves in the steps that `plan` names. Can be stopped and started again."""

    def __init__(self, folder: Path, plan: dict[int, Fault]) -> None:
        self.folder, self.plan = folder, plan
        self.asked: dict[int, list[tuple[str, list[str]]]] = defaultdict(list)
        self.fake = FakeServer(self._answer, ["judge"], KEY)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.starts = 0

    def start(self) -> None:
        config = uvicorn.Config(self.fake.app, host="127.0.0.1", port=self.port, log_level="critical", lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.starts += 1

    def stop(self) -> None:
        """Break off what is under way; whoever comes then is refused."""
        for connection in list(self.server.server_state.connections):
            connection.transport.abort()
        self.server.force_exit = self.server.should_exit = True
        self.thread.join(20)

    def restart(self, away_s: float) -> None:
        self.stop()
        time.sleep(away_s)
        self.start()

    def _answer(self, body: dict[str, Any]) -> Response:
        step = step_of(self.folder)
        lines = body["messages"][-1]["content"].split("\n")
        texts = {line["id"]: line["solution"] for line in map(json.loads, (x for x in lines if x.startswith('{"id"')))}
        asked = self.asked[step]
        asked.append((lines[1], list(texts.values())))
        questions = [question for question, _ in asked]
        fault = self.plan.get(step, Fault())
        if fault.event is not None and len(asked) == 1:
            threading.Thread(target=fault.event, daemon=True).start()
        if list(dict.fromkeys(questions)).index(lines[1]) < fault.groups and questions.count(lines[1]) <= fault.tries:
            wrong = fault.answer(body)
            if wrong is not None:
                return wrong
        return completion(
            json.dumps(
                {
                    name: {"strategy": f"{number(t)} for {json.dumps(t)}", "cluster_id": number(t)}
                    for name, t in texts.items()
                }
            )
        )


def number(text: str) -> int:
    return zlib.crc32(text.encode()) % 3 + 1


def check_base_advantage(group: list[dict[str, Any]]) -> None:
    mean = sum(row["reward"] for row in group) / len(group)
    assert not any(row["has_signal"] for row in group)
    assert [row["advantage"] for row in group] == pytest.approx([row["reward"] - mean for row in group], abs=2e-6)
    assert {row["strategy"] for row in group} == {""}


def check_judged(groups: list[list[dict[str, Any]]]) -> None:
    """Trained on what the judge said of this very text, and on nothing else."""
    for group in groups:
        assert all(row["has_signal"] for row in group)
        texts = [json.loads(row["strategy"].partition(" for ")[2]) for row in group]
        points = [parse_answer(text) for text in texts]
        assert [row["answer"] for row in group] == [f"({p[0]},{p[1]})" if p else "" for p in points]
        said = [number(text) for text in texts]
        assert len(set(zip(said, (row["cluster"] for row in group), strict=True))) == len(set(said))
        expected = marginal_set_advantage(
            torch.tensor([[row["reward"] for row in group]]), torch.tensor([said]), set_size=4
        )
        assert [row["advantage"] for row in group] == pytest.approx(expected[0].tolist(), abs=2e-6)
