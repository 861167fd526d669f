"""Against full enumeration of all subsets of k samples, in exact fractions (Chen et al., arXiv 2107.03374, Eq. 1)."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_setpo.evaluation import pass_at_k


@st.composite
def counts(draw: st.DrawFn, max_n: int) -> tuple[int, int, int]:
    n = draw(st.integers(1, max_n))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


@given(counts(max_n=9))
@settings(deadline=None)
def test_equals_the_share_of_subsets_with_a_correct_sample(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    share = Fraction(sum(any(subset) for subset in subsets), len(subsets))
    assert pass_at_k(n, c, k) == pytest.approx(float(share), abs=1e-14)


@given(counts(max_n=2000))
@settings(deadline=None)
def test_equals_exact_binomials_up_to_large_n(case: tuple[int, int, int]) -> None:
    n, c, k = case
    exact = float(1 - Fraction(comb(n - c, k), comb(n, k)))
    assert pass_at_k(n, c, k) == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_1024_samples_and_k_512_for_every_number_of_correct_ones() -> None:
    c = np.arange(1025)
    with np.errstate(all="raise", under="ignore"):
        solved = pass_at_k(1024, c, 512)
    assert solved[0] == 0.0
    assert solved[1] == pytest.approx(0.5, abs=1e-12)
    assert (solved[513:] == 1.0).all()  # fewer than 512 wrong samples
    assert (np.diff(solved) >= 0).all()


def test_is_vectorised_over_problems_with_their_own_number_of_samples() -> None:
    solved = pass_at_k([4, 8, 2], [1, 0, 2], 2)
    np.testing.assert_allclose(solved, [0.5, 0.0, 1.0])
    assert pass_at_k([], [], 4).shape == (0,)


@given(counts(max_n=50))
@settings(deadline=None)
def test_pass_at_1_is_the_mean_and_pass_at_n_is_any(case: tuple[int, int, int]) -> None:
    n, c, _ = case
    assert pass_at_k(n, c, 1) == pytest.approx(c / n)
    assert pass_at_k(n, c, n) == float(c > 0)


@pytest.mark.parametrize(
    ("n", "c", "k", "error", "message"),
    [
        (4, 1, 0, ValueError, "k must be at least 1"),
        (4, 1, -1, ValueError, "k must be at least 1"),
        (4, 1, 5, ValueError, "at least 5 samples"),
        ([8, 4], [1, 1], 5, ValueError, "one has 4"),
        (4, 5, 1, ValueError, "larger than num_samples"),
        (4, -1, 1, ValueError, "negative"),
        (4.0, 1, 1, TypeError, "integers"),
        (4, 0.5, 1, TypeError, "integers"),
        (4, 1, 1.5, TypeError, "integer"),
    ],
)
def test_impossible_counts_are_errors(n: object, c: object, k: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pass_at_k(n, c, k)
