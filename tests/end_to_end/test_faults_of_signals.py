"""Faults of a judge, an embedder, a store actor and a reward function, while real trainings run.

Three trainings, each with many faults one after the other: servers look up the step of the run in its metrics and
misbehave in the steps that the plans below name, with clean steps between. Each test looks at the record of one fault.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from fastapi import Response

from tests.signals.embedding.models import minilm
from tests.signals.embedding.server import MODEL, embedding_server, packed, unpacked
from tests.signals.fake_server import (
    FakeServer,
    completion,
    fails,
    free_port,
    half_a_body,
    hangs,
    raw,
    says,
)
from verl_setpo.set_rl import marginal_set_advantage
from verl_setpo.tasks.polynomial import parse_answer

pytestmark = pytest.mark.slow

SIGNAL = "algorithm.set_rl.signal."
REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = REPOSITORY / "recipes" / "cpu" / "run_tiny_fsdp.sh"
KEY = "sk-canary-9d41c7e2b6"
"""Must not be found again in anything that a run writes."""
LIMIT_SECONDS = 420
PROMPTS, ROLLOUTS = 8, 8
WAIT_S, TIMEOUT_S = 5.0, 2.0
EMBEDDER_WAIT_S, EMBEDDER_TIMEOUT_S = 7.0, 3.0
TOLERANCE_S = 2.0
"""What a step's wait may take beyond `wait_s`, on a busy machine."""

FOR_EVER = hangs(600)
NO_JSON = raw("I am sorry, I cannot do that.", "text/plain")
WRONG_IDS = says(json.dumps({"zzzz": {"strategy": "by itself", "cluster_id": 1}}))
BROKEN = fails(500, f"no answer for Bearer {KEY}")


# ---- a training in a process of its own


class Training:
    """A run of the recipe in a session of its own, started at once; of a finished one, its record."""

    def __init__(self, inputs: Path, folder: Path, method: str, steps: int, *overrides: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.status, self.seconds, self.ray_logs = folder, -1, 0.0, ""
        # Short: the names of Ray's sockets hold it.
        self.ray_folder = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))
        environment = {
            **os.environ,
            "METHOD": method,
            "DATA_DIR": str(inputs / "data"),
            "MODEL_PATH": str(inputs / "model"),
            "RUN_DIR": str(folder),
            "STEPS": str(steps),
            "TRAIN_BATCH_SIZE": str(PROMPTS),
            "LR": "1e-5",  # answers stay as different as they are: no two groups are the same
            "VAL_N": "1",
            "TEST_FREQ": "1000",
            "PYTHON": sys.executable,
            "RAY_TMPDIR": str(self.ray_folder),
            "CANARY_KEY": KEY,
        }
        always = [
            "trainer.val_before_train=False",
            f"algorithm.set_rl.rollout_log={folder / 'rollouts'}",
            f"+{SIGNAL}api_key_env=CANARY_KEY",
        ]
        self.started = time.time()
        with open(folder / "train.log", "w") as output:
            self.process = subprocess.Popen(
                [str(RECIPE), *always, *overrides],
                env=environment,
                cwd=REPOSITORY,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        try:
            self.status = self.process.wait(timeout=LIMIT_SECONDS)
            self.seconds = (self.folder / "train.log").stat().st_mtime - self.started
            files = [path for path in sorted(self.ray_folder.rglob("logs/**/*")) if path.is_file()]
            self.ray_logs = "\n".join(path.read_text(errors="replace") for path in files)
        finally:
            self.end()

    def end(self) -> None:
        """Nothing of it is left: no process, and none of Ray's files."""
        subprocess.run(["pkill", "-KILL", "--session", str(self.process.pid)], check=False)
        self.process.wait()
        shutil.rmtree(self.ray_folder, ignore_errors=True)

    @property
    def log(self) -> str:
        return (self.folder / "train.log").read_text(errors="replace")

    @property
    def metrics(self) -> dict[int, dict[str, float]]:
        path = self.folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return {line["step"]: line["data"] for line in lines}

    def rows(self, step: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "rollouts" / f"{step}.jsonl").read_text().splitlines()]

    def groups(self, step: int) -> list[list[dict[str, Any]]]:
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows(step):
            groups[row["uid"]].append(row)
        return list(groups.values())

    def figures(self, step: int, signal: str) -> dict[str, float]:
        """Those of the signal, by their short names."""
        prefix = f"set_rl/{signal}/"
        return {name.removeprefix(prefix): v for name, v in self.metrics[step].items() if name.startswith(prefix)}

    def kill_store_actor(self) -> None:
        """Of the processes of this run only: they are in its session."""
        listed = subprocess.run(
            ["ps", "-s", str(self.process.pid), "-o", "pid=,args="], capture_output=True, text=True, check=True
        )
        found = [line.split()[0] for line in listed.stdout.splitlines() if "ray::ShardActor" in line]
        assert found, listed.stdout
        subprocess.run(["kill", "-9", *found], check=True)


