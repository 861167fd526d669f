"""SetPO's Countdown: each number exactly once, and any correct equation counts."""

import itertools
import json
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tasks.hostile import HOSTILE_TEXTS, TIME_LIMIT, any_text, cpu_seconds, parser_text, patient
from verl_setpo.tasks import countdown, expression
from verl_setpo.tasks.countdown import Problem, compute_score, generate
from verl_setpo.tasks.countdown_solutions import has_solutions, random_parts, search, solutions

PROBLEM = Problem((3, 5, 7), 22)


def score(text: str, problem: Problem = PROBLEM, style: str = "tiny") -> dict:
    return compute_score("countdown", text, problem.ground_truth(style))


def test_a_correct_expression_scores_1() -> None:
    assert score("3*5+7") == {"score": 1.0, "acc": 1.0, "pred": "7+3*5"}
    tagged = "<think>15 + 7</think> <answer> (5 * 3) + 7 </answer>"
    assert score(tagged, style="instruct") == {"score": 1.0, "acc": 1.0, "pred": "7+3*5"}


def test_the_right_format_alone_scores_a_tenth_in_the_instruct_style_only() -> None:
    assert score("<answer>3+5+7</answer>", style="instruct") == {"score": 0.1, "acc": 0.0, "pred": "3+5+7"}
    assert score("3+5+7") == {"score": 0.0, "acc": 0.0, "pred": "3+5+7"}


@pytest.mark.parametrize("text", ["3*5+7", "<answer>3*5+7", "<answer>it is 3*5+7</answer>", "<answer></answer>", ""])
def test_without_the_format_the_instruct_style_scores_nothing(text: str) -> None:
    assert score(text, style="instruct") == {"score": 0.0, "acc": 0.0, "pred": ""}


def test_the_style_is_instruct_unless_the_ground_truth_names_another() -> None:
    truth = {"numbers": [3, 5, 7], "target": 22}
    assert compute_score("countdown", "<answer>3*5+7</answer>", truth)["score"] == 1.0
    assert compute_score("countdown", "3*5+7", truth)["score"] == 0.0


@pytest.mark.parametrize(
    ("text", "acc", "pred"),
    [
        ("3*5+7=22", 1.0, "7+3*5"),
        ("3*5+7 = 22 ", 1.0, "7+3*5"),
        ("3*5+7=21", 0.0, "7+3*5"),
        ("3+5+7=22", 0.0, "3+5+7"),
        ("3*5+7=22=22", 0.0, ""),
        ("3*5+7=x", 0.0, ""),
        ("3*5+7=-22", 0.0, ""),
        ("7--(3*5)", 1.0, "7+3*5"),
        ("3*5+7+0", 0.0, "0+7+3*5"),
        ("3*5+3+4", 0.0, "3+4+3*5"),
        ("15+7", 0.0, "7+15"),
        ("22", 0.0, "22"),
        ("7/(5-5)", 0.0, "7/(5-5)"),
        ("3×5+7", 0.0, ""),
        ("3*5+7.", 0.0, ""),
        ("007+5*3", 1.0, "7+3*5"),
    ],
)
def test_parsing_and_rules(text: str, acc: float, pred: str) -> None:
    assert score(text) == {"score": acc, "acc": acc, "pred": pred}


def test_a_number_given_twice_must_be_used_twice() -> None:
    problem = Problem((4, 4, 2), 10)
    assert score("4+4+2", problem)["acc"] == 1.0
    assert score("4*2+2", problem)["acc"] == 0.0


def test_division_is_exact() -> None:
    assert score("8/(3-8/3)", Problem((8, 3, 8, 3), 24))["acc"] == 1.0
    assert score("7/3*3", Problem((7, 3, 3), 7))["acc"] == 1.0
    assert score("7/2*3", Problem((7, 2, 3), 10))["acc"] == 0.0


def test_division_by_zero_is_wrong_not_an_error() -> None:
    assert score("5/(3-3)", Problem((5, 3, 3), 5)) == {"score": 0.0, "acc": 0.0, "pred": "5/(3-3)"}


