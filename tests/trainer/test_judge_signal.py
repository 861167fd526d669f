"""A trainer with the signal `judge`: real actors ask a real HTTP server, whose clusters become advantages."""

from __future__ import annotations

import asyncio
import json
import math

import numpy as np
import pytest
from verl.trainer.ppo.reward import load_reward_manager

from tests.signals.fake_server import fails, says, serve
from tests.signals.judge.test_judge import by_first_word, seen
from tests.trainer import exact
from tests.trainer.batches import assert_same_bits, by_key, groups_of, rewards_of
from tests.trainer.conftest import EOS, Row, Tokenizer, compose_config, compute, make_trainer
from tests.trainer.test_reward_manager import outputs
from verl_setpo.trainer.config_check import check_config

SET_SIZE = 2
POLY = ("+set_rl=poly_epo", "+set_rl/signal=judge", f"algorithm.set_rl.set_size={SET_SIZE}")
SIGNAL = "algorithm.set_rl.signal."
P = "set_rl/judge/"


@pytest.fixture(scope="module")
def server():
    with serve(by_first_word) as running:
        yield running


@pytest.fixture(scope="module")
def started(queue, server, tmp_path_factory):
    trainer = make_trainer(
        *POLY,
        "algorithm.set_rl.max_failed_fraction=1",
        f"algorithm.set_rl.rollout_log={tmp_path_factory.mktemp('log')}",
        f"{SIGNAL}base_url={server.url}",
        f"{SIGNAL}model=judge",
        f"{SIGNAL}max_retries=0",
        f"{SIGNAL}bad_answer_retries=0",
        f"{SIGNAL}wait_s=20",
    )
    trainer.signal.start(trainer.run)
    yield trainer
    trainer.signal.close()


@pytest.fixture
def trainer(started, server):
    server.then.clear()
    server.always = by_first_word
    started.signal.collect([])  # what an earlier test left of figures
    server.asked.clear()
    started.global_steps += 1
    return started


def rows_of(uid, *texts, rewards=(1, 0, 1, 0), sessions=range(8), question="What is 3 + 4?"):
    return [
        Row(uid, session, 0, float(reward), text, question=question)
        for session, text, reward in zip(sessions, texts, rewards, strict=False)
    ]


def whole(uid):
    """Two strategies and one rollout without any."""
    return rows_of(uid, f"factor {uid}", f"formula {uid}", "factor 2", "junk")


def poisoned(uid):
    return rows_of(uid, f"factor {uid}", "poison", "formula", "factor")


def but_for_poison(answer):
    return lambda body: (answer if any("poison" in text for text in seen(body).values()) else by_first_word)(body)


def clusters_of(group):
    words = ["" if row.text.startswith("junk") else row.text.split()[0] for row in group]
    return exact.number_clusters(words)


def expected(rows):
    """(uid, session) -> Poly-EPO's advantage by the judge's clusters, one set at a time, in fractions."""
    found = {}
    for uid, group in groups_of(rows).items():
        values = exact.marginal_of_all_sets(rewards_of(group), clusters_of(group), exact.polychromic, SET_SIZE)
        found |= {(uid, row.session): float(value) for row, value in zip(group, values, strict=True)}
    return found


def assert_advantages(result, rows):
    for (uid, session), value in expected(rows).items():
        assert result.of(uid, session) == pytest.approx(value, abs=1e-6)


def figures(result):
    return {name.removeprefix(P): value for name, value in result.metrics.items() if name.startswith(P)}


def log_of(trainer):
    path = f"{trainer.settings.rollout_log}/{trainer.global_steps}.jsonl"
    with open(path, encoding="ascii") as file:
        return [json.loads(line) for line in file]


def generate(trainer, rows, group_size=4):
    """What the reward workers do with rows while others generate, with verl's own way to the reward manager."""
    manager = load_reward_manager(trainer.config, Tokenizer())
    manager.settle = True

    async def main():
        for row in rows:
            data = outputs(row.text + chr(EOS))
            columns = {
                "uid": row.uid,
                "session_id": row.session,
                "raw_prompt": [{"role": "user", "content": row.question}],
                "set_rl_rollouts": group_size,
            }
            for name, value in columns.items():
                data.non_tensor_batch[name] = np.empty(1, dtype=object)
                data.non_tensor_batch[name][0] = value
            await manager.run_single(data)

    manager.loop.run_until_complete(asyncio.wait_for(main(), 20))


