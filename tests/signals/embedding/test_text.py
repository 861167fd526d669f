"""Which part of a response is embedded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.hostile import HOSTILE_TEXTS, SIZE, TIME_LIMIT, any_text, cpu_seconds, patient
from verl_setpo.signals.answer import find_answer
from verl_setpo.signals.embedding import PARTS, part_of
from verl_setpo.signals.embedding.text import encodable

pieces = ["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "{", "}", "7", " ", "\n", "a"]
thinking_text = st.lists(st.sampled_from(pieces), max_size=30).map("".join)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>2 + 2, so 4</think>\n\nIt is 4.", "It is 4."),
        ("no tags at all", "no tags at all"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("the template opened it</think>It is 4.", "It is 4."),
        ("before <think>a</think> after", "after"),
        ("<think>cut off while it thinks", "<think>cut off while it thinks"),
        ("<think>a</think>b<think>c", "b<think>c"),
        ("<think>only thoughts</think>", ""),
        ("<think></think>", ""),
        ("", ""),
    ],
)
def test_without_thinking_is_what_follows_the_last_closing_tag(text, left):
    assert part_of(text, "without_thinking") == left


def test_response_is_the_whole_text():
    assert part_of(" <think>a</think>\n b ", "response") == " <think>a</think>\n b "


@pytest.mark.parametrize("text", ["so \\boxed{ 4 }", "<answer>x\n= 4</answer>", "work\n#### 4", "nothing"])
def test_answer_is_the_answer_that_the_signal_answer_finds(text):
    assert part_of(text, "answer") == find_answer(text)


@patient
@given(any_text | thinking_text, st.sampled_from(PARTS))
def test_any_text_has_each_part_and_it_is_of_the_text(text, part):
    left = part_of(text, part)
    assert left in text or (part == "answer" and "".join(left.split()) in "".join(text.split()))
    if part == "without_thinking":
        assert "</think>" not in left


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("text", [*HOSTILE_TEXTS.values(), "<think>" * (SIZE // 7), "</think>" * (SIZE // 8)])
def test_hostile_text_costs_linear_time(text, part):
    assert cpu_seconds(lambda: part_of(text, part)) < TIME_LIMIT


def test_an_unknown_part_names_the_key():
    with pytest.raises(ValueError, match=r"algorithm\.set_rl\.signal\.part is 'thoughts', but must be one of response"):
        part_of("", "thoughts")


@given(any_text)
def test_encodable_text_is_utf_8_and_changes_only_lone_surrogates(text):
    clean = encodable(text)
    clean.encode("utf-8")
    assert len(clean) == len(text)
    assert all(a == b or "\ud800" <= a <= "\udfff" for a, b in zip(text, clean, strict=True))
