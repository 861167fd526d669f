"""Poly-EPO's second synthetic task: the product must be right, and the decomposition is the strategy."""

import json
import random
from itertools import product as pairs_of

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tasks.hostile import HOSTILE_TEXTS, TIME_LIMIT, any_text, cpu_seconds, parser_text, patient
from verl_setpo.tasks import multiplication, warm_start
from verl_setpo.tasks.expression import evaluate, parse
from verl_setpo.tasks.multiplication import MAX_PRODUCT, Problem, compute_score, generate, splits
from verl_setpo.tasks.warm_start import DEFAULTS

PAPER = Problem(343, 67)
WORKED = "(340+3)*(70-3)=23800-1020+210-9=22981"
numbers = st.integers(2, 9999)
problems = st.builds(Problem, numbers, numbers)


def score(text: str, problem: Problem = PAPER) -> dict:
    return compute_score("multiplication", text, problem.ground_truth("tiny"))


def strategy(text: str, problem: Problem = PAPER) -> str:
    return score(text, problem)["strategy"]


def test_the_paper_s_example_is_correct_and_its_decomposition_is_the_strategy() -> None:
    assert score(WORKED) == {"score": 1.0, "acc": 1.0, "pred": "22981", "strategy": "(3+340)*(70-3)"}


def test_the_product_alone_is_correct_without_a_strategy() -> None:
    assert score("22981") == {"score": 1.0, "acc": 1.0, "pred": "22981", "strategy": ""}


def test_no_number_is_no_answer() -> None:
    assert score("I do not know") == {"score": 0.0, "acc": 0.0, "pred": "", "strategy": ""}


def test_a_slip_in_the_sum_keeps_the_strategy_and_one_in_a_partial_product_does_not() -> None:
    in_the_sum, in_a_part = "(340+3)*67=22780+201=22971", "(340+3)*67=22770+201=22971"
    assert score(in_the_sum) == {"score": 0.0, "acc": 0.0, "pred": "22971", "strategy": "67*(3+340)"}
    assert score(in_a_part) == {"score": 0.0, "acc": 0.0, "pred": "22971", "strategy": ""}


@pytest.mark.parametrize(
    ("text", "pred"),
    [
        ("\\boxed{22981}", "22981"),
        ("\\boxed{22,981}", "22981"),
        ("\\boxed{22{,}981}", "22981"),
        ("\\boxed{22\\,981}", "22981"),
        ("\\boxed{343 \\times 67 = 22981}", "22981"),
        ("\\boxed{22981}, as 340 * 67 is 22780", "22981"),
        ("<answer>22981</answer>", "22981"),
        ("\\boxed{22981} no, \\boxed{22982}", "22982"),
        ("\\boxed{22981 or 22982}", "22982"),
        ("It is 22981.", "22981"),
        ("-22981", "-22981"),
        ("\\boxed{0022981}", "22981"),
        ("\\boxed{unknown}, though 22981", ""),
        ("22981.5", ""),
        ("\u0662\u0662\u0669\u0668\u0661", ""),
        ("9" * 19, ""),
        ("22981 or " + "9" * 19, ""),
    ],
)
def test_the_last_number_is_the_answer(text: str, pred: str) -> None:
    assert score(text)["pred"] == pred
    assert score(text)["acc"] == float(pred == "22981")


PROSE = r"""We write \(343 \times 67 = (340 + 3)(70 - 3)\).

1. 340 × 70 = 23,800
2. \(340 \cdot 3 = 1{,}020\)
3. **3 × 70** = 210
4. 3 x 3 = 9

So $23800 - 1020 + 210 - 9 = 22981$, that is \boxed{22{,}981}."""


@pytest.mark.parametrize(
    "text",
    [
        WORKED,
        PROSE,
        "(70-3)*(340+3)=23800-1020+210-9=22981",
        "(3+340)(-3+70)=23800-1020+210-9=22981",
        "(340+3) × (70−3) = 23800 − 1020 + 210 − 9 = 22981",
        "343*67=(340+3)*(70-3)=340*70-340*3+3*70-3*3=23800-1020+210-9=22981",
        "- (340+3) x (70-3)\n- 23800-1020=22780\n- 210-9=201\n- 22981",
        "1) (340+3)*(70-3)\n2) 22780 and 201\n3) 22981",
        "$$\\left(340+3\\right)\\left(70-3\\right) \\\\ &= 24010-1029=22981$$",
        "(34*10+3)*(7*10-3)=22780+201=22981",
        "(343 is 340+3, so it is (340+3)*(70-3)), then 22780+201=22981",
    ],
)
def test_the_same_decomposition_in_other_words_is_the_same_strategy(text: str) -> None:
    assert score(text) == {"score": 1.0, "acc": 1.0, "pred": "22981", "strategy": "(3+340)*(70-3)"}


def test_other_decompositions_are_other_strategies() -> None:
    texts = [
        WORKED,
        "(340+3)*67=22780+201=22981",
        "343*(70-3)=24010-1029=22981",
        "343*(60+7)=20580+2401=22981",
        "(300+40+3)*67=20100+2680+201=22981",
        "(300+43)*67=20100+2881=22981",
        "(350-7)*67=23450-469=22981",
    ]
    assert len({strategy(text) for text in texts} - {""}) == len(texts)


