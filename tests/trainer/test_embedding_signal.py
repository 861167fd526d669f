"""A trainer with the signal `embedding`: a real model, behind a real HTTP server or in real actors, whose cosines
become advantages."""

from __future__ import annotations

import asyncio

import pytest
import torch
from fastapi import Response

from tests.signals.embedding.models import FACTORING, MINILM, PROBABILITY, TRIANGLE, minilm
from tests.signals.embedding.server import MODEL, embedding_server
from tests.signals.store.test_batcher import refuses
from tests.trainer.batches import assert_same_bits, by_key, groups_of
from tests.trainer.conftest import Row, compose_config, compute, make_trainer
from tests.trainer.test_judge_signal import SIGNAL, generate
from verl_setpo.set_rl import cosine_kernel, set_loo
from verl_setpo.signals import Rollout, build_signal
from verl_setpo.signals.store.shard import Reply
from verl_setpo.trainer.config_check import check_config

COEF = 0.5
LOO = ("+set_rl=set_loo", f"algorithm.set_rl.coef={COEF}", "algorithm.set_rl.max_failed_fraction=1")
P = "set_rl/embedding/"
POISON = "Nobody may embed this."


@pytest.fixture(scope="module")
def server():
    with embedding_server() as running:
        yield running


@pytest.fixture(scope="module")
def started(queue, server):
    trainer = make_trainer(
        *LOO,
        "+set_rl/signal=embedding",
        f"{SIGNAL}base_url={server.url}",
        f"{SIGNAL}model={MODEL}",
        f"{SIGNAL}tokenizer=null",
        f"{SIGNAL}max_retries=0",
        f"{SIGNAL}wait_s=20",
    )
    trainer.signal.start(trainer.run)
    yield trainer
    trainer.signal.close()


@pytest.fixture
def trainer(started, server):
    server.fault = None
    started.signal.collect([])  # what an earlier test left of figures
    server.inputs.clear()
    return started


def rows_of(uid, *texts):
    return [Row(uid, session, 0, session % 2, text) for session, text in enumerate(texts)]


def base_of(rows):
    return compute(make_trainer("algorithm.adv_estimator=grpo"), rows, pad_to=8)


def kernel_of(texts):
    """SetPO's kernel of the model's own vectors; what is empty is like every other."""
    kernel_NN = cosine_kernel(torch.tensor(minilm().encode(texts))[None])[0]
    empty_N = torch.tensor([not text.strip() for text in texts])
    return torch.where(empty_N[:, None] | empty_N, 1.0, kernel_NN)


def assert_advantages(result, rows, embedded=lambda row: row.text):
    """GRPO's, by verl, plus coef times the leave-one-out credit of that kernel."""
    base = base_of(rows)
    for uid, group in groups_of(rows).items():
        credit_N = set_loo(kernel_of([embedded(row) for row in group])[None], shaping="neg_log1p")[0]
        assert credit_N.abs().max() > 1e-3
        for row, credit in zip(group, credit_N.tolist(), strict=True):
            expected = base.of(uid, row.session) + COEF * credit
            assert result.of(uid, row.session) == pytest.approx(expected, abs=2e-5)


def figures(result):
    return {name.removeprefix(P): value for name, value in result.metrics.items() if name.startswith(P)}


def test_advantages_are_setpos_for_the_cosines_of_the_models_vectors(trainer, server):
    rows = [
        *rows_of("a", *FACTORING, TRIANGLE[0]),
        *rows_of("b", *TRIANGLE, *PROBABILITY),
        *rows_of("empty", FACTORING[0], "", PROBABILITY[0], " "),
    ]
    result = compute(trainer, rows[::-1], pad_to=8)
    assert_advantages(result, rows)
    found = figures(result)
    assert len(server.inputs) == 1  # what comes at once shares a request
    assert sorted(server.inputs[0]) == sorted([*FACTORING, *TRIANGLE, *PROBABILITY])
    assert (found["groups"], found["calls"], found["failed_calls"], found["retries"]) == (3, 1, 0, 0)
    assert (found["sent_again"], found["ready"], found["prompt_tokens"]) == (len(rows), 0, 7)
    assert found["cache_hits"] == 3  # of nine texts three came twice
    assert 0 < found["seconds/p50"] < 10
    assert 0 < found["collect_wait_s"] < 20


