"""Rewards that a set objective cannot multiply: an error in the first step that names the key, later on a count."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from tests.trainer import exact
from tests.trainer.conftest import Row, compute, make_trainer

SET_METHODS = {
    "poly_epo": ("+set_rl=poly_epo", "algorithm.set_rl.set_size=2"),
    "pass_at_n": ("+set_rl=pass_at_n", "algorithm.set_rl.set_size=2"),
    "grpo_div": ("+set_rl=grpo_div",),
}
ENUMERATED = {
    "poly_epo": lambda rewards, clusters: exact.marginal_of_all_sets(rewards, clusters, exact.polychromic, 2),
    "pass_at_n": lambda rewards, clusters: exact.marginal_of_all_sets(rewards, clusters, exact.pass_at_n, 2),
    "grpo_div": lambda rewards, clusters: exact.grpo_div(rewards, clusters, Fraction(1, 10)),
}
each_set_method = pytest.mark.parametrize("method", list(SET_METHODS))


def group(*rewards: float, preds: str = "aabc") -> list[Row]:
    return [Row("p", s, reward=r, pred=pred) for s, (r, pred) in enumerate(zip(rewards, preds, strict=True))]


def assert_enumerated(result, method, unit_rewards):
    expected = ENUMERATED[method]([Fraction(r) for r in unit_rewards], [0, 0, 1, 2])
    assert result.group("p") == pytest.approx([float(a) for a in expected], abs=1e-6)


@each_set_method
def test_plus_and_minus_one_with_the_range_unset_is_an_error_that_names_the_key(queue, method):
    with pytest.raises(
        ValueError, match=r"2 rewards lie outside algorithm\.set_rl\.reward_range=\[0\.0, 1\.0\].* -1: set"
    ):
        compute(make_trainer(*SET_METHODS[method]), group(1.0, -1.0, -1.0, 1.0))


@each_set_method
def test_plus_and_minus_one_with_their_range_are_zero_and_one(queue, method):
    trainer = make_trainer(*SET_METHODS[method], "algorithm.set_rl.reward_range=[-1,1]")
    result = compute(trainer, group(1.0, -1.0, 0.0, 1.0))
    assert_enumerated(result, method, [1, 0, "1/2", 1])
    assert result.metrics["set_rl/rewards_out_of_range"] == 0
    assert result.metrics["set_rl/prompts_with_correct"] == 1


@each_set_method
def test_the_ends_of_a_range_that_float32_cannot_hold_are_inside(queue, method):
    trainer = make_trainer(*SET_METHODS[method], "algorithm.set_rl.reward_range=[-0.1,1.1]")
    assert_enumerated(compute(trainer, group(1.1, -0.1, 0.5, 1.1)), method, [1, 0, "1/2", 1])


@each_set_method
def test_odd_rewards_of_a_later_step_are_clamped_and_counted(queue, caplog, method):
    trainer = make_trainer(*SET_METHODS[method])
    assert compute(trainer, group(1.0, 0.0, 0.5, 1.0)).metrics["set_rl/rewards_out_of_range"] == 0
    result = compute(trainer, group(1.0, -3.0, 0.5, 7.0))
    assert_enumerated(result, method, [1, 0, "1/2", 1])
    assert result.metrics["set_rl/rewards_out_of_range"] == 2
    assert "2 rewards lie outside algorithm.set_rl.reward_range=[0.0, 1.0]" in caplog.text
    assert compute(trainer, group(1.0, 0.0, 0.5, 1.0)).metrics["set_rl/rewards_out_of_range"] == 0


@each_set_method
def test_a_range_that_was_wrong_stays_an_error_when_the_step_is_tried_again(queue, method):
    trainer = make_trainer(*SET_METHODS[method])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"algorithm\.set_rl\.reward_range"):
            compute(trainer, group(5.0, 0.0, 0.0, 1.0))


def test_an_odd_reward_in_a_padding_row_or_an_earlier_output_is_nobodys(queue):
    rows = [*group(1.0, 0.0, 0.5, 1.0), Row("p", 0, 1, reward=0.5, pred="a")]
    rows[0].reward = 9.0  # output 0 of session 0, whose last output is the one above
    result = compute(make_trainer(*SET_METHODS["poly_epo"]), rows, pad_to=8)
    assert_enumerated(result, "poly_epo", ["1/2", 0, "1/2", 1])


def test_set_loo_takes_any_reward_as_its_base_method_does(queue):
    rows = group(1.0, -1.0, 25.0, -0.5)
    plain = compute(make_trainer("algorithm.adv_estimator=grpo"), rows)
    ours = compute(make_trainer("+set_rl=set_loo", "algorithm.set_rl.coef=0"), rows)
    assert ours.group("p") == plain.group("p")
    assert ours.metrics["set_rl/rewards_out_of_range"] == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("method", [*SET_METHODS, "set_loo"])
def test_a_reward_that_is_no_number_is_an_error_in_the_first_step(queue, method, bad):
    trainer = make_trainer(*SET_METHODS.get(method, ("+set_rl=set_loo",)))
    with pytest.raises(ValueError, match=rf"reward.* {bad}"):
        compute(trainer, group(bad, 0.0, 0.5, 1.0))


@each_set_method
def test_a_nan_reward_of_a_later_step_counts_as_the_lowest_reward(queue, method):
    trainer = make_trainer(*SET_METHODS[method])
    compute(trainer, group(1.0, 0.0, 0.5, 1.0))
    result = compute(trainer, group(1.0, math.nan, 0.5, 1.0))
    assert_enumerated(result, method, [1, 0, "1/2", 1])
    assert result.metrics["set_rl/rewards_out_of_range"] == 1


@each_set_method
def test_a_range_without_zero_takes_groups_of_different_sizes(queue, method):
    """The places that a smaller group leaves empty are nobody's reward."""
    rows = [*group(3.0, 1.0, 2.0, 3.0), *(Row("q", s, reward=2.0, pred="a") for s in range(3))]
    trainer = make_trainer(*SET_METHODS[method], "algorithm.set_rl.reward_range=[1,3]")
    result = compute(trainer, rows)
    assert_enumerated(result, method, [1, 0, "1/2", 1])
    assert result.metrics["set_rl/rewards_out_of_range"] == 0