@pytest.mark.parametrize(
    "text",
    [
        "343*67=22981",
        "(343)*(67)=22981",
        # Nothing is split.
        "(343+0)*(67+0)=343*67+0=22981",
        "(343+1-1)*67=343*67=22981+67-67=22981",
        "(343+5-2-3)*67=22981+335-134-201=22981",
        "(343-0*67)*67=343*67-0=22981",
        "343*67*(2-1)=686*67-343*67=22981",
        # Not the problem's product, or not as a product of its two numbers.
        "(340+4)*67=22780+268=22981",
        "(22980+1)*1=22980+1=22981",
        "(40+9)*7*67=280+63=343*67=22981",
        "(340+3)*67+0=22780+201=22981",
        "(340+3)*67.0=22780+201=22981",
        "(340+3)*67^1=22780+201=22981",
        "(343/2+343/2)*67=11490+11490=22981",
        # Never worked: nothing, not all of it, or something else follows.
        "(340+3)*(70-3)=22981",
        "(340+3)*(70-3)=343*67=22981",
        "(340+3)*(70-3)=23800-1020+210=22981",
        "(340+3)*67=(300+43)*67=20100+2881=22981",
        # Worked after the product was known.
        "22981=(340+3)*67=22780+201=22981",
        "343*67=22981. Check: (340+3)*67=22780+201=22981",
        "(340+3)*67=22981=22780+201=22981",
    ],
)
def test_what_only_looks_like_a_strategy_is_none(text: str) -> None:
    assert score(text) == {"score": 1.0, "acc": 1.0, "pred": "22981", "strategy": ""}


def test_of_many_decompositions_the_first_one_counts() -> None:
    texts = [f"({n}+{343 - n})*67={n * 67}+{(343 - n) * 67}" for n in (340, 300, 200)]
    assert strategy("; ".join(texts) + "=22981") == "67*(3+340)"
    assert strategy("; ".join(texts[::-1]) + "=22981") == "67*(143+200)"


@patient
@given(problems, st.data())
def test_a_worked_decomposition_is_found_whatever_it_adds_that_cancels(problem: Problem, data: st.DataObject) -> None:
    left = data.draw(st.integers(1, problem.a - 1))
    extra = data.draw(st.integers(0, 500))
    padding = data.draw(st.sampled_from([f"+{extra}-{extra}", "+0", f"-{extra}+{extra}-0"]))
    plain = f"({left}+{problem.a - left})*{problem.b}"
    work = f"={left * problem.b}+{(problem.a - left) * problem.b}="
    # A number that is named earlier than it is found ends the working.
    named = {left, problem.a - left, problem.b, extra, left * problem.b, (problem.a - left) * problem.b, 0}
    total = problem.a * problem.b
    found = strategy(f"{plain}{work}{total}", problem)
    if total not in named:
        assert evaluate(parse(found)) == total
        padded = f"({left}{padding}+{problem.a - left})*{problem.b}*1{work}{total}"
        assert strategy(padded, problem) == found


@patient
@given(problems, st.integers(0, 10**6))
def test_the_reward_is_for_the_product_alone(problem: Problem, number: int) -> None:
    assert score(f"\\boxed{{{problem.a * problem.b}}}", problem)["score"] == 1.0
    assert score(f"\\boxed{{{number}}}", problem)["score"] == float(number == problem.a * problem.b)


@patient
@given(any_text | parser_text | st.text("0123456789()+-*/=x.,^ \n\\", max_size=100))
@example("\ud800")
@example("(340+3)*(70-3)/0")
@example("(340+3/0)*67")
def test_no_text_raises(text: str) -> None:
    result = score(text)
    assert result["score"] == result["acc"]
    assert result["acc"] == float(result["pred"] == "22981")
    if result["strategy"]:
        assert evaluate(parse(result["strategy"])) == 22981


MORE_HOSTILE_TEXTS = {
    "decompositions that are not this one's": "(1+2)*3;" * 12_500,
    "the same unworked decomposition": "(340+3)*67;" * 9_000,
    "long sums": "(" + "+".join(["1"] * 40_000) + ")*67",
    "numbers": "22980 " * 16_000,
    "signless products": "(1)" * 33_000,
    "list items": "- 1) " * 20_000,
    "blanks between factors": ")" + " " * 50_000 + "(" + "1" + " " * 50_000 + "x",
    "markup": "\\\\\\left\\right\\(\\)" * 5_000,
}


@pytest.mark.parametrize("name", [*HOSTILE_TEXTS, *MORE_HOSTILE_TEXTS])
def test_hostile_text_takes_linear_time(name: str) -> None:
    text = (HOSTILE_TEXTS | MORE_HOSTILE_TEXTS)[name]
    assert cpu_seconds(lambda: score(text)) < TIME_LIMIT
    assert cpu_seconds(lambda: score("(340+3)*67=" + text)) < TIME_LIMIT


