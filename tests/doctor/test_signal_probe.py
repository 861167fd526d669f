"""Whether a signal can work, by the probe of a run's start, against real HTTP servers and a real embedding model."""

from __future__ import annotations

import json

import pytest

from tests.signals.embedding.models import MINILM
from tests.signals.fake_server import completion, fails, free_port, serve
from tests.signals.judge.test_judge import seen
from verl_setpo.doctor.command_line import compose_run
from verl_setpo.doctor.signal_probe import signal_check
from verl_setpo.trainer.settings import read_settings

KEY = "sk-canary-5a90e1"


def probe(*words):
    config = compose_run(["actor_rollout_ref.rollout.n=8", *words])
    (check,) = signal_check(read_settings(config.algorithm))
    return check


def judge_words(url, *words):
    signal = "algorithm.set_rl.signal"
    return ["+set_rl=poly_epo", "+set_rl/signal=judge", f"{signal}.base_url={url}", f"{signal}.model=judge", *words]


def one_cluster(body):
    return completion(json.dumps({name: {"strategy": "s", "cluster_id": 1} for name in seen(body)}))


def test_a_signal_without_a_server_needs_none():
    check = probe("+set_rl=poly_epo")
    assert check.status == "ok"
    assert "no server" in check.found


def test_a_judge_that_answers_is_well_and_was_asked():
    with serve(one_cluster) as server:
        check = probe(*judge_words(server.url))
    assert check.status == "ok", check.found
    assert "its server answers" in check.found
    assert len(server.asked) == 1


def test_a_judge_that_is_not_there_fails_with_the_key_that_names_it():
    check = probe(*judge_words(f"http://127.0.0.1:{free_port()}/v1"))
    assert check.status == "fail"
    assert "algorithm.set_rl.signal.base_url=" in check.found
    assert "cannot be reached" in check.found


def test_a_judge_that_refuses_the_key_fails_without_showing_it(monkeypatch):
    monkeypatch.setenv("DOCTOR_TEST_KEY", KEY)
    with serve(one_cluster, key="another") as server:
        check = probe(*judge_words(server.url, "algorithm.set_rl.signal.api_key_env=DOCTOR_TEST_KEY"))
    assert check.status == "fail"
    assert "api_key_env holds a wrong one" in check.found
    assert KEY not in check.found


def test_a_judge_that_fails_at_its_work_fails():
    with serve(fails(400, "no structured output here")) as server:
        check = probe(*judge_words(server.url))
    assert check.status == "fail"
    assert "no structured output here" in check.found


def test_a_local_embedder_is_loaded_and_a_missing_one_fails():
    words = ["+set_rl=set_loo", "+set_rl/signal=embedding_local"]
    check = probe(*words, f"algorithm.set_rl.signal.model={MINILM}")
    assert check.status == "ok", check.found
    assert "its model is loaded and answers" in check.found
    missing = probe(*words, "algorithm.set_rl.signal.model=/nowhere")
    assert missing.status == "fail"
    assert "algorithm.set_rl.signal.model=/nowhere cannot be loaded" in missing.found


def test_a_server_that_the_run_starts_is_not_done():
    check = probe("+set_rl=poly_epo", "+set_rl/signal=judge_reward_model")
    assert check.status == "not done"
    assert "reward.reward_model" in check.found


@pytest.mark.parametrize("word", ["algorithm.set_rl.signal.name=test_line"])
def test_a_signal_of_somebodys_own_is_started_as_in_a_run(word):
    from tests.trainer import batches  # noqa: F401  (registers it)

    assert probe("+set_rl=set_loo", word).status == "ok"
