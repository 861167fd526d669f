"""A prompt that would be too long: the longest responses are shortened, evenly, in their middle, and visibly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_setpo.signals.judge.budget import MIN_LEVEL, TokenizerCount, cut_middle, estimate_tokens, fit, water_level


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12), st.integers(0, 5000))
def test_the_water_level_is_the_highest_that_fits(sizes, budget):
    level = water_level(sizes, budget)
    assert sum(min(size, level) for size in sizes) <= budget
    assert level == max(sizes) or sum(min(size, level + 1) for size in sizes) > budget


@given(st.lists(st.text(max_size=2000), min_size=1, max_size=5), st.integers(5 * MIN_LEVEL, 1500))
def test_what_is_shortened_fits_and_what_fits_is_not_shortened(texts, budget):
    shown, cut = fit(texts, budget, estimate_tokens)
    assert sum(map(estimate_tokens, shown)) <= budget
    for text, short, was_cut in zip(texts, shown, cut, strict=True):
        assert (short != text) == was_cut
    if sum(map(estimate_tokens, texts)) <= budget:
        assert shown == texts


def test_long_ones_come_down_to_one_level_and_short_ones_stay():
    texts = ["ab " * 2000, "cd " * 1000, "ef " * 10]
    shown, cut = fit(texts, 1000, estimate_tokens)
    assert cut == [True, True, False]
    assert shown[2] == texts[2]
    costs = [estimate_tokens(text) for text in shown[:2]]
    assert max(costs) - min(costs) < 0.05 * max(costs)
    assert 900 < sum(map(estimate_tokens, shown)) <= 1000


def test_a_response_that_repeats_itself_pays_for_itself():
    honest = ["First factor the quadratic, then read off the roots. " * 4 for _ in range(7)]
    shown, cut = fit([*honest, "wait, " * 4000], 2000, estimate_tokens)
    assert cut == [False] * 7 + [True]
    assert shown[:7] == honest


def test_both_ends_stay_and_the_note_says_how_much_went():
    text = "".join(f"step {i}; " for i in range(1000))
    short = cut_middle(text, estimate_tokens(text), 200, estimate_tokens)
    head, _, rest = short.partition(" [... ")
    removed, _, tail = rest.partition(" characters removed ...] ")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert abs(len(head) - len(tail)) <= 1
    assert int(removed) + len(head) + len(tail) == len(text)
    assert estimate_tokens(short) <= 200


def test_uneven_text_still_fits():
    text = "word " * 5000 + "∑∏√≤≥" * 2000
    assert estimate_tokens(cut_middle(text, estimate_tokens(text), 300, estimate_tokens)) <= 300


def test_too_small_a_budget_is_an_error_and_not_a_stump():
    with pytest.raises(ValueError, match="leaves 100 tokens for 4 responses"):
        fit(["abc " * 1000] * 4, 100, estimate_tokens)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("the quadratic formula gives two roots", 6),
        ("\\frac{1}{2}x^2", 10),
        ("1234567", 7),
        ("因此", 2),
        ("x=3\n\n\n", 3),
        ("", 0),
    ],
)
def test_the_estimate_is_not_too_low(text, least):
    assert estimate_tokens(text) >= least


def test_an_unknown_tokenizer_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=rf"^tokenizer={tmp_path} cannot be loaded \("):
        TokenizerCount(str(tmp_path))