def step_of(folder: Path) -> int:
    """The step that a run is in; 0 before the first. verl writes the line of a step before it starts the next."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") + 1 if path.exists() else 0


def train(inputs: Path, folder: Path, method: str, steps: int, *overrides: str) -> Training:
    run = Training(inputs, folder, method, steps, *overrides)
    run.wait()
    return run


def signal_keys(name: str, url: str, model: str, **keys: Any) -> list[str]:
    more = {"base_url": url, "model": model, **keys}
    return [f"{SIGNAL}name={name}", *(f"+{SIGNAL}{key}={value}" for key, value in more.items())]


# ---- a judge that misbehaves by plan


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


@dataclass
class Record:
    """A finished training, and the steps of each of its faults."""

    run: Training
    signal: str
    steps: dict[str, list[int]]
    judge: PlannedJudge | None = None
    last: int = 0

    def of(self, fault: str) -> list[dict[str, float]]:
        """The figures of the signal in the steps of a fault."""
        return [self.run.figures(step, self.signal) for step in self.steps[fault]]

    def failed(self, step: int) -> float:
        return self.run.metrics[step]["set_rl/signal_failed_groups"]

    def warned(self, step: int, kind: str) -> int:
        """Groups of which the run's output says that they failed for this reason."""
        line = (
            rf"step {step}: (\d+) prompts have no signal from {self.signal} and train on their base advantage: {kind}:"
        )
        return sum(int(count) for count in re.findall(line, self.run.log))

    def is_clean(self, step: int) -> bool:
        return self.failed(step) == 0 and self.run.figures(step, self.signal)["groups"] == PROMPTS


def planned(faults: Sequence[tuple[str, int, Fault]]) -> tuple[dict[int, Fault], dict[str, list[int]], int]:
    """Faults by step, steps by fault, and the step after all: step 1 and one step after each fault are clean."""
    plan: dict[int, Fault] = {}
    steps: dict[str, list[int]] = {}
    step = 2
    for name, count, fault in faults:
        steps[name] = list(range(step, step + count))
        plan |= dict.fromkeys(steps[name], fault)
        step += count + 1
    return plan, steps, step


def check_goes_on(record: Record, fault: str) -> None:
    """The fault's steps are there, and the one after them is clean."""
    assert set(record.steps[fault]) <= set(record.run.metrics), record.run.log[-6000:]
    assert record.is_clean(record.steps[fault][-1] + 1)


def check_nothing_lost(record: Record, fault: str) -> None:
    check_goes_on(record, fault)
    for step, figures in zip(record.steps[fault], record.of(fault), strict=True):
        assert record.is_clean(step)
        assert not [name for name in figures if name.startswith("failed_groups")]
        assert figures["collect_wait_s"] <= 30
        check_judged(record.run.groups(step))


