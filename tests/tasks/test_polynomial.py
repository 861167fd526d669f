"""Poly-EPO's synthetic task: any integer point on the curve is correct."""

import json
import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tasks.hostile import HOSTILE_TEXTS, TIME_LIMIT, any_text, cpu_seconds, parser_text, patient
from verl_setpo.tasks.polynomial import Problem, compute_score, generate, parse_answer

PAPER = Problem(1, 3, 7)  # y = x^2 + 3x + 7, on which (1, 11) lies
coefficients = st.integers(-1000, 1000)
problems = st.builds(Problem, coefficients, coefficients, coefficients)


def score(text: str, problem: Problem = PAPER) -> dict:
    return compute_score("polynomial", text, problem.ground_truth("tiny"))


def test_the_paper_s_example_is_correct() -> None:
    assert score("(1,11)") == {"score": 1.0, "acc": 1.0, "pred": "(1,11)"}


def test_a_wrong_point_keeps_its_answer_for_the_vote() -> None:
    assert score("(1,12)") == {"score": 0.0, "acc": 0.0, "pred": "(1,12)"}


def test_no_point_is_degenerate() -> None:
    assert score("I do not know") == {"score": 0.0, "acc": 0.0, "pred": ""}


@pytest.mark.parametrize(
    ("text", "pred"),
    [
        ("(1, 11)", "(1,11)"),
        ("( +1 ,\n011 )", "(1,11)"),
        ("(-0,007)", "(0,7)"),
        ("\\boxed{(1, 11)}", "(1,11)"),
        ("\\boxed{\\left(1, 11\\right)}", "(1,11)"),
        ("\\boxed{(x, y) = (1, 11)}", "(1,11)"),
        ("\\boxed{1, 11}", "(1,11)"),
        ("<answer>(1, 11)</answer>", "(1,11)"),
        ("<answer>\\boxed{(1, 11)}</answer>", "(1,11)"),
        ("(1,11) or (2,17)", "(2,17)"),
        ("\\boxed{(1,11)}, which I found from (2,17)", "(1,11)"),
        ("\\boxed{none}, though (1,11)", ""),
        ("1, 11", ""),
        ("(1,11", ""),
        ("(1.0,11)", ""),
        ("(1;11)", ""),
        ("(1,2,3)", ""),
        ("(1_0,137)", ""),
        ("(\u0661,11)", ""),
        ("(1,\u0661\u0661)", ""),
        ("(\uff11,\uff11\uff11)", ""),
        ("(1 0,137)", ""),
        ("((1,11))", "(1,11)"),
        (f"({'9' * 13},1)", ""),
        (f"(1,{'9' * 33})", ""),
    ],
)
def test_parsing(text: str, pred: str) -> None:
    assert score(text)["pred"] == pred


@patient
@given(problems, st.integers(-(10**12) + 1, 10**12 - 1))
def test_every_integer_point_is_correct_and_its_neighbour_is_not(problem: Problem, x: int) -> None:
    y = problem.value(x)
    assert y == problem.a * x**2 + problem.b * x + problem.c
    assert score(f"\\boxed{{({x}, {y})}}", problem) == {"score": 1.0, "acc": 1.0, "pred": f"({x},{y})"}
    assert score(f"({x},{y + 1})", problem)["acc"] == 0.0


@patient
@given(st.integers(-(10**10), 10**10), st.integers(-(10**10), 10**10), st.integers(0, 1), st.booleans())
def test_zeros_and_plus_signs_do_not_make_another_answer(x: int, y: int, zeros: int, plus: bool) -> None:
    def spelled(number: int) -> str:
        sign = "-" if number < 0 else "+" if plus else ""
        return sign + "0" * zeros + str(abs(number))

    assert parse_answer(f"({spelled(x)}, {spelled(y)})") == (x, y)


@patient
@given(any_text | parser_text)
@example("\ud800")
def test_no_text_raises(text: str) -> None:
    result = score(text)
    assert result["score"] in (0.0, 1.0)
    assert parse_answer(result["pred"]) == parse_answer(text)


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_hostile_text_takes_linear_time(name: str) -> None:
    assert cpu_seconds(lambda: score(HOSTILE_TEXTS[name])) < TIME_LIMIT


@pytest.mark.parametrize(
    ("problem", "equation"),
    [
        (Problem(1, 3, 7), "y=x^2+3x+7"),
        (Problem(2, 1, 9), "y=2x^2+x+9"),
        (Problem(-1, -1, -1), "y=-x^2-x-1"),
        (Problem(0, 2, 0), "y=2x"),
        (Problem(0, 0, -4), "y=-4"),
        (Problem(0, 0, 0), "y=0"),
    ],
)
def test_equations_read_as_one_writes_them(problem: Problem, equation: str) -> None:
    assert problem.equation() == equation
    assert problem.prompt("tiny") == equation
    assert equation in problem.prompt("instruct")
    assert "\\boxed{(x, y)}" in problem.prompt("instruct")


@patient
@given(problems, problems)
def test_different_problems_have_different_prompts(one: Problem, other: Problem) -> None:
    assert (one.equation() == other.equation()) == (one == other)


def test_generated_problems_are_all_of_the_pilot_s_243() -> None:
    everything = generate(243, seed=0)
    assert set(everything) == {Problem(a, b, c) for a in (1, 2, 3) for b in range(1, 10) for c in range(1, 10)}
    assert generate(195, seed=0) == everything[:195]
    assert generate(243, seed=1) != everything


def test_generate_says_which_option_to_change() -> None:
    with pytest.raises(ValueError, match=r"--train-size and --test-size ask for 244 .* hold 243"):
        generate(244, seed=0)
    with pytest.raises(ValueError, match="--b is 3 1"):
        generate(1, seed=0, b=(3, 1))
    with pytest.raises(ValueError, match="--c is 0 1000000"):
        generate(1, seed=0, c=(0, 10**6))


@patient
@given(problems)
def test_ground_truth_round_trip(problem: Problem) -> None:
    truth = problem.ground_truth("tiny")
    assert isinstance(truth, str)
    assert Problem.from_ground_truth(truth) == problem
    assert Problem.from_ground_truth(json.loads(truth)) == problem


def test_ground_truth_may_hold_numpy_integers() -> None:
    assert Problem.from_ground_truth({"a": np.int64(1), "b": 3, "c": np.int32(7)}) == PAPER


@pytest.mark.parametrize(
    "truth", ["", "7", "null", "[1, 3, 7]", "{}", '{"a": 1, "b": 3}', '{"a": 1.5, "b": 3, "c": 7}', {"a": "1"}, None]
)
def test_a_broken_ground_truth_is_an_error(truth: object) -> None:
    with pytest.raises(ValueError, match="ground truth"):
        compute_score("polynomial", "(1,11)", truth)


def test_sampled_answers_are_wrong_as_often_as_asked() -> None:
    rng = random.Random(0)

    def share(wrong_share: float) -> float:
        return sum(score(PAPER.sample_answer(rng, wrong_share))["acc"] for _ in range(2000)) / 2000

    assert share(0.0) == 1.0
    assert share(1.0) == 0.0
    assert share(0.35) == pytest.approx(0.65, abs=0.05)
    assert len({PAPER.sample_answer(rng, 0.0) for _ in range(500)}) == 13
