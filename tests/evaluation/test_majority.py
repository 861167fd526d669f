"""The majority vote against all subsets in exact fractions, against exact binomials, and against drawn subsets."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import comb
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_setpo.evaluation import majority_at_k

Samples = list[tuple[str, bool]]  # (answer, correct) of each sample


def vote(samples: Samples, k: int) -> tuple[float, float]:
    """Accuracy and vote share of one problem."""
    accuracy_P, share_P = majority_at_k([[a for a, _ in samples]], [[c for _, c in samples]], k)
    return accuracy_P[0], share_P[0]


def by_enumeration(samples: Samples, k: int) -> tuple[Fraction, Fraction]:
    """The same over all subsets of size k, in exact fractions, by the words of the docstring."""
    subsets = list(combinations(samples, k))
    accuracy = share = Fraction(0)
    for subset in subsets:
        votes = Counter(answer for answer, _ in subset if answer)
        if not votes:
            continue
        most = max(votes.values())
        tied = [answer for answer, count in votes.items() if count == most]
        for winner in tied:
            right = sum(correct for answer, correct in subset if answer == winner)
            accuracy += Fraction(right, most * len(tied))
        share += Fraction(most, k)
    return accuracy / len(subsets), share / len(subsets)


SAMPLES = st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "d"]), st.booleans()), min_size=1, max_size=9)


@given(SAMPLES, st.data())
@settings(max_examples=300, deadline=None)
def test_is_the_mean_over_all_subsets(samples: Samples, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(samples)))
    accuracy, share = by_enumeration(samples, k)
    assert vote(samples, k) == pytest.approx((float(accuracy), float(share)), abs=1e-13)


def test_many_answers_and_ties_of_many_are_exact_too() -> None:
    samples = [(str(i // 2), i < 6) for i in range(14)]  # seven answers, twice each, three of them correct
    for k in range(1, 15):
        accuracy, share = by_enumeration(samples, k)
        assert accuracy == Fraction(3, 7)  # by symmetry
        assert vote(samples, k) == pytest.approx((3 / 7, float(share)), abs=1e-13)


def test_the_vote_of_all_samples_is_the_one_count_that_there_is() -> None:
    samples = [("1", True)] * 3 + [("2", False)] * 3 + [("3", False)] * 3 + [("", False)]
    assert vote(samples, 10) == (1 / 3, 3 / 10)
    assert vote([*samples, ("2", False)], 11) == (0, 4 / 11)


def test_a_tie_is_broken_at_random() -> None:
    samples = [("1", True), ("1", True), ("2", False), ("2", False), ("3", False)]
    assert vote(samples, 5) == pytest.approx((1 / 2, 2 / 5))
    assert vote(samples[:1] + samples[2:3] + samples[4:], 3) == pytest.approx((1 / 3, 1 / 3))


def test_who_gives_no_answer_does_not_vote_and_nobody_voting_is_wrong() -> None:
    # Of four samples one votes: it is among two of them in half of the subsets.
    assert vote([("", False), ("", True), ("7", True), ("", False)], 2) == pytest.approx((1 / 2, 1 / 4))
    assert vote([("", True)] * 5, 3) == (0.0, 0.0)
    # A sole vote decides against any number that is not cast.
    assert vote([("7", True)] + [("", False)] * 9, 10) == pytest.approx((1.0, 1 / 10))


def test_no_correct_answer_never_wins_and_agreement_on_a_wrong_one_is_a_full_share() -> None:
    assert vote([("5", False)] * 8, 4) == pytest.approx((0.0, 1.0))
    assert vote([(str(i), False) for i in range(8)], 4) == pytest.approx((0.0, 1 / 4))


def test_a_majority_beats_the_mean_and_a_minority_falls_behind_it() -> None:
    often = [("1", True)] * 40 + [(str(i), False) for i in range(2, 26)]
    seldom = [("1", True)] * 20 + [("2", False)] * 44
    for samples, sign in ((often, 1), (seldom, -1)):
        accuracies = [sign * vote(samples, k)[0] for k in (1, 4, 16, 64)]
        assert accuracies == sorted(accuracies)
        assert abs(accuracies[0]) == pytest.approx(sum(correct for _, correct in samples) / 64)
    assert vote(often, 64)[0] == pytest.approx(1.0)
    assert vote(seldom, 64)[0] == pytest.approx(0.0)


@given(SAMPLES, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_samples_does_not_matter(samples: Samples, random: Random) -> None:
    shuffled = list(samples)
    random.shuffle(shuffled)
    k = (len(samples) + 1) // 2
    assert vote(shuffled, k) == pytest.approx(vote(samples, k), abs=1e-13)


@given(SAMPLES)
@settings(max_examples=50, deadline=None)
def test_one_vote_is_a_sample_and_its_share_is_whether_it_has_an_answer(samples: Samples) -> None:
    accuracy = sum(correct for answer, correct in samples if answer) / len(samples)
    assert vote(samples, 1) == pytest.approx((accuracy, sum(answer != "" for answer, _ in samples) / len(samples)))


@pytest.mark.parametrize("k", [1, 2, 31, 512, 1000, 1024])
def test_1024_samples_equal_exact_binomials(k: int) -> None:
    right, wrong, none = 300, 280, 444
    samples = [("1", True)] * right + [("2", False)] * wrong + [("", False)] * none
    chosen = total_most = 0  # subsets, a tie counted half; in units of one half
    for a in range(min(right, k) + 1):
        for b in range(max(0, k - a - none), min(wrong, k - a) + 1):
            subsets = comb(right, a) * comb(wrong, b) * comb(none, k - a - b)
            chosen += subsets * (2 * (a > b) + (a == b and a > 0))
            total_most += subsets * max(a, b)
    all_subsets = comb(1024, k)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        accuracy, share = vote(samples, k)
    assert accuracy == pytest.approx(float(Fraction(chosen, 2 * all_subsets)), rel=1e-11)
    assert share == pytest.approx(float(Fraction(total_most, k * all_subsets)), rel=1e-11)


def test_1024_samples_with_many_answers_agree_with_drawn_subsets() -> None:
    # 40 + 39 + ... + 1 votes for 40 answers, 100 that are given once, 104 without one; the commonest is wrong.
    answers = [str(i) for i in range(1, 41) for _ in range(i)] + [f"once {i}" for i in range(100)] + [""] * 104
    correct = [answer in ("39", "38", "20", "once 5") for answer in answers]
    k, draws, rng = 256, 4000, np.random.default_rng(0)
    ids = {answer: i for i, answer in enumerate(sorted({*answers} - {""}))}
    number_n = np.array([ids.get(answer, len(ids)) for answer in answers])
    right_A = np.array([answer in ("39", "38", "20", "once 5") for answer in ids])
    outcomes = np.empty((2, draws))
    for draw in range(draws):
        votes_A = np.bincount(number_n[rng.choice(len(answers), k, replace=False)], minlength=len(ids) + 1)[:-1]
        winners = votes_A == votes_A.max()
        outcomes[:, draw] = right_A[winners].mean(), votes_A.max() / k
    exact = vote(list(zip(answers, correct, strict=True)), k)
    error = outcomes.std(axis=1) / draws**0.5
    assert (np.abs(outcomes.mean(axis=1) - exact) < 4 * error).all()
    assert 0.2 < exact[0] < 0.8  # neither is near certain, so the test can fail


def test_problems_may_differ_in_their_number_of_samples() -> None:
    accuracy, share = majority_at_k([["1", "1", "2"], ["3"] * 5, ["", ""]], [[1, 1, 0], [0] * 5, [0, 0]], 2)
    np.testing.assert_allclose(accuracy, [2 / 3, 0, 0])  # (1, 1) of three pairs, and half of the other two
    np.testing.assert_allclose(share, [(1 + 1 / 2 + 1 / 2) / 3, 1, 0])
    assert majority_at_k([], [], 4).accuracy.shape == (0,)


@pytest.mark.parametrize(
    ("answers", "correct", "k", "error", "message"),
    [
        ([["1"]], [[True]], 2, ValueError, "majority@2 needs at least 2 samples a problem; problem 0 has 1"),
        ([["1"]], [[True]], 0, ValueError, "k must be at least 1"),
        ([["1"]], [[True]], 1.5, TypeError, "integer"),
        ([["1", "2"]], [[True]], 1, ValueError, "problem 0 has 2 answers but 1 correct"),
        ([["1"]], [[True], [True]], 1, ValueError, "answers has 1 problems, correct has 2"),
        ([["1"], [1]], [[True], [True]], 1, TypeError, "answers of problem 1 must be text"),
        ([[None]], [[True]], 1, TypeError, "answers of problem 0 must be text"),
        ([["1"]], [["False"]], 1, TypeError, "correct of problem 0 must be true or false"),
        ([["1"]], [[0.5]], 1, TypeError, "threshold"),
        ([["1"]], [[2]], 1, ValueError, "other than 0 and 1"),
        ([["1"]], [[[True]]], 1, ValueError, "one flag a sample"),
    ],
)
def test_what_is_no_vote_is_an_error(
    answers: list, correct: list, k: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        majority_at_k(answers, correct, k)