def check_lost(record: Record, fault: str, kind: str, lost: int) -> None:
    """`lost` groups of each step failed for this reason, and say so wherever one may look."""
    check_goes_on(record, fault)
    for step, figures in zip(record.steps[fault], record.of(fault), strict=True):
        assert record.failed(step) == lost
        assert figures["groups"] == PROMPTS - lost
        assert {n: v for n, v in figures.items() if n.startswith("failed_groups")} == {f"failed_groups/{kind}": lost}
        assert figures["collect_wait_s"] <= WAIT_S + TOLERANCE_S
        groups = record.run.groups(step)
        assert [len(group) for group in groups] == [ROLLOUTS] * PROMPTS
        without = [group for group in groups if not group[0]["has_signal"]]
        assert len(without) == lost
        for group in without:
            check_base_advantage(group)
        check_judged([group for group in groups if group[0]["has_signal"]])
        assert record.warned(step, kind) == lost


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


def everything_written(run: Training) -> str:
    texts = [path.read_text(errors="replace") for path in run.folder.rglob("*") if path.is_file()]
    return "\n".join([*texts, run.ray_logs])


# ---- nobody there at the start


@pytest.fixture(scope="session")
def nobody_there(tmp_path_factory) -> Iterator[dict[str, tuple[Training, str]]]:
    """Both signals, started together, with a model and data that cannot be read: the run must end before it tries."""
    url = f"http://127.0.0.1:{free_port()}/v1"
    folder = tmp_path_factory.mktemp("nobody_there")
    empty = folder / "empty"
    for name in ("data/train.parquet", "data/test.parquet", "model/config.json", "model/tokenizer_config.json"):
        (empty / name).parent.mkdir(parents=True, exist_ok=True)
        (empty / name).touch()
    keys = {"timeout_s": TIMEOUT_S, "max_retries": 1}
    judge, embedder = signal_keys("judge", url, "judge", **keys), signal_keys("embedding", url, MODEL, **keys)
    runs = {
        "judge": (Training(empty, folder / "judge", "poly_epo", 2, *judge), url),
        "embedding": (Training(empty, folder / "embedding", "set_loo", 2, *embedder), url),
    }
    yield runs
    for run, _ in runs.values():
        run.end()


# ---- faults that cost no group: the run would end at the first that does (on_signal_failure=error)

FAILING_REWARD = """
import threading
from pathlib import Path
from verl_setpo.tasks.rewards import compute_score as right

metrics, steps, failed, lock = Path({metrics!r}), {steps!r}, set(), threading.Lock()

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    step = metrics.read_bytes().count(b"\\n") + 1 if metrics.exists() else 0
    with lock:
        first = step in steps and step not in failed
        failed.add(step)
    if first:
        raise RuntimeError("this response has no reward")
    return right(data_source, solution_str, ground_truth, extra_info, **kwargs)
"""

OUTAGE_S = 2.0


@pytest.fixture(scope="module")
def without_loss(nobody_there, inputs, tmp_path_factory) -> Record:
    # nobody_there: not used, but these runs can come to their end while the model for this one is made.
    folder = tmp_path_factory.mktemp("without_loss")
    while_away = threading.Event()

    def outage() -> None:
        judge.restart(OUTAGE_S)
        while_away.set()

    def refuse(body: dict[str, Any]) -> Response:
        return fails(400, f"not with {KEY}")(body)

    plan, steps, last = planned(
        [
            ("busy", 2, Fault(fails(429, "slow down", retry_after="1"), tries=1)),
            ("one 500", 1, Fault(BROKEN, tries=1)),
            ("one garbage", 1, Fault(NO_JSON, tries=1)),
            ("one half a body", 1, Fault(half_a_body, tries=1)),
            ("one with wrong ids", 1, Fault(WRONG_IDS, tries=1)),
            ("one that hangs", 1, Fault(FOR_EVER, tries=1)),
            ("outage", 1, Fault(lambda body: None if while_away.is_set() else FOR_EVER(body), event=outage)),
            ("killed actor", 1, Fault(event=lambda: run.kill_store_actor())),
            ("no reward", 2, Fault()),
        ]
    )
    plan[last] = Fault(refuse, groups=1)
    reward = folder / "failing_reward.py"
    reward.write_text(FAILING_REWARD.format(metrics=str(folder / "metrics.jsonl"), steps=set(steps["no reward"])))
    judge = PlannedJudge(folder, plan)
    judge.start()
    keys = {"timeout_s": 2, "deadline_s": 20, "max_retries": 3, "bad_answer_retries": 1, "wait_s": 20}
    overrides = [
        *signal_keys("judge", judge.url, "judge", **keys),
        "algorithm.set_rl.on_signal_failure=error",
        f"reward.custom_reward_function.path={reward}",
    ]
    run = Training(inputs, folder, "poly_epo", last + 3, *overrides)
    run.wait()
    judge.stop()
    return Record(run, "judge", steps, judge, last)


