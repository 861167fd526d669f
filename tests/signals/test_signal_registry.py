"""`algorithm.set_rl.signal`: a name that somebody registered, and the keys of that signal."""

from __future__ import annotations

import asyncio

import pytest
import torch

from verl_setpo.signals import (
    AnswerClusters,
    NgramKernel,
    Rollout,
    Signal,
    SignalBatch,
    build_signal,
    register_signal,
    signal_class,
)


@register_signal("test_with_keys")
class WithKeys(Signal):
    provides = "clusters"

    def __init__(self, url: str, limit: int = 3) -> None:
        if limit < 0:
            raise ValueError("limit is negative")
        self.url, self.limit = url, limit

    def collect(self, groups):
        return SignalBatch()


@register_signal("test_without_keys")
class WithoutKeys(Signal):
    provides = "clusters"

    def collect(self, groups):
        return SignalBatch()


def test_the_signals_of_the_config_groups_are_registered():
    assert signal_class("answer") is AnswerClusters
    assert signal_class("ngram") is NgramKernel
    assert (AnswerClusters.provides, NgramKernel.provides) == ("clusters", "kernel")


def test_keys_reach_the_constructor():
    signal = build_signal("test_with_keys", {"url": "http://localhost", "limit": 5})
    assert (signal.url, signal.limit) == ("http://localhost", 5)


def test_an_unknown_signal_is_one_sentence_with_those_that_exist():
    with pytest.raises(
        ValueError, match=r"^algorithm\.set_rl\.signal\.name=judge9 is unknown; the signals are answer, .*ngram"
    ):
        build_signal("judge9", {})


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("test_with_keys", {"uri": "x"}, r"algorithm\.set_rl\.signal\.uri is not a key .*; its keys are url, limit\."),
        ("answer", {"n": 3}, r"signal\.n is not a key of the signal answer; its keys are equal, .*, budget_s, field\."),
        ("test_without_keys", {"n": 3}, r"signal\.n is not a key of the signal test_without_keys; it has no keys\."),
        ("answer", {"equal": "maths"}, r"\(answer\): signal\.equal is 'maths', but must be text or math\.$"),
        ("answer", {"equal": None}, r"\(answer\): signal\.equal is None, but must be text or math\.$"),
        ("answer", {"field": None}, r"\(answer\): signal\.field is None, but must be a key that the reward function"),
        ("answer", {"timeout_s": 0}, r"\(answer\): signal\.timeout_s is 0, but must be a number of seconds above 0\.$"),
        ("answer", {"budget_s": "1"}, r"\(answer\): signal\.budget_s is '1', but must be a number of seconds"),
        ("test_with_keys", {}, r"algorithm\.set_rl\.signal \(test_with_keys\): .*url"),
        (
            "test_with_keys",
            {"url": "", "limit": -1},
            r"algorithm\.set_rl\.signal \(test_with_keys\): limit is negative",
        ),
        ("ngram", {"n": 9}, r"algorithm\.set_rl\.signal \(ngram\): signal\.n is 9"),
    ],
)
def test_a_wrong_key_is_named(name, keys, message):
    with pytest.raises(ValueError, match=message):
        build_signal(name, keys)


def test_a_name_is_not_taken_twice_by_different_classes():
    with pytest.raises(ValueError, match="'answer' is already registered by AnswerClusters"):
        register_signal("answer")(WithKeys)
    assert register_signal("answer")(AnswerClusters) is AnswerClusters


def test_a_cheap_signal_needs_no_submit():
    rollout = Rollout("p", 0, torch.tensor([65]), "7", lambda: "")
    assert asyncio.run(AnswerClusters().submit(rollout)) is None