def test_the_prompts_name_both_numbers() -> None:
    assert PAPER.prompt("tiny") == "343*67="
    instruct = PAPER.prompt("instruct")
    assert "Multiply 343 by 67" in instruct
    assert "\\boxed{}" in instruct


def test_the_prompt_s_own_example_is_of_a_form_that_counts() -> None:
    example_of_the_prompt = PAPER.prompt("instruct").split("as in ")[1].split(",")[0]
    assert strategy(f"{example_of_the_prompt} = 240 - 24 = 216", Problem(27, 8)) == "8*(30-3)"


def test_splits_are_at_the_digits_and_add_up() -> None:
    assert splits(343) == [(343,), (340, 3), (350, -7), (300, 43), (400, -57), (300, 40, 3)]
    assert splits(67) == [(67,), (60, 7), (70, -3)]
    for number in range(2, 2000):
        found = splits(number)
        assert all(sum(parts) == number and 0 not in parts for parts in found)
        assert len(set(found)) == len(found)


def test_sampled_answers_are_wrong_as_often_as_asked_and_all_worked() -> None:
    rng = random.Random(0)

    def results(wrong_share: float) -> list[dict]:
        return [score(PAPER.sample_answer(rng, wrong_share)) for _ in range(2000)]

    right = results(0.0)
    assert all(result["acc"] == 1.0 for result in right)
    strategies = {result["strategy"] for result in right}
    assert "" not in strategies
    assert len(strategies) == 5 * 2  # all pairs in which both numbers are split
    assert not any(result["acc"] for result in results(1.0))
    assert sum(result["acc"] for result in results(0.35)) / 2000 == pytest.approx(0.65, abs=0.05)


def test_the_warm_start_has_room_for_every_sampled_answer() -> None:
    rng = random.Random(0)
    longest = max(len(problem.sample_answer(rng, 1.0)) for problem in generate(5000, seed=0))
    assert longest < DEFAULTS["multiplication"].max_new_tokens  # a token a byte, and one for the end


def test_the_warm_start_counts_strategies_not_products(monkeypatch: pytest.MonkeyPatch) -> None:
    by_tens, by_parts = "(340+3)*67=22780+201=22981", "343*(60+7)=20580+2401=22981"
    wrong = "(300+43)*67=20100+2881=22982"
    responses = [[by_tens, by_parts, by_tens, wrong], ["22981", by_parts, "22981", ""]]
    monkeypatch.setattr(warm_start, "sample", lambda *args, **kwargs: responses)
    two = [warm_start.Prompt(multiplication, PAPER.ground_truth("tiny"), [1])] * 2
    figures = warm_start.measure(None, None, two, num_samples=4)
    assert (figures.pass_at_1, figures.distinct_correct, figures.parsed) == (6 / 8, 1.5, 7 / 8)


def test_a_problem_without_anything_to_split_can_still_be_answered() -> None:
    assert score(Problem(300, 60).sample_answer(random.Random(0), 0.0), Problem(300, 60))["acc"] == 1.0


def test_generated_problems_are_all_different_and_have_the_digits_asked_for() -> None:
    everything = generate(81 * 82 // 2, seed=0, digits=(2, 2))
    wanted = [number for number in range(10, 100) if number % 10]
    assert set(everything) == {Problem(a, b) for a, b in pairs_of(wanted, wanted) if a >= b}
    assert generate(100, seed=0) == generate(100, seed=0) != generate(100, seed=1)
    for problem in generate(2000, seed=0):
        assert (len(str(problem.a)), len(str(problem.b))) == (3, 2)
        assert problem.a % 10
        assert problem.b % 10
    widest = generate(50, seed=0, digits=(2, 7))
    assert all(problem.a * problem.b <= MAX_PRODUCT for problem in widest)
    assert {len(str(problem.b)) for problem in widest} == {7}


def test_generate_says_which_option_to_change() -> None:
    with pytest.raises(ValueError, match=r"--train-size and --test-size ask for 3322 .* --digits 2 2 has 3321"):
        generate(3322, seed=0, digits=(2, 2))
    for digits in ((1, 3), (5, 5)):
        with pytest.raises(ValueError, match=f"--digits is {digits[0]} {digits[1]}: give two numbers of at least 2"):
            generate(1, seed=0, digits=digits)


@patient
@given(problems)
def test_ground_truth_round_trip(problem: Problem) -> None:
    truth = problem.ground_truth("tiny")
    assert isinstance(truth, str)
    assert Problem.from_ground_truth(truth) == problem
    assert Problem.from_ground_truth(json.loads(truth)) == problem


def test_ground_truth_may_hold_numpy_integers() -> None:
    assert Problem.from_ground_truth({"a": np.int64(343), "b": np.int32(67)}) == PAPER


@pytest.mark.parametrize(
    "truth",
    [
        "",
        "7",
        "null",
        "{}",
        '{"a": 343}',
        '{"a": 3.5, "b": 6}',
        {"a": "1"},
        None,
        {"a": 0, "b": 7},
        {"a": 10**8, "b": 11},
    ],
)
def test_a_broken_ground_truth_is_an_error(truth: object) -> None:
    with pytest.raises(ValueError, match="ground truth"):
        compute_score("multiplication", "22981", truth)
