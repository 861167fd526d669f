r"""What is read of a row, whatever the row holds."""

import math
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tasks.hostile import HOSTILE_TEXTS, TIME_LIMIT, any_text, cpu_seconds, parser_text, patient
from verl_setpo.tasks.math_sets import COUNTDOWN, SETS
from verl_setpo.tasks.math_sets_rows import (
    LEAK,
    NO_ANSWER,
    NO_PROBLEM,
    NO_QUESTION,
    PROOF,
    Dropped,
    Item,
    answer_text,
    asks_for_proof,
    gives_away,
    pass_rate,
    read_countdown,
    read_math,
    value_at,
)


def read(row: dict[str, Any], name: str = "math500") -> Item | Dropped:
    return read_math(SETS[name], row, SETS[name].question[0], SETS[name].answer[0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  12 ", "12"),
        ("012", "012"),
        (12, "12"),
        (0, "0"),
        (-3, "-3"),
        (np.int64(12), "12"),
        (np.float64(12.0), "12"),
        (27.0, "27"),
        (2.5, "2.5"),
        (1e20, "100000000000000000000"),
        (float("nan"), ""),
        (float("inf"), ""),
        (None, ""),
        ("", ""),
        (" \n", ""),
        ([], ""),
        ([None, ""], ""),
        ({"answer": "12"}, ""),
        (True, ""),
        (["-2", "2"], "-2, 2"),
        (["$-2$", "$2$"], "-2, 2"),
        ([1, "$x$", None, 2.0], "1, x, 2"),
        ([["1"], ["2", ["3"]]], "1, 2, 3"),
        (("1", "2"), "1, 2"),
        (np.array(["a", "b"], dtype=object), "a, b"),
        (np.array([1, 2]), "1, 2"),
        ("$12$", "12"),
        ("$$12$$", "12"),
        (r"\(12\)", "12"),
        (r"\[ 12 \]", "12"),
        (r"\boxed{12}", "12"),
        (r"$\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        (r"\boxed{$x^{2}$}", "x^{2}"),
        ("$a$ and $b$", "$a$ and $b$"),
        (r"\$5", r"\$5"),
        ("$", "$"),
        (r"\boxed{1} or \boxed{2}", r"\boxed{1} or \boxed{2}"),
        (r"(1,2] \cup \{3\}", r"(1,2] \cup \{3\}"),
        ("1,234", "1,234"),
    ],
)
def test_an_answer_is_one_text(value: Any, text: str) -> None:
    assert answer_text(value, "text") == text


@pytest.mark.parametrize(
    ("solution", "text"),
    [
        ("3*4=<<3*4=12>>12\n#### 12", "12"),
        ("#### 1,234,567", "1234567"),
        ("#### -1,000", "-1000"),
        ("#### 2,5", "2,5"),
        ("#### 1\n#### 2", "2"),
        ("no marks at all, 12", ""),
        ("#### ", ""),
        ("", ""),
        (None, ""),
        (12, "12"),
    ],
)
def test_what_follows_the_last_hashes_is_the_answer(solution: Any, text: str) -> None:
    assert answer_text(solution, "after_hashes") == text


@pytest.mark.parametrize(
    ("solution", "text"),
    [
        (r"So \boxed{1}, no, \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{025}", "025"),
        (r"\boxed{}", ""),
        (r"\boxed{12", ""),
        ("It is 12.", ""),
        (None, ""),
        (25, "25"),
    ],
)
def test_the_content_of_the_last_box_is_the_answer(solution: Any, text: str) -> None:
    assert answer_text(solution, "boxed") == text


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 3 times 4? The answer is 12.", "12"),
        ("What is 3 times 4?\nAnswer: 12", "12"),
        ("What is 3 times 4? answer = $12$", "12"),
        ("What is 3 times 4? #### 12", "12"),
        (r"What is 3 times 4? \boxed{12}", "12"),
        (r"What is 3 times 4? $\boxed{ 12 }$ Explain.", "12"),
        (r"Half? The answer is \frac{1}{2}; show why.", r"\frac{1}{2}"),
        ("Who won? The answer is Evelyn!", "Evelyn"),
    ],
)
def test_a_question_that_states_its_answer_is_a_leak(question: str, answer: str) -> None:
    assert gives_away(question, answer)
    assert read({"problem": question, "answer": answer}) == Dropped(LEAK, f"{question!r:.120}")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Of 12 apples 3 are red. How many are not?", "12"),
        ("Of 12 apples, 12 are green.", "12"),
        ("The answer is 12.5 times what?", "12"),
        ("The answer is 12,500. What is the question?", "12"),
        ("The answer is 12 more than 3.", "12"),
        ("Your answer is a number.", "a"),
        ("If the answer is 120, what is x?", "12"),
        (r"Put your final answer within \boxed{}.", "12"),
        (r"A \boxed{12} in a figure.", "3"),
        ("The answer is not 12.", "12"),
        ("An answer: 1/2 is wrong?", "1"),
    ],
)
def test_a_number_that_occurs_in_the_question_is_no_leak(question: str, answer: str) -> None:
    assert not gives_away(question, answer)
    assert isinstance(read({"problem": question, "answer": answer}), Item)


