"""Clusters of equal answers, and the answer that a response marks, whatever a policy writes."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_setpo.signals import AnswerClusters, Rollout
from verl_setpo.signals.answer import find_answer


def group(*answers: str) -> list[Rollout]:
    return [Rollout("p", s, torch.tensor([65]), answer, lambda: "") for s, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{ a  b" + "\n\tc }", "a b c"),
        ("<think>3</think><answer>3 + 4</answer>", "3 + 4"),
        ("<answer>1</answer> <answer>2</answer>", "2"),
        ("6 * 7 = 42\n#### 42", "42"),
        ("#### 41\n#### 42\nthat is all", "42"),
        ("#### 1,234 ", "1,234"),
        # Of several kinds the last one.
        (r"#### 1" + "\n" + r"\boxed{2}", "2"),
        (r"\boxed{2}" + "\n#### 3", "3"),
        (r"<answer>\boxed{5}</answer>", "5"),
        # Nothing marked, or nothing in the mark.
        ("the answer is 42", ""),
        ("", ""),
        (r"\boxed{}", ""),
        ("<answer>   </answer>", ""),
        ("####", ""),
        # Cut off.
        (r"\boxed{42", ""),
        ("<answer>42", ""),
        (r"\boxed{\frac{1}{2}", ""),
    ],
)
def test_the_final_answer_that_a_response_marks(text, answer):
    assert find_answer(text) == answer


@settings(deadline=None)
@given(
    st.text()
    | st.lists(st.sampled_from(["\\boxed{", "}", "{", "<answer>", "</answer>", "####", "\n", "\ud800", "7"])).map(
        "".join
    )
)
def test_any_text_has_an_answer_without_spare_whitespace(text):
    answer = find_answer(text)
    assert answer == " ".join(answer.split())
    assert "".join(answer.split()) in "".join(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000,
        r"\boxed{" * 15_000,
        r"\boxed" + "{" * 50_000 + "}" * 50_000,
        "<answer>" * 12_000,
        "#" * 100_000,
        "\ud800" * 100_000,
        r"\boxed{" + "\ud800\udfff" * 50_000 + "}",
        r"\boxed{" + " " * 100_000 + "}",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_100_kb_of_hostile_text_takes_linear_time(text):
    start = time.perf_counter()
    find_answer(text)
    assert time.perf_counter() - start < 5, "in time that grows with the square, minutes"


def test_equal_answers_share_a_cluster_and_no_answer_is_degenerate():
    batch = AnswerClusters().collect([group("7", "8", "7", "", "9", "8")])
    assert batch.clusters_PN.tolist() == [[0, 1, 0, -1, 2, 1]]
    assert not any(batch.failures)


def test_ragged_groups_are_filled_up_with_no_cluster_and_do_not_share_numbers():
    batch = AnswerClusters().collect([group("7"), group("8", "7", "7"), group("", "")])
    assert batch.clusters_PN.tolist() == [[0, -1, -1], [0, 1, 1], [-1, -1, -1]]


def test_answers_are_compared_as_they_are():
    """Canonical form is the reward function's business: verl's "pred"."""
    assert AnswerClusters().collect([group("1/2", "0.5", "1/2 ", "1/2")]).clusters_PN.tolist() == [[0, 1, 2, 0]]


def test_hostile_answers_are_clusters_like_any_other():
    hostile = ["{" * 100_000, "\ud800", "\udfff", "\x00", "{" * 100_000, "\ud800"]
    assert AnswerClusters().collect([group(*hostile)]).clusters_PN.tolist() == [[0, 1, 2, 3, 0, 1]]


def told(*infos: dict) -> list[Rollout]:
    """Rollouts that all have one answer, with what a reward function returned for them."""
    return [
        Rollout("p", s, torch.tensor([65]), "7", lambda: "", reward_extra_info={"pred": "7", **info})
        for s, info in enumerate(infos)
    ]


def test_another_field_of_the_reward_functions_result_takes_the_answers_place():
    group_ = told({"strategy": "by parts"}, {"strategy": "by tens"}, {"strategy": "by parts"}, {"strategy": ""})
    assert AnswerClusters().collect([group_]).clusters_PN.tolist() == [[0, 0, 0, 0]]
    batch = AnswerClusters(field="strategy").collect([group_])
    assert batch.clusters_PN.tolist() == [[0, 1, 0, -1]]
    assert batch.failures == (None,)
    assert batch.notes == [["by parts", "by tens", "by parts", ""]]


def test_a_field_is_compared_as_text_whatever_its_type():
    group_ = told({"way": 1}, {"way": "1"}, {"way": 2.0}, {"way": True})
    assert AnswerClusters(field="way").collect([group_]).clusters_PN.tolist() == [[0, 0, 1, 2]]


def test_a_rollout_without_the_field_is_degenerate_and_does_not_fall_back_to_its_answer():
    batch = AnswerClusters(field="strategy").collect([told({"strategy": "by parts"}, {}, {"strategy": None})])
    assert batch.clusters_PN.tolist() == [[0, -1, -1]]
    assert batch.failures == (None,)


@pytest.mark.parametrize("equal", ["text", "math"])
def test_a_field_that_the_reward_function_never_returns_is_a_failure_that_names_the_key(equal):
    signal = AnswerClusters(equal, field="strategy")
    batch = signal.collect([told({}, {"strategy": None}), told({"strategy": "by parts"}, {}), told({"score": 1.0})])
    signal.close()
    assert batch.failures[1] is None
    assert batch.failures[2] == (
        "the reward function returns no 'strategy', which algorithm.set_rl.signal.field names: set it to one of those "
        "that it returns (pred, score), or choose a reward function that returns it"
    )
    assert "returns no 'strategy'" in batch.failures[0]
    assert batch.clusters_PN.tolist() == [[-1, -1], [0, -1], [-1, -1]]


def test_fields_can_be_compared_by_math_verify():
    signal = AnswerClusters("math", field="half")
    clusters_PN = signal.collect([told({"half": "0.5"}, {"half": "1/2"}, {"half": "1/3"})]).clusters_PN
    signal.close()
    assert clusters_PN.tolist() == [[0, 0, 1]]


def test_a_batch_without_groups_has_no_clusters():
    assert AnswerClusters().collect([]).clusters_PN.shape == (0, 0)
