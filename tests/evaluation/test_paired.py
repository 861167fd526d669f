"""Two runs on the same problems: the sign test against scipy and enumeration, the interval against the bootstrap's."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from verl_setpo.evaluation import bootstrap_interval, compare_paired, pass_at_k, sign_test


@given(st.integers(0, 400), st.integers(0, 400))
@settings(deadline=None)
def test_the_sign_test_is_scipys(gained: int, lost: int) -> None:
    if gained + lost == 0:
        assert sign_test(0, 0) == 1.0
        return
    assert sign_test(gained, lost) == pytest.approx(binomtest(gained, gained + lost, 0.5).pvalue, rel=1e-9)
    assert sign_test(gained, lost) == sign_test(lost, gained)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (3, 3), (2, 7), (8, 1)])
def test_the_sign_test_is_the_share_of_coins_at_least_as_uneven(gained: int, lost: int) -> None:
    splits = [2 * sum(coins) - gained - lost for coins in product([0, 1], repeat=gained + lost)]
    uneven = Fraction(sum(abs(split) >= abs(gained - lost) for split in splits), len(splits))
    assert sign_test(gained, lost) == pytest.approx(float(uneven), rel=1e-15)


def test_the_sign_test_of_very_many_problems_neither_overflows_nor_vanishes() -> None:
    assert sign_test(10_000, 10_000) == 1.0
    assert sign_test(5_100, 4_900) == pytest.approx(binomtest(5_100, 10_000).pvalue, rel=1e-9)
    assert 0 < sign_test(1000, 0) < 1e-300
    with pytest.raises(ValueError, match="must not be negative"):
        sign_test(-1, 3)


def test_counts_problems_and_gives_the_mean_of_the_differences() -> None:
    compared = compare_paired([0.5, 0.5, 0.5, 0.0], [1.0, 0.75, 0.5, -0.25])
    assert (compared.gained, compared.lost, compared.tied) == (2, 1, 1)
    assert compared.difference == pytest.approx(0.125)
    assert compared.p_value == 1.0
    assert compared.interval == bootstrap_interval([0.5, 0.25, 0.0, -0.25])
    assert compared.interval.low < 0.125 < compared.interval.high


def test_the_interval_is_paired_so_problems_of_all_kinds_do_not_widen_it() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(100)  # easy and hard problems
    second = first + 0.02 + rng.normal(0, 0.01, 100)
    compared = compare_paired(first, second)
    assert 0 < compared.interval.low < compared.difference < compared.interval.high
    assert compared.p_value < 1e-6
    alone = bootstrap_interval(second)
    assert compared.interval.high - compared.interval.low < (alone.high - alone.low) / 10


def test_the_same_figure_of_other_counts_is_a_tie() -> None:
    first, second = pass_at_k(30, 10, 1), pass_at_k(48, 16, 1) + 2e-16
    assert first != second
    assert compare_paired([first], [second]).tied == 1


def test_exchanging_the_runs_turns_the_signs() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random(30), rng.random(30)
    there, back = compare_paired(first, second), compare_paired(second, first)
    assert (there.gained, there.lost, there.p_value) == (back.lost, back.gained, back.p_value)
    assert there.difference == pytest.approx(-back.difference)
    assert compare_paired(first, first) == (0.0, (0.0, 0.0), 0, 0, 30, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0], [1.0, 2.0], "one figure of each run for every problem"),
        ([[1.0]], [[1.0]], "one figure of each run"),
        ([], [], "non-empty"),
        ([1.0, float("nan")], [1.0, 1.0], "finite"),
        ([float("inf")], [float("inf")], "finite"),
    ],
)
def test_runs_that_do_not_pair_are_errors(first: list, second: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_paired(first, second)