def test_advantages_are_poly_epos_for_the_judges_clusters(trainer):
    rows = [
        *whole("a"),
        *rows_of("same", *["factor"] * 4),
        *rows_of("gaps", "one", "two", "two x", sessions=(0, 2, 5), rewards=(1, 0.5, 0)),
        *rows_of("junk", "junk", "junk", "junk", "x", rewards=(1, 1, 0, 0)),
    ]
    result = compute(trainer, rows[::-1], pad_to=8)
    assert_advantages(result, rows)
    assert len({round(a, 4) for a in result.group("a")}) > 2
    assert result.group("same") == [0, 0, 0, 0]  # one strategy: every set is worth 0
    assert figures(result)["groups"] == 4
    assert result.metrics["set_rl/signal_failed_groups"] == 0
    assert result.metrics["set_rl/degenerate_fraction"] == pytest.approx(4 / 15)
    assert result.metrics["set_rl/clusters_per_prompt/mean"] == pytest.approx((2 + 1 + 2 + 1) / 4)


def test_the_judge_gets_each_prompts_own_question_and_all_its_responses_in_one_call(trainer, server):
    rows = [
        *rows_of("q1", "a 1", "b 1", "a 2", "b 2", question="What is 5 + 6?"),
        *rows_of("q2", "c 1", "d 1", "c 2", "d 2", question="Name a prime."),
    ]
    compute(trainer, rows, pad_to=8)
    assert len(server.asked) == 2
    for question, uid in (("What is 5 + 6?", "q1"), ("Name a prime.", "q2")):
        (body,) = [body for body in server.asked if question in str(body["messages"])]
        assert sorted(seen(body).values()) == sorted(row.text for row in rows if row.uid == uid)


def test_a_failed_group_trains_on_its_base_advantage_bit_for_bit_and_the_others_on_theirs(trainer, server, caplog):
    server.always = but_for_poison(fails(400, "too long for me"))
    rows = [*whole("a1"), *poisoned("p1"), *whole("a2")]
    result = compute(trainer, rows, pad_to=8)
    base = make_trainer("algorithm.adv_estimator=grpo", "algorithm.norm_adv_by_std_in_grpo=False")
    plain = by_key(compute(base, rows, pad_to=8))
    for key, advantage in by_key(result).items():
        if key[0] == "p1":
            assert_same_bits([plain[key]], [advantage])
    assert_advantages(result, [row for row in rows if row.uid != "p1"])
    assert result.group("p1") != [pytest.approx(v) for (u, _), v in expected(rows).items() if u == "p1"]
    found = figures(result)
    assert (found["groups"], found["calls"], found["failed_calls"]) == (2, 3, 1)
    assert (found["failed_calls/refused"], found["failed_groups/refused"]) == (1, 1)
    assert result.metrics["set_rl/signal_failed_groups"] == 1
    assert "1 prompts have no signal from judge and train on their base advantage: refused: " in caplog.text
    assert "too long for me" in caplog.text


def test_a_server_that_was_away_costs_time_and_no_group(trainer, server):
    server.then = [fails(503), fails(429)]
    rows = [*whole("b1"), *whole("b2")]
    result = compute(trainer, rows, pad_to=8)
    assert_advantages(result, rows)
    found = figures(result)
    assert (found["groups"], found["calls"], found["failed_calls"]) == (2, 4, 2)
    assert (found["failed_calls/server"], found["failed_calls/rate_limit"]) == (1, 1)
    assert 0.9 < found["collect_wait_s"] < 10
    assert not any(name.startswith("failed_groups") for name in found)


def test_figures_are_of_this_step_only(trainer, server):
    server.always = but_for_poison(says("{}"))
    first = figures(compute(trainer, [*whole("c1"), *poisoned("c2")], pad_to=8))
    trainer.global_steps += 1
    second = figures(compute(trainer, [*whole("c3"), *whole("c1")], pad_to=8))
    assert (first["failed_groups/bad_answer"], first["parse_rate"], first["calls"]) == (1, 0.5, 2)
    assert not any("bad_answer" in name for name in second)
    assert (second["groups"], second["calls"], second["failed_calls"], second["retries"]) == (2, 1, 0, 0)
    assert (second["cache_hits"], second["prompt_tokens"], second["completion_tokens"]) == (1, 10, 5)
    assert (second["sent_again"], second["ready"], second["parse_rate"]) == (8, 0, 1)
    assert (second["held_groups"], second["held_mb"], second["dropped_groups"]) == (0, 0, 0)
    assert 0 < second["seconds/p50"] <= second["seconds/p95"] < 5
    assert 0 < second["collect_wait_s"] < 10
    assert all(isinstance(value, float) and math.isfinite(value) for value in second.values())