def test_texts_known_from_an_earlier_step_are_not_asked_for_again_and_figures_are_of_this_step(trainer, server):
    rows = rows_of("a", *FACTORING, TRIANGLE[0])
    compute(trainer, rows, pad_to=8)
    server.inputs.clear()
    result = compute(trainer, rows, pad_to=8)
    assert_advantages(result, rows)
    found = figures(result)
    assert server.inputs == []
    assert (found["calls"], found["cache_hits"], found["prompt_tokens"]) == (0, 3, 0)
    assert "seconds/p50" not in found


def test_a_refused_text_costs_its_own_group_which_trains_on_its_base_advantage(trainer, server, caplog):
    refuses(server, POISON)
    rows = [
        *rows_of("a", "one", "two", "three"),
        *rows_of("p", "four", POISON, "five"),
        *rows_of("b", *PROBABILITY, "six"),
    ]
    result = compute(trainer, rows, pad_to=8)
    assert any(POISON in texts and len(texts) > 1 for texts in server.inputs)  # it shared a request
    base = by_key(base_of(rows))
    for key, advantage in by_key(result).items():
        if key[0] == "p":
            assert_same_bits([base[key]], [advantage])
    assert_advantages(result, [row for row in rows if row.uid == "a"])
    assert_advantages(result, [row for row in rows if row.uid == "b"])
    found = figures(result)
    assert (found["groups"], found["failed_groups/refused"]) == (2, 1)
    assert found["failed_calls"] == found["failed_calls/refused"] >= 2
    assert found["calls"] == len(server.inputs)
    assert result.metrics["set_rl/signal_failed_groups"] == 1
    assert "no signal from embedding and train on their base advantage: refused: " in caplog.text


def nan_of(right):
    data = ",".join(
        f'{{"object": "embedding", "index": {i}, "embedding": [NaN, 1.0]}}' for i in range(len(right["data"]))
    )
    return Response(f'{{"object": "list", "model": "m", "data": [{data}]}}', media_type="application/json")


def short(right):
    return {**right, "data": [{**row, "embedding": [1.0, 0.0, 0.5]} for row in right["data"]]}


@pytest.mark.parametrize("fault", [nan_of, short])
def test_wrong_vectors_cost_the_groups_of_that_step_and_none_of_the_next(trainer, server, fault):
    rows = rows_of("w", f"alpha {fault.__name__}", "beta", f"gamma {fault.__name__}")
    server.fault = fault
    wrong = compute(trainer, rows, pad_to=8)
    assert_same_bits(base_of(rows).advantages, wrong.advantages)
    assert figures(wrong)["failed_groups/bad_answer"] == 1
    assert figures(wrong)["groups"] == 0
    server.fault = None
    right = compute(trainer, rows, pad_to=8)
    assert_advantages(right, rows)
    assert not any(name.startswith("failed") and value for name, value in figures(right).items())


def test_a_server_that_was_away_costs_time_and_no_group(trainer, server):
    away = [Response("{}", 503), Response("{}", 429)]
    server.fault = lambda right: away.pop() if away else right
    rows = rows_of("x", "delta", "epsilon", "zeta")
    result = compute(trainer, rows, pad_to=8)
    assert_advantages(result, rows)
    found = figures(result)
    # All together 429, all together 503, which one of them may have caused, then each of the three alone.
    assert (found["calls"], found["failed_calls/server"], found["failed_calls/rate_limit"]) == (5, 1, 1)
    assert found["collect_wait_s"] > 1.5


def test_rollouts_that_reward_workers_submitted_have_their_embedding_before_the_step(trainer, server):
    rows = rows_of("g", "Eta is a letter.", "Theta is one too.", "Iota, which is small.")
    generate(trainer, rows)
    assert len(server.inputs) == 3  # each when it was finished
    result = compute(trainer, rows, pad_to=8)
    assert_advantages(result, rows)
    found = figures(result)
    assert (found["ready"], found["sent_again"], found["calls"]) == (1, 0, 3)
    assert len(server.inputs) == 3


# ---- a model in the actors


@pytest.fixture(scope="module")
def local(queue):
    trainer = make_trainer(
        *LOO,
        "+set_rl/signal=embedding_local",
        f"{SIGNAL}model={MINILM}",
        f"{SIGNAL}max_tokens=null",
        f"{SIGNAL}part=answer",
        f"{SIGNAL}wait_s=60",
    )
    trainer.signal.start(trainer.run)
    yield trainer
    trainer.signal.close()