@patient
@given(any_text | parser_text | parser_text.map(lambda text: f"<answer>{text}</answer>"))
@example("\ud800")
def test_no_text_raises(text: str) -> None:
    for style in ("tiny", "instruct"):
        result = score(text, style=style)
        assert 0.0 <= result["score"] <= 1.0
        assert result["acc"] in (0.0, 1.0)
        assert result["pred"] == "" or expression.canonical(expression.parse(result["pred"])) == result["pred"]


@pytest.mark.parametrize("style", ["tiny", "instruct"])
@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_hostile_text_takes_linear_time(name: str, style: str) -> None:
    text = HOSTILE_TEXTS[name]
    assert cpu_seconds(lambda: score(text, style=style)) < TIME_LIMIT
    assert cpu_seconds(lambda: score(f"<answer>{text}</answer>", style=style)) < TIME_LIMIT


def test_solutions_of_a_known_problem() -> None:
    assert solutions((3, 5, 7), 22) == ("7+3*5",)
    assert solutions((8, 3, 8, 3), 24) == ("8/(3-8/3)",)
    assert solutions((1, 1, 1), 50) == ()


@patient
@given(st.lists(st.integers(1, 12), min_size=2, max_size=3), st.integers(1, 40))
def test_the_solver_finds_exactly_the_strings_that_score_1(numbers: list[int], target: int) -> None:
    """Against every string of the form a?b?c, (a?b)?c and a?(b?c)."""
    problem = Problem(tuple(numbers), target)
    forms = ["{}{}{}"] if len(numbers) == 2 else ["{}{}{}{}{}", "({}{}{}){}{}", "{}{}({}{}{})"]
    preds = set()
    for order in itertools.permutations(numbers):
        for operators in itertools.product("+-*/", repeat=len(numbers) - 1):
            parts = [str(order[0])]
            for operator, number in zip(operators, order[1:], strict=True):
                parts += [operator, str(number)]
            scores = [score(form.format(*parts), problem) for form in forms]
            preds |= {result["pred"] for result in scores if result["acc"]}
    assert preds == set(solutions(problem.numbers, target))


def test_the_solver_refuses_what_would_take_for_ever() -> None:
    with pytest.raises(ValueError, match="up to 5 numbers"):
        solutions((1, 2, 3, 4, 5, 6), 7)


@pytest.mark.parametrize("num_numbers", [2, 3, 4])
def test_every_generated_problem_is_solvable_and_in_range(num_numbers: int) -> None:
    for problem in generate(40, 0, num_numbers, numbers=(2, 9), target=(5, 30), min_solutions=1):
        assert len(problem.numbers) == num_numbers
        assert all(2 <= number <= 9 for number in problem.numbers)
        assert 5 <= problem.target <= 30
        assert solutions(problem.numbers, problem.target)


def test_min_solutions_keeps_problems_with_room_for_diversity() -> None:
    for problem in generate(50, 0, min_solutions=3):
        assert len(solutions(problem.numbers, problem.target)) >= 3