def test_no_step_is_missing_where_no_group_is_lost(without_loss):
    assert list(without_loss.run.metrics) == list(range(1, without_loss.last)), without_loss.run.log[-6000:]
    assert all(without_loss.is_clean(step) for step in without_loss.run.metrics)


def test_a_judge_that_says_when_to_come_back_is_asked_again_then(without_loss):
    check_nothing_lost(without_loss, "busy")
    for figures in without_loss.of("busy"):
        assert figures["retries"] >= PROMPTS
        assert figures["seconds/p50"] >= 1
        assert figures["failed_calls"] == 0


@pytest.mark.parametrize("fault", ["one 500", "one garbage", "one half a body"])
def test_a_call_that_fails_once_is_made_again(without_loss, fault):
    check_nothing_lost(without_loss, fault)
    (figures,) = without_loss.of(fault)
    assert figures["retries"] >= PROMPTS
    assert figures["calls"] >= PROMPTS
    assert figures["failed_calls"] == 0
    assert figures["parse_rate"] == 1


def test_an_answer_with_wrong_ids_is_asked_for_again_in_a_new_order(without_loss):
    check_nothing_lost(without_loss, "one with wrong ids")
    (figures,) = without_loss.of("one with wrong ids")
    assert figures["parse_rate"] == pytest.approx(0.5)
    assert figures["calls"] == 2 * PROMPTS


def test_a_request_that_hangs_once_is_given_up_and_made_again(without_loss):
    check_nothing_lost(without_loss, "one that hangs")
    (figures,) = without_loss.of("one that hangs")
    assert figures["retries"] >= PROMPTS
    assert 2 <= figures["seconds/p50"] < 10


def test_an_endpoint_that_is_away_for_less_than_the_step_waits_costs_no_group(without_loss):
    check_nothing_lost(without_loss, "outage")
    (figures,) = without_loss.of("outage")
    assert without_loss.judge.starts == 2
    assert figures["retries"] >= PROMPTS
    assert figures["seconds/p50"] >= OUTAGE_S


def test_a_killed_actor_is_started_again_and_gets_what_it_had(without_loss):
    check_nothing_lost(without_loss, "killed actor")
    (figures,) = without_loss.of("killed actor")
    assert ROLLOUTS <= figures["sent_again"] <= PROMPTS * ROLLOUTS
    # The reward worker learns of it by the first rollouts that it sends to the dead one.
    assert without_loss.run.figures(without_loss.steps["killed actor"][0] + 1, "judge")["sent_again"] < ROLLOUTS
    assert without_loss.run.figures(without_loss.steps["killed actor"][0] + 2, "judge")["sent_again"] == 0


def test_a_group_that_lost_a_rollout_is_judged_without_it(without_loss):
    check_nothing_lost(without_loss, "no reward")
    for step in without_loss.steps["no reward"]:
        sizes = sorted(len(group) for group in without_loss.run.groups(step))
        assert sizes == [ROLLOUTS - 1] + [ROLLOUTS] * (PROMPTS - 1)
        assert without_loss.run.figures(step, "judge")["ready"] == (PROMPTS - 1) / PROMPTS
    assert "this response has no reward" in without_loss.run.log