def test_a_model_in_the_actors_embeds_answers_and_who_gives_none_is_like_every_other(local):
    texts = ["so it is #### seven apples", "#### 7 red apples", "I do not know", "#### a triangle's height"]
    answers = {texts[0]: "seven apples", texts[1]: "7 red apples", texts[2]: "", texts[3]: "a triangle's height"}
    rows = [*rows_of("a", *texts), *rows_of("none", *["no answer"] * 3)]
    result = compute(local, rows, pad_to=8)
    assert_advantages(result, rows[:4], lambda row: answers[row.text])
    credit_N = set_loo(torch.ones(1, 3, 3), shaping="neg_log1p")[0]
    base = base_of(rows)
    for session in range(3):
        expected = base.of("none", session) + COEF * credit_N[session].item()
        assert result.of("none", session) == pytest.approx(expected, abs=2e-5)
    found = figures(result)
    assert (found["groups"], found["calls"], found["failed_calls"]) == (2, 1, 0)
    assert found["prompt_tokens"] > 9
    assert 0 < found["seconds/p50"] < 30


# ---- the kernel itself


def rollout(session, text):
    return Rollout("u", session, torch.tensor([1]), "", lambda: text, "", 0)


def batch_of(*vectors):
    signal = build_signal("embedding", {"base_url": "http://h/v1", "model": "m"})
    results = [torch.tensor(vector).numpy() for vector in vectors]
    return signal._batch([[rollout(i, "") for i in range(len(vectors))]], [Reply(results)])


def test_the_kernel_is_the_clamped_cosine_and_a_zero_vector_is_a_row_of_ones():
    """Cosines by hand: (3,4) and (4,3) 24/25, (3,4) and (-4,3) 0, (3,4) and (-3,-4) -1, clamped to 0."""
    (kernel_NN,) = batch_of([3.0, 4.0], [4.0, 3.0], [0.0, 0.0], [-4.0, 3.0], [-3.0, -4.0]).kernel_PNN
    by_hand = [
        [1, 0.96, 1, 0, 0],
        [0.96, 1, 1, 0, 0],
        [1, 1, 1, 1, 1],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 0, 1],
    ]
    torch.testing.assert_close(kernel_NN, torch.tensor(by_hand), atol=1e-6, rtol=0)
    assert batch_of([0.0, 0.0], [0.0, 0.0]).kernel_PNN.tolist() == [[[1, 1], [1, 1]]]


def test_vectors_of_different_dimensions_fail_their_group():
    batch = batch_of([1.0, 0.0], [1.0, 0.0, 0.0])
    assert batch.failures[0].startswith("bad_answer: ")


SERVED = (f"{SIGNAL}base_url=http://h/v1", f"{SIGNAL}model=m")
ENDPOINT = ("+set_rl=set_loo", "+set_rl/signal=embedding")
WRONG = {
    "an unknown key": ((*ENDPOINT, *SERVED, f"+{SIGNAL}modle=x"), r"signal\.modle is not a key"),
    "an unknown kind": ((*ENDPOINT, *SERVED, f"{SIGNAL}kind=oracle"), r"signal\.kind=oracle is unknown"),
    "an unknown part": ((*ENDPOINT, *SERVED, f"{SIGNAL}part=half"), r"signal\.part"),
    "a value out of range": ((*ENDPOINT, *SERVED, f"{SIGNAL}shards=0"), r"signal\.shards: .*greater than or equal"),
    "no address": ((*ENDPOINT, f"{SIGNAL}model=m"), r"signal\.base_url is missing"),
    "a GPU for a model that runs elsewhere": (
        (*ENDPOINT, *SERVED, f"+{SIGNAL}num_gpus=1"),
        r"signal\.num_gpus is for a model in the actors",
    ),
    "no server of verl's": (
        ("+set_rl=set_loo", f"{SIGNAL}name=embedding", f"+{SIGNAL}kind=reward_model"),
        r"signal\.kind=reward_model needs .* reward\.reward_model\.enable=True",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_config_is_one_sentence_before_anything_starts(case):
    overrides, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        check_config(compose_config(*overrides))
    assert "\n" not in str(error.value)


def test_submit_before_the_signal_is_bound_is_an_error_and_closing_it_is_none():
    signal = build_signal("embedding", {"base_url": "http://h/v1", "model": "m"})
    signal.close()
    with pytest.raises(AssertionError, match="bound by the reward manager"):
        asyncio.run(signal.submit(rollout(0, "x")))