@pytest.mark.parametrize("num_numbers", [6, 8, 12])
@pytest.mark.parametrize("min_solutions", [1, 3])
def test_large_problems_are_solvable_too(num_numbers: int, min_solutions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many expressions to look at them all, so the ones that generate itself found are evaluated."""
    found: list[tuple[Problem, str]] = []

    def noting(numbers: tuple[int, ...], target: int, solution: str, least: int) -> bool:
        found.append((Problem(numbers, target), solution))
        return has_solutions(numbers, target, solution, least)

    monkeypatch.setattr(countdown, "has_solutions", noting)
    problems = generate(5, 0, num_numbers, min_solutions=min_solutions)
    assert len({(tuple(sorted(problem.numbers)), problem.target) for problem in problems}) == 5
    for problem in problems:
        assert len(problem.numbers) == num_numbers
        assert all(1 <= number <= 20 for number in problem.numbers)
        assert 1 <= problem.target <= 99
    for problem, solution in found:
        assert score(solution, problem)["acc"] == 1.0
    if min_solutions > 1:
        assert set(problems) <= {problem for problem, _ in found}


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4, 5, 6), (7, 7, 1, 12, 3, 20, 5, 9)])
def test_solutions_of_large_problems_are_found_and_are_different(numbers: tuple[int, ...]) -> None:
    target = sum(numbers)
    found = set()
    rng = random.Random(0)
    while len(found) < 3:
        found.update(search(random_parts(numbers, rng, 4), target))
    assert all(score(solution, Problem(numbers, target))["acc"] == 1.0 for solution in found)
    assert has_solutions(numbers, target, "+".join(map(str, sorted(numbers))), 3)


def test_no_second_solution_is_found_where_there_is_none() -> None:
    # The product of numbers above 1 is the most that they make, but for a division by less than 1.
    problem, product = Problem((2, 3, 5, 7, 11, 13), 30030), "2*3*5*7*11*13"
    assert score(product, problem)["acc"] == 1.0
    known = expression.canonical(expression.parse(product))
    assert has_solutions(problem.numbers, problem.target, known, 1)
    assert not has_solutions(problem.numbers, problem.target, known, 2)


def test_generated_problems_differ_whatever_the_order_of_numbers() -> None:
    # 1,2 in either order makes 1, 2 and 3, and 1,1 makes 1 and 2, and 2,2 makes 1 and 4: few enough to need them all.
    problems = generate(7, 0, 2, numbers=(1, 2), min_solutions=1)
    assert len({(tuple(sorted(problem.numbers)), problem.target) for problem in problems}) == 7
    with pytest.raises(ValueError, match=r"ask for 8 different problems, but only 7 were found"):
        generate(8, 0, 2, numbers=(1, 2), min_solutions=1)


def test_generate_is_deterministic_by_seed() -> None:
    assert generate(30, 5) == generate(30, 5)
    assert generate(30, 5) != generate(30, 6)


def test_generate_says_which_option_to_change() -> None:
    with pytest.raises(ValueError, match="--count is 1"):
        generate(1, 0, 1)
    with pytest.raises(ValueError, match="--count is 13: give 2 to 12"):
        generate(1, 0, 13)
    with pytest.raises(ValueError, match="--numbers is 0 9"):
        generate(1, 0, numbers=(0, 9))
    with pytest.raises(ValueError, match="--target is 9 1"):
        generate(1, 0, target=(9, 1))


def test_prompts_say_what_is_asked() -> None:
    assert PROBLEM.prompt("tiny") == "3,5,7=22"
    for phrase in ("3, 5, 7", "22", "exactly once", "<think>", "<answer>"):
        assert phrase in PROBLEM.prompt("instruct")


@patient
@given(st.lists(st.integers(1, 99), min_size=2, max_size=6), st.integers(1, 99), st.sampled_from(["tiny", "instruct"]))
def test_ground_truth_round_trip(numbers: list[int], target: int, style: str) -> None:
    problem = Problem(tuple(numbers), target)
    truth = problem.ground_truth(style)
    assert isinstance(truth, str)
    assert Problem.from_ground_truth(truth) == Problem.from_ground_truth(json.loads(truth)) == problem


@pytest.mark.parametrize(
    "truth",
    ["", "22", "[3, 5]", "{}", '{"numbers": [3, 5]}', '{"numbers": "35", "target": 8}', {"numbers": 3, "target": 8}],
)
def test_a_broken_ground_truth_is_an_error(truth: object) -> None:
    with pytest.raises(ValueError, match="ground truth"):
        compute_score("countdown", "3+5", truth)


def test_sampled_answers_cover_the_solutions_and_some_are_wrong_when_asked() -> None:
    rng = random.Random(0)
    problem = generate(1, 0, min_solutions=4)[0]
    assert {problem.sample_answer(rng, 0.0) for _ in range(500)} == set(solutions(problem.numbers, problem.target))
    wrong = [score(problem.sample_answer(rng, 1.0), problem) for _ in range(200)]
    assert all(result["pred"] for result in wrong)
    assert sum(result["acc"] for result in wrong) < 100
