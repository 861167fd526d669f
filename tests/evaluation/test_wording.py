"""Self-BLEU and distinct-n against their definitions, and against what sacrebleu 2.6.0 gives."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_setpo.evaluation import distinct_n, self_bleu

GROUPS = st.lists(st.lists(st.integers(0, 3), max_size=8), max_size=6)


@given(GROUPS, st.integers(1, 4))
@settings(deadline=None)
def test_distinct_n_is_the_share_of_different_n_grams(group: list[list[int]], n: int) -> None:
    grams = [tuple(tokens[i : i + n]) for tokens in group for i in range(len(tokens) - n + 1)]
    found = distinct_n(group, n)
    assert found == len(set(grams)) / len(grams) if grams else math.isnan(found)


def test_distinct_n_of_words() -> None:
    group = [["a", "b", "a", "b"], ["a", "b"]]
    assert distinct_n(group, 1) == 2 / 6
    assert distinct_n(group, 2) == 2 / 4
    assert math.isnan(distinct_n(group, 5))


def bleu(tokens: list[int], references: list[list[int]], max_order: int) -> float:
    """Of one sentence, step by step as the docstring of `self_bleu` says."""
    if not tokens:
        return float([] in references)
    precisions, without_match = [], 0
    for order in range(1, min(max_order, len(tokens)) + 1):
        counts, *others = (
            Counter(tuple(t[i : i + order]) for i in range(len(t) - order + 1)) for t in [tokens, *references]
        )
        matched = sum(min(count, max(other[gram] for other in others)) for gram, count in counts.items())
        without_match += matched == 0
        precisions.append(matched / counts.total() if matched else 1 / (2**without_match * counts.total()))
        if order == 1 and not matched:
            return 0.0
    nearest = min(sorted(len(reference) for reference in references), key=lambda length: abs(length - len(tokens)))
    brevity = 1.0 if len(tokens) >= nearest else math.exp(1 - nearest / len(tokens))
    return brevity * math.prod(precisions) ** (1 / len(precisions))


@given(GROUPS, st.integers(1, 5))
@settings(deadline=None)
def test_self_bleu_is_the_mean_bleu_against_all_others(group: list[list[int]], max_order: int) -> None:
    found = self_bleu(group, max_order)
    if len(group) < 2:
        assert math.isnan(found)
        return
    scores = [bleu(tokens, group[:i] + group[i + 1 :], max_order) for i, tokens in enumerate(group)]
    assert found == pytest.approx(np.mean(scores), abs=1e-12)


@pytest.mark.parametrize(
    ("texts", "max_order", "sacrebleus"),
    [
        # BLEU(tokenize="none", effective_order=True, smooth_method="exp"), its mean over the responses / 100.
        (["the cat sat on the mat", "the cat is on the mat", "a dog ran over the mat today"], 2, 0.544143817536),
        (["the cat sat on the mat", "the cat is on the mat", "a dog ran over the mat today"], 4, 0.297060393458),
        (["x = 3 so y = 9", "y = 9 as x = 3", "x = 3", "no"], 2, 0.627964473009),
        (["x = 3 so y = 9", "y = 9 as x = 3", "x = 3", "no"], 4, 0.455566808450),
        (["d a c d d c d", "b b c b a c", "b c a a c d a c d", "b d d c a a", "d a", "c b c a b"], 4, 0.414327049043),
    ],
)
def test_self_bleu_is_sacrebleus(texts: list[str], max_order: int, sacrebleus: float) -> None:
    group = [text.split() for text in texts]
    assert self_bleu(group, max_order) == pytest.approx(sacrebleus, abs=1e-11)


@given(st.lists(st.integers(0, 3), max_size=6), st.integers(2, 5))
@settings(deadline=None)
def test_equal_responses_score_1_and_those_without_a_common_word_0(tokens: list[int], count: int) -> None:
    assert self_bleu([tokens] * count) == pytest.approx(1.0)
    assert self_bleu([[i] * 5 for i in range(count)]) == 0.0


def test_a_response_is_compared_with_the_others_and_not_with_itself() -> None:
    # The word twice in the first is once in the second: one of its two counts.
    assert self_bleu([["a", "a"], ["a", "b"]], max_order=1) == pytest.approx(0.5)
    assert self_bleu([["a", "a"], ["a", "b"], ["b", "a", "a"]], max_order=1) > 0.5


def test_arrays_and_tensors_are_token_ids() -> None:
    group = [[1, 2, 3], [1, 2, 4], [5, 2, 3]]
    for kind in (np.array, torch.tensor):
        assert self_bleu([kind(tokens) for tokens in group]) == self_bleu(group) > 0
        assert distinct_n([kind(tokens) for tokens in group], 1) == 5 / 9


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        (["a text"], "response 0 is one text: cut it into words"),
        ([["a"], b"a text"], "response 1 is one text"),
        ("a text", "not one text"),
        ([[1.5]], "not of float"),
        ([[None]], "not of NoneType"),
        ([[[1]]], "not of list"),
        ([[torch.tensor(1)]], "not of Tensor"),
    ],
)
def test_what_is_not_cut_into_tokens_is_an_error(responses: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        self_bleu(responses)
    with pytest.raises(TypeError, match=message):
        distinct_n(responses, 1)


def test_orders_below_1_are_errors() -> None:
    with pytest.raises(ValueError, match="n must be at least 1"):
        distinct_n([[1]], 0)
    with pytest.raises(ValueError, match="max_order must be at least 1"):
        self_bleu([[1], [1]], 0)