def test_rollouts_that_reward_workers_submitted_have_their_verdict_before_the_step(trainer, server):
    rows = [*whole("d1"), *whole("d2")]
    generate(trainer, rows + whole("filtered"))
    assert len(server.asked) == 3  # before the trainer asks for anything
    assert all("What is 3 + 4?" in str(body["messages"]) for body in server.asked)
    result = compute(trainer, rows, pad_to=8)
    assert_advantages(result, rows)
    assert len(server.asked) == 3
    found = figures(result)
    assert (found["ready"], found["sent_again"], found["calls"], found["held_groups"]) == (1, 0, 3, 1)
    assert found["held_mb"] > 0


def test_the_rollout_log_has_the_judges_words(trainer, server):
    server.always = but_for_poison(fails(400))
    rows = [*whole("e1"), *poisoned("e2")]
    compute(trainer, rows, pad_to=8)
    lines = log_of(trainer)
    assert [line["strategy"] for line in lines if line["uid"] == "e1"] == [
        "by factor", "by formula", "by factor", "by junk",
    ]  # fmt: skip
    clusters = [line["cluster"] for line in lines if line["uid"] == "e1"]
    assert clusters[0] == clusters[2] != clusters[1]
    assert clusters[3] == -1
    assert [line["has_signal"] for line in lines] == [True] * 4 + [False] * 4
    assert [line["strategy"] for line in lines if line["uid"] == "e2"] == [""] * 4


def test_a_wrong_address_ends_the_run_before_any_model_is_loaded(queue):
    """The trainer's real constructor, of which nothing after the signal is reached."""
    config = compose_config(*POLY, f"{SIGNAL}base_url=http://127.0.0.1:9/v1", f"{SIGNAL}model=judge")
    from verl.trainer.ppo.v1 import get_trainer_cls

    with pytest.raises(ValueError, match=r"^algorithm\.set_rl\.signal\.base_url=http://127.0.0.1:9/v1 cannot be reac"):
        get_trainer_cls("set_sync")(config)


SERVED = (f"{SIGNAL}base_url=http://h/v1", f"{SIGNAL}model=m")
OWN_SERVER = ("+set_rl=poly_epo", f"{SIGNAL}name=judge", f"+{SIGNAL}kind=reward_model")
WRONG = {
    "a kernel": (
        ("+set_rl=poly_epo", "+set_rl/signal=embedding", *SERVED),
        r"signal\.name=embedding gives a kernel, and poly_epo needs clusters: set .*=answer or judge",
    ),
    "an unknown key": ((*POLY, *SERVED, f"+{SIGNAL}modle=x"), r"signal\.modle is not a key"),
    "an unknown kind": ((*POLY, *SERVED, f"{SIGNAL}kind=oracle"), r"signal\.kind=oracle is unknown"),
    "a value out of range": ((*POLY, *SERVED, f"{SIGNAL}temperature=3"), r"signal\.temperature: .*less than or equal"),
    "a value that is no number": ((*POLY, *SERVED, f"{SIGNAL}wait_s=long"), r"signal\.wait_s: .*valid number"),
    "no address": ((*POLY, f"{SIGNAL}model=m"), r"signal\.base_url must be set"),
    "a key in the address": (
        (*POLY, f"{SIGNAL}base_url='http://me:sk-canary@h/v1'", f"{SIGNAL}model=m"),
        r"signal\.base_url.* must be a plain URL without user",
    ),
    "no server of verl's": (OWN_SERVER, r"signal\.kind=reward_model needs .* reward\.reward_model\.enable=True"),
    "a server that gives the reward": (
        (*OWN_SERVER, "reward.reward_model.enable=True", "reward.reward_model.model_path=m"),
        r"reward\.custom_reward_function\.path=null makes verl take the reward from the model",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_config_is_one_sentence_before_anything_starts(case):
    overrides, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        check_config(compose_config(*overrides, "actor_rollout_ref.rollout.n=8"))
    assert "\n" not in str(error.value)
    assert "sk-canary" not in str(error.value)


def test_the_same_clusters_whatever_their_numbers(trainer):
    """A verdict numbers clusters in the order in which rollouts arrived, which the mathematics must not see."""
    rows = whole("f1")
    generate(trainer, rows[::-1])
    assert_advantages(compute(trainer, rows, pad_to=8), rows)