def test_a_run_can_be_told_to_end_at_the_first_group_that_fails(without_loss):
    run, last = without_loss.run, without_loss.last
    assert run.status not in (0, -1)
    (line,) = {line for line in run.log.splitlines() if "RuntimeError" in line and f"step {last}:" in line}
    assert (
        f"step {last}: 1 of {PROMPTS} prompts have no signal from judge and "
        f"algorithm.set_rl.on_signal_failure=error: refused: {without_loss.judge.url} answered 400: "
    ) in line
    assert "not with ***" in line


@pytest.mark.parametrize("signal", ["judge", "embedding"])
def test_a_run_whose_endpoint_is_not_there_ends_before_the_model_is_loaded(nobody_there, signal):
    run, url = nobody_there[signal]
    run.wait()
    assert run.status not in (0, -1)
    assert not run.metrics
    sentence = f"{SIGNAL}base_url={url} cannot be reached (All connection attempts failed): is the server up, is this"
    assert run.log.count(f"ValueError: {sentence}") == run.log.count("cannot be reached") == 1
    assert KEY not in everything_written(run)


# ---- faults for good, of some groups of a step, and at the end of the endpoint itself

SPOILT = 3
"""Groups of a step that a fault meets: fewer than `max_failed_fraction` (0.5) allows."""


@pytest.fixture(scope="module")
def with_loss(inputs, tmp_path_factory) -> Record:
    folder = tmp_path_factory.mktemp("with_loss")
    plan, steps, last = planned(
        [
            ("500", 1, Fault(BROKEN, groups=SPOILT)),
            ("garbage", 2, Fault(NO_JSON, groups=SPOILT)),
            ("half a body", 1, Fault(half_a_body, groups=SPOILT)),
            ("wrong ids", 2, Fault(WRONG_IDS, groups=SPOILT)),
            ("hang", 1, Fault(FOR_EVER, groups=SPOILT)),
        ]
    )
    judge = PlannedJudge(folder, plan)
    plan[last] = Fault(FOR_EVER, event=judge.stop)
    judge.start()
    keys = {"timeout_s": TIMEOUT_S, "deadline_s": 20, "max_retries": 1, "bad_answer_retries": 1, "wait_s": WAIT_S}
    run = train(inputs, folder, "poly_epo", last + 3, *signal_keys("judge", judge.url, "judge", **keys))
    return Record(run, "judge", steps, judge, last)


def test_no_step_is_missing_where_groups_are_lost(with_loss):
    assert list(with_loss.run.metrics) == list(range(1, with_loss.last)), with_loss.run.log[-6000:]
    faulty = {step for steps in with_loss.steps.values() for step in steps}
    assert all(with_loss.is_clean(step) for step in with_loss.run.metrics if step not in faulty)


def test_groups_that_the_judge_answers_500_train_on_their_base_advantage(with_loss):
    check_lost(with_loss, "500", "server", SPOILT)
    for figures in with_loss.of("500"):
        assert figures["failed_calls/server"] >= SPOILT
        assert figures["retries"] >= SPOILT
    assert "no answer for Bearer ***" in with_loss.run.log


def test_garbage_in_place_of_json_fails_its_groups(with_loss):
    check_lost(with_loss, "garbage", "bad_answer", SPOILT)
    for figures in with_loss.of("garbage"):
        assert figures["failed_calls/bad_answer"] == SPOILT
        assert figures["retries"] >= SPOILT


def test_half_a_body_fails_its_groups(with_loss):
    check_lost(with_loss, "half a body", "connection", SPOILT)
    (figures,) = with_loss.of("half a body")
    assert figures["failed_calls/connection"] >= SPOILT
    assert "broke off" in with_loss.run.log


def test_wrong_ids_fail_their_groups_and_the_others_keep_their_verdicts(with_loss):
    check_lost(with_loss, "wrong ids", "bad_answer", SPOILT)
    for figures in with_loss.of("wrong ids"):
        # Answers that came, were paid for, and could not be used: two of each spoilt group.
        assert figures["parse_rate"] == pytest.approx(1 - 2 * SPOILT / (PROMPTS + SPOILT))
        assert figures["failed_calls"] == 0


