"""Faults of a judge, a store actor and a reward function, while real trainings run.

Two trainings, each with many faults one after the other: the judge looks up the step of the run in its metrics and
misbehaves in the steps that the plans below name, with clean steps between. Each test looks at the record of one fault.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import Response

from tests.end_to_end.faulty_run import (
    BROKEN,
    FOR_EVER,
    KEY,
    PROMPTS,
    ROLLOUTS,
    SIGNAL,
    TOLERANCE_S,
    Record,
    Training,
    check_goes_on,
    check_key_is_nowhere,
    everything_written,
    planned,
    signal_keys,
    train,
)
from tests.end_to_end.planned_judge import Fault, PlannedJudge, check_base_advantage, check_judged
from tests.signals.embedding.server import MODEL
from tests.signals.fake_server import fails, free_port, half_a_body, raw, says

pytestmark = pytest.mark.slow

WAIT_S, TIMEOUT_S = 5.0, 2.0
NO_JSON = raw("I am sorry, I cannot do that.", "text/plain")
WRONG_IDS = says(json.dumps({"zzzz": {"strategy": "by itself", "cluster_id": 1}}))


@dataclass
class Judged(Record):
    judge: PlannedJudge


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
def without_loss(nobody_there, inputs, tmp_path_factory) -> Judged:
    # nobody_there: not used, but these runs can come to their end while the model for this one is made.
    folder = tmp_path_factory.mktemp("without_loss")
    while_away = threading.Event()

    def outage() -> None:
        judge.restart(OUTAGE_S + 0.3)  # a group's call may begin when the judge is away already
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
    return Judged(run, "judge", steps, last, judge)


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
def with_loss(inputs, tmp_path_factory) -> Judged:
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
    return Judged(run, "judge", steps, last, judge)


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


@pytest.mark.parametrize("name", ["without_loss", "with_loss"])
def test_the_key_is_nowhere_in_what_a_run_writes(name, request):
    check_key_is_nowhere(request.getfixturevalue(name).run)
