"""`+set_rl/signal=...` after a method: each file has every key of its signal, with the default that the code has."""

from __future__ import annotations

from importlib.resources import files

import pytest
from omegaconf import OmegaConf

from tests.trainer.conftest import compose_config
from verl_setpo.signals import build_signal
from verl_setpo.signals.embedding.endpoint import EndpointEmbedderSettings
from verl_setpo.signals.embedding.local import LocalEmbedderSettings
from verl_setpo.signals.judge import JudgeSettings
from verl_setpo.signals.store.settings import StoreSettings
from verl_setpo.trainer.config_check import check_config

URL = "algorithm.set_rl.signal.base_url=http://node1:8000/v1"
N = "actor_rollout_ref.rollout.n=8"
FILES = {
    "judge": ("poly_epo", JudgeSettings, [URL]),
    "embedding": ("set_loo", EndpointEmbedderSettings, [URL]),
    "embedding_local": ("set_loo", LocalEmbedderSettings, []),
}
RESOURCES = {"num_cpus", "num_gpus"}  # of actors that only send requests: none
CHOSEN = {"model", "tokenizer", "max_tokens"}  # for Qwen3; the code knows no model
each_file = pytest.mark.parametrize("name", list(FILES))


def keys_of(name):
    text = (files("verl_setpo.config") / "set_rl" / "signal" / f"{name}.yaml").read_text()
    return text, OmegaConf.to_container(OmegaConf.create(text).signal)


@each_file
def test_one_word_chooses_the_signal(name):
    method, _, words = FILES[name]
    settings = check_config(compose_config(f"+set_rl={method}", f"+set_rl/signal={name}", *words, N)).settings
    assert settings.signal.name == name.split("_")[0]
    build_signal(settings.signal.name, settings.signal_keys)


@each_file
def test_it_has_all_keys_with_their_defaults(name):
    _, fields, keys = FILES[name][0], FILES[name][1].model_fields, keys_of(name)[1]
    known = {**StoreSettings.model_fields, **fields}
    local = name == "embedding_local"
    assert set(keys) - {"name", "kind"} == set(known) - (set() if local else RESOURCES)
    for key in set(keys) - {"name", "kind", "base_url"} - CHOSEN:
        default = known[key].get_default(call_default_factory=True)
        assert keys[key] == default, f"{name}.yaml: {key}"


@each_file
def test_each_key_stands_below_a_comment_or_another_key(name):
    lines = keys_of(name)[0].split("signal:\n", 1)[1].splitlines()
    uncommented = [
        line for before, line in zip(["", *lines], lines, strict=False) if not line.startswith("  #") and not before
    ]
    assert uncommented == ["  name: " + name.split("_")[0]]


@pytest.mark.parametrize("name", ["judge", "embedding"])
def test_without_an_address_the_error_names_the_key(name):
    with pytest.raises(ValueError, match=r"^algorithm\.set_rl\.signal\.base_url .*set"):
        check_config(compose_config(f"+set_rl={FILES[name][0]}", f"+set_rl/signal={name}", N))


def test_before_the_method_the_error_says_where_it_belongs():
    with pytest.raises(
        ValueError, match=r"\+set_rl/signal=\.\.\. belongs after \+set_rl=\.\.\., and nothing may set signal\.name"
    ):
        check_config(compose_config("+set_rl/signal=judge", "+set_rl=poly_epo", URL, N))


def test_a_kernel_is_refused_by_a_method_of_clusters():
    with pytest.raises(ValueError, match=r"signal\.name=embedding gives a kernel, and poly_epo needs clusters"):
        check_config(compose_config("+set_rl=poly_epo", "+set_rl/signal=embedding_local", N))


def test_a_key_in_an_address_is_refused_and_never_shown():
    word = "algorithm.set_rl.signal.base_url=http://user:sk-canary@node1/v1"
    with pytest.raises(ValueError, match="plain URL") as caught:
        check_config(compose_config("+set_rl=poly_epo", "+set_rl/signal=judge", word, N))
    assert "canary" not in str(caught.value)


REWARD_MODEL = (
    "+set_rl=poly_epo",
    "+algorithm.set_rl.signal.kind=reward_model",
    "algorithm.set_rl.signal.name=judge",
    N,
)


def test_verls_reward_model_server_must_be_switched_on():
    with pytest.raises(ValueError, match=r"set reward\.reward_model\.enable=True"):
        check_config(compose_config(*REWARD_MODEL))


def test_verls_reward_model_must_not_give_the_reward():
    with pytest.raises(ValueError, match=r"^reward\.custom_reward_function\.path=null makes verl take the reward from"):
        check_config(compose_config(*REWARD_MODEL, "reward.reward_model.enable=True"))


def test_an_address_beside_verls_reward_model_is_refused():
    with pytest.raises(ValueError, match=r"signal\.base_url comes from reward\.reward_model .* set it null"):
        check_config(compose_config(*REWARD_MODEL, "+" + URL, "reward.reward_model.enable=True"))


def test_a_pool_whose_server_verl_puts_to_sleep_is_refused():
    words = ("+set_rl=poly_epo", "+set_rl/signal=judge_reward_model", N)
    with pytest.raises(ValueError, match=r"free_cache_engine=True lets verl put the server to sleep"):
        check_config(compose_config(*words, "reward.reward_model.rollout.free_cache_engine=True"))


def test_a_server_that_takes_less_than_the_signal_sends_is_refused():
    words = ("+set_rl=set_loo", "+set_rl/signal=embedding_reward_model", N)
    with pytest.raises(ValueError, match=r"max_model_len=512 is less than the 8192 tokens"):
        check_config(compose_config(*words, "reward.reward_model.rollout.max_model_len=512"))
