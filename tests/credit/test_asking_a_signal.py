"""A judge and an embedder that the command asks over HTTP, with the keys that a run has."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.credit.conftest import group, refused
from tests.signals.embedding.models import FACTORING, MINILM, PROBABILITY, minilm
from tests.signals.embedding.server import MODEL, embedding_server
from tests.signals.fake_server import fails, serve
from tests.signals.judge.test_judge import by_first_word, seen
from verl_setpo.set_rl import set_loo
from verl_setpo.signals import NgramKernel, Rollout
from verl_setpo.signals import endpoint as endpoint_module

TEXTS = ["factor it so", "factor it thus", "guess 3", "junk", "formula gives 2", "guess again"]
CLUSTERS = [0, 0, 1, -1, 2, 1]
REWARDS = [1, 1, 1, 0, 0, 0]
POLY = ("--estimator", "poly_epo", "--set-size", 3)
QUICK = ("max_retries=0", "bad_answer_retries=0")


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.02)


def rows_of(prompt, texts=TEXTS, rewards=REWARDS):
    return [
        {"uid": prompt, "prompt": f"What is {prompt}?", "reward": reward, "response": text}
        for reward, text in zip(rewards, texts, strict=True)
    ]


def test_a_judges_clusters_give_what_the_same_clusters_in_a_file_give(credit, write):
    path = write(rows_of("x") + rows_of("y", TEXTS[::-1]))
    with serve(by_first_word) as server:
        asked = credit(
            path, f"base_url={server.url}", "+algorithm.set_rl.signal.model=judge", "--signal", "judge", *POLY
        )
        questions = [json.dumps(body["messages"]) for body in server.asked]
    own = credit(write(group("x", REWARDS, CLUSTERS) + group("y", REWARDS, CLUSTERS[::-1]), "own.jsonl"), *POLY)
    for prompt in ("x", "y"):
        assert asked.advantages("poly_epo", prompt) == own.advantages("poly_epo", prompt)
        assert sum(f"What is {prompt}?" in question for question in questions) == 1
    assert asked.prompt("x")["strategies"][0] == "0 by factor"
    assert "+set_rl/signal=judge" in asked.summary("poly_epo")["run"]


def test_a_prompt_that_the_judge_fails_for_keeps_its_base_advantage_and_is_counted(credit, write):
    path = write(rows_of("x") + rows_of("y", ["broken " + text for text in TEXTS]))

    def sometimes(body):
        broken = any(text.startswith("broken") for text in seen(body).values())
        return fails(500)(body) if broken else by_first_word(body)

    with serve(sometimes) as server:
        found = credit(path, f"base_url={server.url}", "model=judge", *QUICK, "--signal", "judge", *POLY)
    assert found.advantages("poly_epo", "y") == pytest.approx([0.5] * 3 + [-0.5] * 3)
    assert found.advantages("poly_epo", "x") != found.advantages("poly_epo", "y")
    (warned,) = found.warnings("signal_failed")
    assert warned["count"] == 1
    assert "server" in warned["message"]


def test_no_call_is_paid_for_when_the_options_cannot_work(write):
    path = write(rows_of("x", rewards=[-1, -1, 1, 1, 1, 1]))
    with serve(by_first_word) as server:
        judge = (f"base_url={server.url}", "model=judge", "--signal", "judge")
        assert "--set-size 6 must be smaller" in refused(path, *judge, "--estimator", "poly_epo", "--set-size", 6)
        assert "--reward-range -1 1" in refused(path, *judge, *POLY)
        assert "--json" in refused(path, *judge, *POLY, "--reward-range", -1, 1, "--json", "/nowhere/x.json")
        assert server.asked == []


def test_a_judge_that_is_away_is_one_sentence(write):
    path = write(rows_of("x"))
    message = refused(path, "base_url=http://127.0.0.1:9/v1", "model=judge", *QUICK, "--signal", "judge", *POLY)
    assert "127.0.0.1:9" in message
    served = refused(path, "kind=reward_model", "--signal", "judge", *POLY)
    assert "kind=reward_model is a server that a run starts for itself" in served


def test_n_grams_are_of_a_models_tokens_where_its_tokenizer_is_named(credit, write):
    texts = [*FACTORING, *PROBABILITY]
    path = write(rows_of("x", texts, rewards=[1] * 4))
    encode = minilm().tokenizer.encode
    rollouts = [
        Rollout("x", i, torch.tensor(encode(text, add_special_tokens=False)), "", str) for i, text in enumerate(texts)
    ]
    expected = set_loo(NgramKernel(n=2).collect([rollouts]).kernel_PNN)[0].tolist()
    options = ("n=2", "--signal", "ngram", "--estimator", "set_loo", "--coef", 1)
    by_token, by_word = credit(path, *options, "--tokenizer", MINILM), credit(path, *options)
    assert by_token.advantages("set_loo", "x") == pytest.approx(expected, abs=1e-6)
    assert by_word.advantages("set_loo", "x") != pytest.approx(expected, abs=1e-3)
    assert "--tokenizer no/such/model cannot be loaded" in refused(path, *options, "--tokenizer", "no/such/model")


def test_the_kernel_of_an_embedder_reaches_set_loo(credit, write):
    texts = [*FACTORING, *PROBABILITY, ""]
    path = write(rows_of("x", texts, rewards=[1] * 5))
    with embedding_server() as server:
        options = (f"base_url={server.url}", f"model={MODEL}", "--signal", "embedding", "--estimator", "set_loo")
        found = credit(path, *options, "--coef", 1)
    vectors = minilm().encode(texts[:4], normalize_embeddings=True)
    kernel = np.ones((5, 5))  # no text is like every other
    kernel[:4, :4] = (vectors @ vectors.T).clip(0, 1)

    def diversity(members):
        inner = kernel[np.ix_(members, members)]
        mass = (inner.sum(1) - 1) / (len(members) - 1)
        return np.mean(-np.log1p(mass))

    credits = [diversity(list(range(5))) - diversity([j for j in range(5) if j != i]) for i in range(5)]
    assert found.advantages("set_loo", "x") == pytest.approx(credits, abs=1e-4)
    assert min(credits) == credits[4] < 0 < max(credits)
