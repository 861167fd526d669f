"""A schedule's values by hand, and the weight that finds itself against the definition of its running means."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from verl_setpo.trainer.schedule import DECAY, AutoCoef, Schedule


def schedule(kind, **keys):
    return Schedule(schedule=kind, **keys)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", {1: 5.0, 2: 4.75, 3: 4.5, 11: 2.5, 20: 0.25, 21: 0.0, 22: 0.0, 1000: 0.0}),
        # Of its 20 steps, 5 are cos(pi/4) down, 10 are half way, 15 the mirror image of 5.
        (
            "cosine",
            {1: 5.0, 6: 2.5 + 2.5 * math.sqrt(0.5), 11: 2.5, 16: 2.5 - 2.5 * math.sqrt(0.5), 21: 0.0, 1000: 0.0},
        ),
    ],
)
def test_a_schedule_goes_from_start_in_step_1_to_end_in_step_steps_and_stays(kind, expected):
    falling = schedule(kind, start=5, end=0, steps=21)
    assert {step: falling.at(step) for step in expected} == pytest.approx(expected, abs=1e-12)
    rising = schedule(kind, start=0, end=5, steps=21)
    assert {step: 5 - rising.at(step) for step in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_ends_are_hit_exactly(kind):
    odd = schedule(kind, start=0.7, end=0.1, steps=7)
    assert (odd.at(1), odd.at(7), odd.at(8)) == (0.7, 0.1, 0.1)


def test_a_constant_is_its_start():
    assert {schedule("constant", start=0.3).at(step) for step in (1, 2, 10**6)} == {0.3}


finite = st.floats(0, 1e6)


@given(st.sampled_from(["linear", "cosine"]), finite, finite, st.integers(2, 10**6), st.lists(st.integers(1, 10**7)))
def test_a_schedule_never_turns_back_and_never_leaves_its_ends(kind, start, end, steps, at):
    values = [schedule(kind, start=start, end=end, steps=steps).at(step) for step in sorted(at)]
    assert all(min(start, end) <= value <= max(start, end) for value in values)
    slack = 1e-12 * max(start, end)
    direction = math.copysign(1, end - start)
    assert all((b - a) * direction >= -slack for a, b in pairwise(values))


@pytest.mark.parametrize(
    "keys",
    [
        {"schedule": "linear", "start": 1},
        {"schedule": "linear", "start": 1, "end": 0},
        {"schedule": "cosine", "start": 1, "steps": 9},
        {"schedule": "constant", "start": 1, "end": 0},
        {"schedule": "linear", "start": 1, "end": 0, "steps": 1},
        {"schedule": "linear", "end": 0, "steps": 9},
        {"schedule": "linear", "start": math.nan, "end": 0, "steps": 9},
        {"schedule": "linear", "start": 1, "end": math.inf, "steps": 9},
        {"schedule": "linear", "start": 1, "end": 0, "steps": 9, "warmup": 3},
        {"start": 1, "end": 0, "steps": 9},
    ],
)
def test_what_is_no_schedule_is_refused(keys):
    with pytest.raises(ValidationError):
        Schedule(**keys)


def test_the_first_batch_alone_decides_the_first_coef():
    """Odds of 1 to 3, and a rest twice the credit: coef 2/3 makes the parts 2/3 and 2."""
    assert AutoCoef(target_share=0.25, max_coef=100).update(credit=1.0, rest=2.0) == pytest.approx(2 / 3, rel=1e-12)


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=60))
def test_coef_is_of_the_exponential_means_of_all_batches_the_current_one_included(batches):
    auto = AutoCoef(target_share=0.5, max_coef=1e12)
    for credit, rest in batches:
        coef = auto.update(credit, rest)
    weights = [DECAY ** (len(batches) - 1 - i) for i in range(len(batches))]
    credit, rest = (sum(w * b[k] for w, b in zip(weights, batches, strict=True)) / sum(weights) for k in (0, 1))
    assert auto.means.credit == pytest.approx(credit, rel=1e-9)
    assert auto.means.rest == pytest.approx(rest, rel=1e-9)
    assert coef == pytest.approx(rest / credit, rel=1e-9)


@pytest.mark.parametrize(
    ("credit", "rest", "factor"), [(10.0, 1.0, 1 / 1.45), (0.0, 1.0, 1 / 0.95), (1.0, 10.0, 1.45), (1.0, 0.0, 0.95)]
)
def test_one_odd_batch_moves_coef_little(credit, rest, factor):
    """Of 500 batches, one with ten times the size has a weight of 1/20."""
    auto = AutoCoef(target_share=0.5, max_coef=100)
    for _ in range(500):
        before = auto.update(1.0, 1.0)
    assert before == pytest.approx(1.0)
    assert auto.update(credit, rest) == pytest.approx(factor, rel=1e-6)


@given(
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.floats(1e-6, 1e6),
    st.lists(st.tuples(st.floats(min_value=0), st.floats(min_value=0))),
)
def test_no_stream_of_batches_whatever_makes_coef_anything_but_a_number_within_bounds(share, max_coef, batches):
    """Infinite ones, denormal ones, those near the largest float, of credits and rests alike."""
    auto = AutoCoef(share, max_coef)
    for credit, rest in [(math.nan, math.nan), *batches]:
        assert 0 <= auto.update(credit, rest) <= max_coef


def test_without_any_diversity_coef_is_0():
    auto = AutoCoef(target_share=0.3, max_coef=100)
    assert auto.coef == 0
    assert [auto.update(0.0, 1.0) for _ in range(3)] == [0, 0, 0]


def test_a_collapse_leads_coef_to_its_bound_and_not_beyond():
    auto = AutoCoef(target_share=0.3, max_coef=7)
    auto.update(1.0, 1.0)
    assert [auto.update(0.0, 1.0) for _ in range(3000)][-1] == 7


@pytest.mark.parametrize("odd", [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, math.inf)])
def test_a_batch_that_is_not_finite_leaves_the_means_alone(odd):
    auto = AutoCoef(target_share=0.3, max_coef=100)
    before = auto.update(1.0, 2.0), auto.means
    assert (auto.update(*odd), auto.means) == before


def test_the_state_survives_json_to_the_last_bit():
    one, other = AutoCoef(0.3, 100), AutoCoef(0.3, 100)
    for k in range(7):
        one.update(0.1 + k / 7, 1 / (k + 3))
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other.update(0.3, 0.7) == one.update(0.3, 0.7)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"credit": 1.0, "rest": 1.0},
        {"credit": 1.0, "rest": 1.0, "weight": 0.5, "more": 1},
        {"credit": -1.0, "rest": 1.0, "weight": 0.5},
        {"credit": math.nan, "rest": 1.0, "weight": 0.5},
        {"credit": 1.0, "rest": math.inf, "weight": 0.5},
        {"credit": 1.0, "rest": 1.0, "weight": 1.5},
        {"credit": 1.0, "rest": 1.0, "weight": math.nan},
        {"credit": "one", "rest": 1.0, "weight": 0.5},
        [1.0, 1.0, 0.5],
        None,
    ],
)
def test_a_state_that_is_none_is_refused_and_changes_nothing(state):
    auto = AutoCoef(0.3, 100)
    auto.update(1.0, 2.0)
    before = auto.means
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        auto.load_state_dict(state)
    assert auto.means == before