@pytest.mark.parametrize(
    "question",
    [
        "Prove that there are infinitely many primes.",
        "3. Show that $n^2 + n$ is even.",
        "(b) prove  that the sum is bounded",
        "**Prove that** x > 0.",
    ],
)
def test_a_proof_has_no_answer_to_compare(question: str) -> None:
    assert asks_for_proof(question)
    assert isinstance(read({"problem": question, "answer": "1"}), Dropped)
    assert read({"problem": question, "answer": "1"}).reason == PROOF


@pytest.mark.parametrize(
    "question",
    [
        "Show that x is an integer, and find it.",
        "Prove that f is constant. What is its value?",
        "Find the least n. You need not prove that it is the least.",
        "Show the clock at noon: how many degrees?",
    ],
)
def test_a_problem_that_also_asks_for_a_value_is_none(question: str) -> None:
    assert not asks_for_proof(question)


@pytest.mark.parametrize("kind", ["TP", "Theorem proof"])
def test_olympiad_proofs_are_told_by_their_column(kind: str) -> None:
    row = {"question": "Let n > 1. What can be said?", "final_answer": ["1"], "question_type": kind}
    assert read(row, "olympiad").reason == PROOF
    assert isinstance(read({**row, "question_type": "OE"}, "olympiad"), Item)
    assert isinstance(read({**row, "question_type": None}, "olympiad"), Item)


def test_the_same_problem_has_the_same_key_whatever_its_blanks() -> None:
    one, two = read({"problem": "What is\n 1 + 1? ", "answer": "2"}), read({"problem": "What is 1 + 1?", "answer": 3})
    assert one.key == two.key
    assert one.key != read({"problem": "What is 1 + 2?", "answer": "2"}).key
    assert one.question == "What is\n 1 + 1?"


def test_a_field_of_a_struct_is_reached_by_a_dot() -> None:
    row = {"extra_info": {"question": "1 + 1?", "answer": None}, "a": 1}
    assert value_at(row, "extra_info.question") == "1 + 1?"
    assert value_at(row, "extra_info.answer") is value_at(row, "extra_info.none") is value_at(row, "a.b") is None


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        ("0/8", 0.0),
        ("3/8", 0.375),
        (" 8 / 8 ", 1.0),
        ("0.5", 0.5),
        ("1", 1.0),
        (0.25, 0.25),
        (np.float64(1), 1.0),
        (0, 0.0),
    ],
)
def test_a_pass_rate_is_read(value: Any, rate: float) -> None:
    assert pass_rate(value) == rate


@pytest.mark.parametrize(
    "value", [None, "", "8/0", "9/8", "-1/8", "hard", "3/8/2", 1.5, -0.1, math.nan, [], "1e0", "\u0663/8"]
)
def test_what_is_no_pass_rate_is_none(value: Any) -> None:
    assert pass_rate(value) is None


