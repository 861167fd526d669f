"""Mean scores, problems solved, solutions found, and clusters brought to one number of samples."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_setpo.evaluation import (
    clusters_at_size,
    distinct_at_size,
    distinct_correct,
    mean_at_n,
    pass_at_k,
    solution_coverage,
    solved,
)
from verl_setpo.tasks.countdown_solutions import solutions


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), max_size=5))
@settings(deadline=None)
def test_mean_at_n_of_flags_is_pass_at_1_and_solved_is_pass_at_n(correct: list[list[bool]]) -> None:
    n, c = [len(flags) for flags in correct], [sum(flags) for flags in correct]
    np.testing.assert_allclose(mean_at_n(correct), pass_at_k(n, c, 1), atol=1e-15)
    np.testing.assert_array_equal(solved(c), [pass_at_k(*counts, k=counts[0]) for counts in zip(n, c, strict=True)])


def test_mean_at_n_takes_partial_scores() -> None:
    np.testing.assert_allclose(mean_at_n([[0.1, 1.0, 0.1], [-1, 1], np.array([2.5], dtype=np.float16)]), [0.4, 0, 2.5])


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ([[1.0], []], ValueError, "problem 1 must have a list of one or more"),
        ([1.0], ValueError, "problem 0 must have a list"),
        ([[1.0, float("nan")]], ValueError, "problem 0 has a score that is not finite"),
        ([["1"]], TypeError, "numbers"),
        ([[None]], TypeError, "numbers"),
        ([[1j]], TypeError, "real numbers"),
    ],
)
def test_a_score_that_is_none_is_an_error(scores: list, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mean_at_n(scores)


def test_solved_asks_for_counts() -> None:
    np.testing.assert_array_equal(solved([0, 1, 64]), [0.0, 1.0, 1.0])
    assert solved([]).shape == (0,)
    with pytest.raises(TypeError, match="integers"):
        solved([0.5])
    with pytest.raises(ValueError, match="negative"):
        solved([-1])


def test_all_solutions_of_a_countdown_problem_are_a_coverage_of_1() -> None:
    every = solutions((1, 2, 3, 4), 10)
    assert len(every) > 3
    found = [distinct_correct([*every, *every], [True] * (2 * len(every))), distinct_correct(every[:3], [True] * 3), 0]
    np.testing.assert_allclose(solution_coverage(found, [len(every)] * 3), [1, 3 / len(every), 0])


def test_coverage_in_fewer_samples_is_that_of_the_expected_number() -> None:
    # Two solutions of four, given 6 and 2 times of 8: in 2 samples the second is met in 1 - C(6, 2) / C(8, 2) of them.
    expected = distinct_at_size([8], [[6, 2]], 2).expected
    pairs = comb(8, 2)
    assert solution_coverage(expected, [4])[0] == pytest.approx((27 / pairs + 13 / pairs) / 4)


@pytest.mark.parametrize(
    ("distinct", "num_solutions", "error", "message"),
    [
        ([3], [2], ValueError, "problem 0 has 3 distinct correct answers of 2 solutions"),
        ([0, 0], [1, 0], ValueError, "problem 1 has 0 solutions"),
        ([0], [-2], ValueError, "problem 0 has -2 solutions"),
        ([float("nan")], [1], ValueError, "problem 0 has nan"),
        ([-1], [1], ValueError, "problem 0 has -1"),
        ([1], [1, 1], ValueError, "shape"),
        ([1], [1.0], TypeError, "integers"),
    ],
)
def test_more_found_than_there_is_is_an_error(
    distinct: list, num_solutions: list, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        solution_coverage(distinct, num_solutions)


SAMPLES = st.lists(st.tuples(st.sampled_from([-1, 0, 1, 7, 2**40]), st.booleans()), min_size=1, max_size=8)


@given(SAMPLES, st.data())
@settings(max_examples=100, deadline=None)
def test_clusters_at_size_is_the_mean_over_all_subsets(samples: list[tuple[int, bool]], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(samples)))
    subsets = combinations(samples, size)
    distinct = np.array([len({c for c, correct in subset if correct and c != -1}) for subset in subsets])
    found = clusters_at_size([[c for c, _ in samples]], [[correct for _, correct in samples]], size)
    assert found.expected[0] == pytest.approx(distinct.mean())
    assert found.one_or_more[0] == pytest.approx((distinct >= 1).mean(), abs=1e-12)
    assert found.two_or_more[0] == pytest.approx((distinct >= 2).mean(), abs=1e-12)


def test_the_degenerate_id_is_the_callers_and_problems_may_be_ragged() -> None:
    clusters = [[1, 2, 100, 1], [100, 100, 3, 3, 3], []]
    everything = [[True] * len(ids) for ids in clusters]
    np.testing.assert_array_equal(clusters_at_size(clusters[:1], everything[:1], 4, degenerate=100).expected, [2])
    np.testing.assert_allclose(clusters_at_size(clusters[:2], everything[:2], 4, degenerate=100).expected, [2, 1])
    with pytest.raises(ValueError, match="at least 1 samples"):
        clusters_at_size(clusters, everything, 1)


def test_clusters_that_are_no_ids_are_errors() -> None:
    with pytest.raises(TypeError, match="clusters of problem 1 must be a list of integers"):
        clusters_at_size([[1], [1.5]], [[True], [True]], 1)
    with pytest.raises(TypeError, match="list of integers"):
        clusters_at_size([["a"]], [[True]], 1)
    with pytest.raises(ValueError, match="problem 0 has 2 clusters but 1 correct"):
        clusters_at_size([[1, 2]], [[True]], 1)