def test_a_judge_that_hangs_holds_a_step_up_no_longer_than_wait_s(with_loss):
    check_lost(with_loss, "hang", "timeout", SPOILT)
    (figures,) = with_loss.of("hang")
    assert figures["failed_calls/timeout"] >= SPOILT
    assert figures["collect_wait_s"] >= TIMEOUT_S


def test_a_run_ends_with_the_cause_when_too_many_groups_fail(with_loss):
    run, last = with_loss.run, with_loss.last
    assert run.status not in (0, -1)
    (line,) = {line for line in run.log.splitlines() if "RuntimeError" in line and f"step {last}:" in line}
    assert (
        f"step {last}: {PROMPTS} of {PROMPTS} prompts have no signal from judge, more than "
        f"algorithm.set_rl.max_failed_fraction=0.5 allows: connection: {with_loss.judge.url} cannot be reached ("
    ) in line


# ---- an embedder that misbehaves by plan


class PlannedEmbedder:
    """What the server of embeddings makes of its right answers: `plan` has (answer, requests of the step it is for)."""

    def __init__(self, folder: Path, plan: dict[int, Any]) -> None:
        self.folder, self.plan = folder, plan
        self.lock = threading.Lock()
        self.first: dict[int, np.ndarray] = {}
        self.asked: dict[int, int] = defaultdict(int)

    def __call__(self, right: dict[str, Any]) -> Any:
        step = step_of(self.folder)
        with self.lock:
            self.asked[step] += 1
            first = self.first.setdefault(step, unpacked(right["data"][0]["embedding"]))
            wrong, requests = self.plan.get(step, (None, 0))
            if self.asked[step] > requests:
                return right
        return wrong(right, first)


def nan_for_one_text(right: dict[str, Any], first: np.ndarray) -> dict[str, Any]:
    for item in right["data"]:
        vector = unpacked(item["embedding"])
        if vector @ first > 0.9999:
            vector[7] = math.nan
            item["embedding"] = packed(vector)
    return right


def fewer_dimensions(right: dict[str, Any], first: np.ndarray) -> dict[str, Any]:
    for item in right["data"]:
        item["embedding"] = packed(unpacked(item["embedding"])[:100])
    return right


@pytest.fixture(scope="module")
def embedded(inputs, tmp_path_factory) -> Record:
    folder = tmp_path_factory.mktemp("embedded")
    minilm()  # loaded before the first request, which is given EMBEDDER_TIMEOUT_S
    always = math.inf
    plan, steps, last = planned(
        [
            ("NaN", 2, (nan_for_one_text, always)),
            ("dimension", 1, (fewer_dimensions, always)),
            ("500", 1, (lambda right, first: BROKEN(right), always)),
            ("one 500", 1, (lambda right, first: BROKEN(right), 1)),
            ("half a body", 1, (lambda right, first: half_a_body(right), always)),
            ("hang", 1, (lambda right, first: FOR_EVER(right), always)),
        ]
    )
    # No request is made again but by the store, and none is answered from the cache.
    keys = {
        "timeout_s": EMBEDDER_TIMEOUT_S,
        "deadline_s": 20,
        "max_retries": 0,
        "wait_s": EMBEDDER_WAIT_S,
        "cache_size": 0,
    }
    with embedding_server() as server:
        server.fault = PlannedEmbedder(folder, plan)
        overrides = [*signal_keys("embedding", server.url, MODEL, **keys), "algorithm.set_rl.max_failed_fraction=1"]
        run = train(inputs, folder, "set_loo", last, *overrides)
    return Record(run, "embedding", steps, last=last)


def test_no_step_is_missing_where_the_embedder_fails(embedded):
    assert embedded.run.status == 0, embedded.run.log[-6000:]
    assert list(embedded.run.metrics) == list(range(1, embedded.last + 1))
    faulty = {step for steps in embedded.steps.values() for step in steps}
    assert all(embedded.is_clean(step) for step in embedded.run.metrics if step not in faulty)


