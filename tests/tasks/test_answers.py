"""Where in a response the answer is."""

import pytest

from tests.tasks.hostile import HOSTILE_TEXTS, TIME_LIMIT, cpu_seconds
from verl_setpo.tasks.answers import final_answer, last_boxed, last_tagged


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("no answer", None),
        ("\\boxed{7}", "7"),
        ("\\boxed{7} and then \\boxed{8}.", "8"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("a stray } and { before \\boxed{7}", "7"),
        ("\\boxed{\\boxed{7}}", "7"),
        ("\\boxed{7} but then cut off in \\boxed{8", "7"),
        ("<answer> 7 </answer>", " 7 "),
        ("<answer>7</answer> no, <answer>8</answer>", "8"),
        ("write it in <answer> tags: <answer>8</answer>", "8"),
        ("<answer>7</answer> and a stray </answer>", "7"),
        ("<answer>7</answer> then cut off in <answer>8", "7"),
        ("</answer>7<answer>", None),
        ("<answer>\\boxed{7}</answer>", "7"),
        ("\\boxed{<answer>7</answer>}", "7"),
        ("\\boxed{7} <answer>8</answer>", "8"),
        ("<answer>7</answer> \\boxed{8}", "8"),
    ],
)
def test_the_last_and_innermost_complete_answer_counts(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_positions_point_at_the_content() -> None:
    assert last_tagged("x<answer>7</answer>") == (9, "7")
    assert last_boxed("x\\boxed{7}") == (8, "7")


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_hostile_text_takes_linear_time(name: str) -> None:
    assert cpu_seconds(lambda: final_answer(HOSTILE_TEXTS[name])) < TIME_LIMIT
