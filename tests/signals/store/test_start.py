"""What the store looks at before it is used: the actors' own check of server, files and keys, and its own keys."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import KEY, KEY_ENV
from tests.signals.embedding.models import MINILM
from tests.signals.fake_server import serve
from tests.signals.judge.test_judge import by_first_word
from verl_setpo.signals import Run, build_signal
from verl_setpo.signals.store.settings import split_keys
from verl_setpo.signals.store.store import ShardActor


@pytest.fixture(scope="module")
def server():
    with serve(by_first_word, key=KEY) as running:
        yield running


def problem(name, **keys):
    """What `start` raises for these keys, from the actor's own check, without the seconds that an actor takes."""
    signal = build_signal(name, keys)
    work = signal._work(Run("x"), 1)
    return asyncio.run(ShardActor(work, 10, 10).check())


BAD = {
    "the server is down": (
        {"base_url": "http://127.0.0.1:9/v1"},
        "algorithm.set_rl.signal.base_url=http://127.0.0.1:9/v1 cannot be reached",
    ),
    "the model is another": ({"model": "other"}, "algorithm.set_rl.signal.model=other is not served"),
    "the tokenizer cannot be read": ({"tokenizer": "/nowhere/tokenizer"}, "algorithm.set_rl.signal.tokenizer"),
    "there is no key": ({"api_key_env": None}, "refuses the key: algorithm.set_rl.signal.api_key_env is not set"),
    "the key's variable is not set": ({"api_key_env": "NOT_SET_AT_ALL"}, "algorithm.set_rl.signal.api_key_env"),
}


@pytest.mark.parametrize("name", ["judge", "embedding"])
@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_sentence_that_names_the_key(server, monkeypatch, name, case):
    monkeypatch.setenv(KEY_ENV, KEY)
    keys, sentence = BAD[case]
    right = {"base_url": server.url, "model": "judge", "api_key_env": KEY_ENV, "max_retries": 0}
    said = problem(name, **{**right, **keys})
    assert said.startswith("algorithm.set_rl.signal.")
    assert sentence in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "keys", "key"),
    [
        ("judge", {"template": "/nowhere/prompt.jinja"}, "template"),
        ("embedding", {"kind": "local", "model": "/nowhere/model"}, "model=/nowhere/model"),
        ("embedding", {"kind": "local", "model": MINILM, "max_tokens": 10**6}, "max_tokens"),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named_with_its_key(server, monkeypatch, name, keys, key):
    monkeypatch.setenv(KEY_ENV, KEY)
    if keys.get("kind") != "local":
        keys = {"base_url": server.url, "model": "judge", "api_key_env": KEY_ENV, **keys}
    said = problem(name, **keys)
    assert said.startswith(f"algorithm.set_rl.signal.{key}")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"wait_s": 0}, r"signal\.wait_s: .*greater than 0"),
        ({"wait_s": "soon"}, r"signal\.wait_s: .*valid number.*'soon'"),
        ({"shards": 0}, r"signal\.shards: .*greater than or equal to 1"),
        ({"keep_s": float("inf")}, r"signal\.keep_s: .*finite"),
        ({"max_memory_mb": -1}, r"signal\.max_memory_mb: .*greater than 0"),
        ({"num_gpus": -1}, r"signal\.num_gpus: .*greater than or equal to 0"),
    ],
)
def test_a_wrong_value_of_the_stores_own_keys_is_named(keys, message):
    with pytest.raises(ValueError, match=message):
        split_keys(keys)


def test_the_stores_keys_and_the_others_are_told_apart():
    settings, others = split_keys({"wait_s": 5, "model": "m", "base_url": "http://h/v1", "shards": 2})
    assert (settings.wait_s, settings.shards) == (5, 2)
    assert others == {"model": "m", "base_url": "http://h/v1"}
