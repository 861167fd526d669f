r"""The reward for mathematical problems: where the answer is, which answers are right, and hostile responses."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.hostile import HOSTILE_TEXTS, TIME_LIMIT, any_text, cpu_seconds, patient
from verl_setpo.equivalence.process import StartError
from verl_setpo.signals import AnswerClusters, Rollout
from verl_setpo.tasks import rewards
from verl_setpo.tasks.math import compute_score, find_answer, read_gold

TIMEOUT_S = 1.5
MARGIN_S = 15.0
"""Beyond the limit: to end a process and start another on a busy machine."""


def box(answer: str) -> str:
    return f"So the answer is $\\boxed{{{answer}}}$."


def score(response: str, gold: str | float = "7", **options) -> float:
    result = compute_score("math500", response, gold, **options)
    assert result["grader_failed"] == 0.0
    return result["score"]


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{6}, no, \boxed{7}", "7"),
        (r"\boxed{7}, no, \boxed{}", ""),
        (r"Put it in \boxed{}.", ""),
        ("7", ""),
        ("<answer>7</answer>", ""),
        ("#### 7", ""),
        (r"<think>\boxed{6}</think>\boxed{7}", "7"),
        (r"<think>\boxed{7}</think>It is 7.", ""),
        (r"<think>So \boxed{7}", ""),
        (r"<think>a</think>\boxed{7}<think>but", ""),
        (r"\boxed{7", ""),
        ("", ""),
    ],
)
def test_only_the_last_box_behind_the_thinking_part_counts(response, answer):
    assert find_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"#### 6 \boxed{7}", "7"),
        ("<answer>7</answer> 8", "7"),
        ("6\n#### 1,234\nDone 9.", "1,234"),
        ("The final answer is 7. There are 8 left.", "7"),
        ("**Answer:** 7", "7"),
        ("We get 5, then 1,234.5", "1,234.5"),
        ("nothing", ""),
    ],
)
def test_anywhere_looks_for_other_marks_and_at_last_for_a_number(response, answer):
    assert find_answer(response, "anywhere") == answer


def test_thinking_makes_a_response_without_its_end_worth_nothing():
    assert score(r"\boxed{7}") == 1.0
    assert score(r"\boxed{7}", thinking=True) == 0.0
    assert score(r"so</think>\boxed{7}", thinking=True) == 1.0


def test_gsm8k_may_end_its_own_way_and_others_not():
    assert compute_score("gsm8k", "He has 72.\n#### 72", "72")["score"] == 1.0
    assert compute_score("gsm8k", "He has 72.\n#### 73", "72")["score"] == 0.0
    assert compute_score("gsm8k", r"#### 72 or \boxed{73}", "72")["score"] == 0.0
    assert compute_score("math500", "He has 72.\n#### 72", "72")["score"] == 0.0


def test_right_answers_share_one_name_and_wrong_ones_have_their_own():
    answers = ["0.5", r"\frac{1}{2}", "x=1/2", r"\frac{\sqrt{4}}{4}", "50\\%", "0.51", r"\frac{51}{100}", "", "no"]
    results = [compute_score("math500", box(answer), r"\frac12") for answer in answers]
    assert [result["score"] for result in results] == [1.0] * 5 + [0.0] * 4
    assert [result["pred"] for result in results] == ["1/2"] * 5 + ["51/100"] * 2 + ["", "no"]
    group = [Rollout("p", s, torch.tensor([65]), r["pred"], lambda: "") for s, r in enumerate(results)]
    assert AnswerClusters().collect([group]).clusters_PN.tolist() == [[0] * 5 + [1] * 2 + [-1, 2]]


def test_numbers_as_ground_truth():
    numpy = pytest.importorskip("numpy")
    for gold in (42, 42.0, "42", numpy.int64(42), numpy.float64(42)):
        assert score(box("42"), gold) == 1.0
        assert score(box("43"), gold) == 0.0


@pytest.mark.parametrize("gold", ["", "  ", "$$", None, [], {"answer": 7}, True, float("nan"), float("inf")])
def test_a_ground_truth_that_is_no_answer_is_named(gold):
    with pytest.raises(ValueError, match=r"^data_source 'minerva' has the ground truth .* correct or drop the row\.$"):
        compute_score("minerva", box("7"), gold)


@pytest.mark.parametrize(
    ("key", "value"),
    [("workers", 0), ("workers", 1.5), ("workers", True), ("timeout_s", 0), ("timeout_s", "5"), ("answer_in", "box")],
)
def test_a_wrong_option_is_named_as_in_the_recipe(key, value):
    message = rf"^reward\.custom_reward_function\.reward_kwargs\.{key} is {value!r}, but must be"
    with pytest.raises(ValueError, match=message):
        compute_score("math500", "", "7", **{key: value})


def test_where_no_worker_starts_it_says_so_and_gives_no_reward(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert score(box("7.0"), timeout_s=7) == 1.0, "needs no worker"
    with pytest.raises(StartError, match="the process that runs math-verify does not start"):
        compute_score("math500", box(r"\sqrt{49}"), "7", timeout_s=7)


HARMLESS = {
    "long integer": "9" * 100_000,
    "braces": "{" * 50_000 + "}" * 50_000,
    "backslashes": "\\" * 100_000,
    "large matrix": r"\begin{pmatrix}" + r"\\".join(["&".join("1" * 1000)] * 1000) + r"\end{pmatrix}",
    "code": "__import__('os')._exit(0)",
    "Arabic digit": "\u0667",
    "circled digit": "\u2466",
    "NUL": "7\0",
    "surrogate": "7\ud800",
    "empty fractions": r"\frac" * 200,
    "protocol": '"}\n{"verdict": "equal"}',
}
SLOW = {
    "tower": "9^{9^{9^{9}}}",
    "power of ten": "10^{10^{10}}",
    "factorial": "99999999999!",
    "factorial of a power": "(10^{10^{8}})!",
    "sum": r"\sum_{n=1}^{10^9} n^{n}",
    "nested fractions": r"\frac{1}{" * 30 + "2" + "}" * 30,
    "brackets": "(" * 400 + "1" + ")" * 400,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_garbage_is_wrong(name):
    result = compute_score("math500", box(HARMLESS[name]), "7", timeout_s=60)
    assert (result["score"], result["grader_failed"]) == (0.0, 0.0)
    assert len(result["pred"]) <= 200
    json.dumps(result, ensure_ascii=False).encode()


def test_a_box_ten_thousand_deep_is_a_box():
    assert score("\\boxed{" * 10_000 + "7" + "}" * 10_000) == 1.0


@pytest.mark.parametrize("name", SLOW)
def test_what_takes_for_ever_costs_its_time_is_counted_and_the_next_answer_gets_its_reward(name):
    compute_score("math500", box(r"\sqrt{8}"), r"2\sqrt{2}", timeout_s=TIMEOUT_S)  # the process is there
    start = time.monotonic()
    result = compute_score("math500", box(SLOW[name]), "7", timeout_s=TIMEOUT_S)
    assert time.monotonic() - start < TIMEOUT_S + MARGIN_S
    assert (result["score"], result["acc"], result["grader_failed"]) == (0.0, 0.0, 1.0)
    assert compute_score("math500", box(r"\sqrt{49}+0"), "7", timeout_s=20)["score"] == 1.0


def test_hostile_neighbours_take_no_answer_its_reward():
    """As verl calls it: many at once, from threads."""
    answers = [*SLOW.values(), *(rf"\sqrt{{{n * n}}}" for n in range(4, 12))]
    with ThreadPoolExecutor(16) as threads:
        results = list(
            threads.map(lambda answer: compute_score("math500", box(answer), "7", timeout_s=TIMEOUT_S + 0.5), answers)
        )
    assert [result["grader_failed"] for result in results] == [1.0] * len(SLOW) + [0.0] * 8
    assert [result["score"] for result in results[len(SLOW) :]] == [float(n == 7) for n in range(4, 12)]


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
@pytest.mark.parametrize("answer_in", ["boxed", "anywhere"])
def test_hostile_responses_are_searched_in_linear_time(name, answer_in):
    assert cpu_seconds(lambda: find_answer(HOSTILE_TEXTS[name], answer_in, hashed=True)) < TIME_LIMIT


@patient
@given(any_text, st.sampled_from(["boxed", "anywhere"]))
def test_any_text_has_an_answer_or_none(text, answer_in):
    assert isinstance(find_answer(text, answer_in), str)
    read_gold("math500", "7" + text)


@patient
@given(st.text(st.sampled_from("0123456789.,/-$ "), max_size=12))
def test_rewards_are_0_or_1_for_whatever_numbers(text):
    result = rewards.compute_score("polaris", box(text), "7", timeout_s=60)
    assert result["score"] in (0.0, 1.0)
    assert result["acc"] == result["score"]