@pytest.mark.parametrize(
    ("numbers", "target"),
    [
        ([44, 19, 35], 98),
        (np.array([44, 19, 35]), np.int64(98)),
        ((44, 19, 35), 98),
    ],
)
def test_a_countdown_row_is_read_whatever_holds_its_numbers(numbers: Any, target: Any) -> None:
    item = read_countdown({"nums": numbers, "target": target}, "nums", "target", "tiny")
    assert item == Item("44,19,35=98", '{"numbers": [44, 19, 35], "target": 98, "style": "tiny"}', "[19, 35, 44]=98")


@pytest.mark.parametrize(
    "row",
    [
        {"nums": None, "target": 1},
        {"nums": [], "target": 1},
        {"nums": [1], "target": 1},
        {"nums": [1, None], "target": 1},
        {"nums": [1, 2.5], "target": 1},
        {"nums": "[1, 2]", "target": 3},
        {"nums": [[1], [2]], "target": 3},
        {"nums": [1, 2], "target": None},
        {"nums": [1, 2], "target": "3"},
        {"nums": [1, 2], "target": True},
        {},
    ],
)
def test_a_countdown_row_without_integers_is_dropped(row: dict[str, Any]) -> None:
    assert read_countdown(row, COUNTDOWN.question[0], COUNTDOWN.answer[0], "tiny").reason == NO_PROBLEM


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | parser_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["answer", "question"]), inner),
    max_leaves=6,
)


@patient
@given(st.sampled_from(sorted(SETS)), values, values, values)
@example("math500", "\ud800", "\ud800", None)
@example("gsm8k", "#", "####", None)
def test_no_row_raises_and_what_is_kept_has_a_question_and_an_answer(
    name: str, question: Any, answer: Any, kind: Any
) -> None:
    entry = SETS[name]
    row = {"extra_info": {"question": question, "answer": answer}, "question_type": kind}
    row |= dict.fromkeys(entry.question, question) | dict.fromkeys(entry.answer, answer)
    item = read_math(entry, row, entry.question[-1], entry.answer[-1])
    if isinstance(item, Item):
        assert item.question == question.strip() != ""
        assert isinstance(item.answer, str)
        assert item.answer.strip() == item.answer != ""
    else:
        assert item.reason in (NO_QUESTION, NO_ANSWER, PROOF, LEAK)
        assert len(item.shown) <= 120
    read_countdown({"nums": question, "target": answer}, "nums", "target", "instruct")
    pass_rate(question)


@patient
@given(st.text(string.ascii_letters + string.digits + r"\{}$() ", max_size=30))
def test_an_answer_read_twice_is_the_same(text: str) -> None:
    assert answer_text(answer_text(text, "text"), "text") == answer_text(text, "text")


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_hostile_text_takes_linear_time(name: str) -> None:
    text = HOSTILE_TEXTS[name]
    for row in (
        {"problem": text, "answer": "12", "solution": text},
        {"problem": "What is it?", "answer": text, "solution": text},
        {"problem": "The answer is " + text, "answer": text[:1000], "solution": "\\boxed{" + text + "}"},
        {"problem": "Show that " + text, "answer": "answer " * 10_000, "solution": "$" + text + "$"},
    ):
        for entry in ("math500", "aime24"):
            assert cpu_seconds(lambda row=row, entry=entry: read(row, entry)) < TIME_LIMIT


@pytest.mark.parametrize(("size", "answer"), [(20_000, "12"), (20_000, " "), (2_000, "answer is ")])
def test_a_long_question_takes_linear_time_to_search_for_its_answer(size: int, answer: str) -> None:
    assert cpu_seconds(lambda: gives_away("the answer is   " * size, answer)) < TIME_LIMIT
    assert cpu_seconds(lambda: gives_away("answer" + " " * size * 10 + answer, answer)) < TIME_LIMIT