def check_not_embedded(record: Record, fault: str, kind: str, lost: int | None = None) -> None:
    """`lost` groups of each step, by default some of them, failed for this reason and trained on verl's advantage."""
    check_goes_on(record, fault)
    for step, figures in zip(record.steps[fault], record.of(fault), strict=True):
        failed = record.failed(step)
        assert 0 < failed < PROMPTS if lost is None else failed == lost
        assert figures["groups"] == PROMPTS - failed
        assert {n: v for n, v in figures.items() if n.startswith("failed_groups")} == {f"failed_groups/{kind}": failed}
        assert figures["collect_wait_s"] <= EMBEDDER_WAIT_S + TOLERANCE_S
        groups = record.run.groups(step)
        assert [len(group) for group in groups] == [ROLLOUTS] * PROMPTS
        without = [group for group in groups if not group[0]["has_signal"]]
        assert len(without) == failed
        assert record.warned(step, kind) == failed
        for row in itertools.chain(*without):
            assert not row["has_signal"]
            assert row["advantage"] == row["base_advantage"]
        for group in groups:
            if group not in without:
                check_embedded(group)


def check_embedded(group: list[dict[str, Any]]) -> None:
    """The credit is there: coef (5) times it is what the advantage has beyond verl's."""
    assert all(row["has_signal"] for row in group)
    assert any(row["credit"] > 0 for row in group) or len({row["answer"] for row in group}) == 1
    assert all(row["advantage"] - row["base_advantage"] == pytest.approx(row["credit"], abs=2e-5) for row in group)


def test_a_text_whose_vector_has_nan_fails_its_group_and_none_that_shared_the_request(embedded):
    check_not_embedded(embedded, "NaN", "bad_answer")
    for step, figures in zip(embedded.steps["NaN"], embedded.of("NaN"), strict=True):
        assert figures["failed_calls/bad_answer"] >= 1
        failed = [group for group in embedded.run.groups(step) if not group[0]["has_signal"]]
        assert set.intersection(*({row["answer"] for row in group} for group in failed))


def test_vectors_of_another_dimension_are_not_mixed_with_the_first(embedded):
    check_not_embedded(embedded, "dimension", "bad_answer", PROMPTS)
    assert "gave vectors of 100 dimensions after 384: is it one model?" in embedded.run.log


def test_an_embedder_that_answers_500_leaves_the_base_advantage(embedded):
    check_not_embedded(embedded, "500", "server", PROMPTS)
    assert all(figures["failed_calls/server"] >= 1 for figures in embedded.of("500"))
    assert "no answer for Bearer ***" in embedded.run.log


def test_a_step_tries_again_what_failed_before_it_looked(embedded):
    check_goes_on(embedded, "one 500")
    for step, figures in zip(embedded.steps["one 500"], embedded.of("one 500"), strict=True):
        assert embedded.is_clean(step)
        assert figures["failed_calls/server"] == 1
        assert figures["ready"] < 1
        for group in embedded.run.groups(step):
            check_embedded(group)


def test_half_a_body_of_vectors_leaves_the_base_advantage(embedded):
    check_not_embedded(embedded, "half a body", "connection", PROMPTS)
    assert all(figures["failed_calls/connection"] >= 1 for figures in embedded.of("half a body"))


def test_an_embedder_that_hangs_holds_a_step_up_no_longer_than_wait_s(embedded):
    check_not_embedded(embedded, "hang", "timeout", PROMPTS)
    (figures,) = embedded.of("hang")
    assert figures["failed_calls/timeout"] >= 1
    assert figures["collect_wait_s"] >= EMBEDDER_TIMEOUT_S


# ---- the key


@pytest.mark.parametrize("name", ["without_loss", "with_loss", "embedded"])
def test_the_key_is_nowhere_in_what_a_run_writes(name, request):
    run = request.getfixturevalue(name).run
    written = everything_written(run)
    assert "CANARY_KEY" in written
    assert "***" in written
    assert len(run.ray_logs) > 1000
    assert KEY not in written
