"""Distinct correct answers: the papers' counts, and the expected count in fewer samples by full enumeration."""

from itertools import combinations
from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_setpo.evaluation import average_mode, distinct_at_size, distinct_correct, diversity_width


def test_only_correct_and_parsed_answers_count_and_each_once() -> None:
    answers = ["1+2", "2+1", "1+2", "9", "", ""]
    assert distinct_correct(answers, [True, True, True, False, True, False]) == 2
    assert distinct_correct([], []) == 0
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        distinct_correct(["1"], [])


def test_width_and_average_mode_look_at_problems_with_two_or_more() -> None:
    assert diversity_width([0, 1, 2, 5]) == 2
    assert average_mode([0, 1, 2, 5]) == 3.5
    assert diversity_width([]) == 0
    assert isnan(average_mode([0, 1]))


def test_the_full_size_gives_the_plain_counts() -> None:
    at_size = distinct_at_size([8, 8, 8, 8], [[3, 2, 1], [8], [], [1]], 8)
    np.testing.assert_array_equal(at_size.expected, [3, 1, 0, 1])
    np.testing.assert_array_equal(at_size.one_or_more, [1, 1, 0, 1])
    np.testing.assert_array_equal(at_size.two_or_more, [1, 0, 0, 0])


@given(st.lists(st.integers(1, 3), max_size=3), st.integers(0, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_a_smaller_size_is_the_mean_over_all_subsets(counts: list[int], wrong: int, data: st.DataObject) -> None:
    samples = [answer for answer, count in enumerate(counts) for _ in range(count)] + [None] * wrong
    if not samples:
        return
    size = data.draw(st.integers(1, len(samples)))
    distinct = np.array([len(set(subset) - {None}) for subset in combinations(samples, size)])
    at_size = distinct_at_size([len(samples)], [counts], size)
    assert at_size.expected[0] == pytest.approx(distinct.mean())
    assert at_size.one_or_more[0] == pytest.approx((distinct >= 1).mean())
    assert at_size.two_or_more[0] == pytest.approx((distinct >= 2).mean(), abs=1e-12)


def test_a_size_above_the_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 9 samples"):
        distinct_at_size([8], [[1]], 9)
    with pytest.raises(ValueError, match="2 problems"):
        distinct_at_size([8], [[1], [1]], 4)
