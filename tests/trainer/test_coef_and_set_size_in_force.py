"""Schedules and `coef=auto` on the real trainers: what is in force is what a fixed value would do, and is a metric."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from tests.trainer.batches import assert_same_bits, compute_with, random_rows, set_rl_metrics
from tests.trainer.conftest import Row, compute, make_trainer

LOO = ("+set_rl=set_loo", "algorithm.set_rl.signal.name=test_line")
DIV = ("+set_rl=grpo_div",)
EIGHT = "actor_rollout_ref.rollout.n=8"
POLY = ("+set_rl=poly_epo", EIGHT)
PASS = ("+set_rl=pass_at_n", EIGHT)
AUTO = ("algorithm.set_rl.coef=auto", "algorithm.set_rl.target_share=0.3")
ANSWERS = ("7", "8", "9", "")


def stream(seed: int) -> list[Row]:
    """A batch of the same distribution for each seed: answers for both signals, and rewards between 0 and 1."""
    return random_rows(seed, sizes=(8, 6, 5, 4), preds=("0", "1", "1/2", "1/4", "1/16"))


def at_step(trainer, step: int, rows: list[Row]):
    trainer.global_steps = step
    return compute(trainer, rows)


def linear(key: str, start: float, end: float, steps: int) -> str:
    return f"algorithm.set_rl.{key}={{schedule:linear,start:{start},end:{end},steps:{steps}}}"


@pytest.mark.parametrize("group", [LOO, DIV])
@pytest.mark.parametrize(("step", "coef"), [(1, 4), (2, 3), (5, 0), (9, 0)])
def test_a_coef_on_schedule_is_bit_for_bit_the_fixed_coef_of_its_step(queue, group, step, coef):
    rows = stream(1)
    fixed = at_step(make_trainer(*group, f"algorithm.set_rl.coef={coef}"), step, rows)
    scheduled = at_step(make_trainer(*group, linear("coef", 4, 0, 5)), step, rows)
    assert_same_bits(fixed.advantages, scheduled.advantages)
    assert set_rl_metrics(scheduled) == set_rl_metrics(fixed)
    assert scheduled.metrics["set_rl/coef"] == coef


def test_a_schedule_of_set_loo_that_reaches_0_is_the_base_method_bit_for_bit(queue):
    rows = stream(2)
    base = compute(make_trainer("algorithm.adv_estimator=grpo"), rows, pad_to=8)
    trainer = make_trainer(*LOO, "algorithm.set_rl.coef={schedule:cosine,start:2,end:0,steps:3}")
    before = compute(trainer, rows, pad_to=8)
    trainer.global_steps = 3
    after = compute(trainer, rows, pad_to=8)
    assert_same_bits(base.advantages, after.advantages)
    assert any(not torch.equal(a, b) for a, b in zip(base.advantages, before.advantages, strict=True))


@pytest.mark.parametrize("group", [POLY, PASS])
@pytest.mark.parametrize(("step", "set_size"), [(1, 5), (2, 5), (3, 4), (6, 3), (8, 3), (9, 2), (10, 2), (99, 2)])
def test_a_set_size_on_schedule_is_the_fixed_one_nearest_to_it(queue, group, step, set_size):
    """A third less in each step: 5, 4 2/3, 4 1/3, ... One prompt is too small for the larger sets."""
    rows = random_rows(3, sizes=(8, 6, 5, 4), preds=ANSWERS)
    fixed = at_step(make_trainer(*group, f"algorithm.set_rl.set_size={set_size}"), step, rows)
    scheduled = at_step(make_trainer(*group, linear("set_size", 5, 2, 10)), step, rows)
    assert_same_bits(fixed.advantages, scheduled.advantages)
    assert set_rl_metrics(scheduled) == set_rl_metrics(fixed)
    assert scheduled.metrics["set_rl/set_size"] == set_size
    assert scheduled.metrics["set_rl/groups_too_small"] == {5: 2, 4: 1}.get(set_size, 0)


def test_set_rl_becomes_grpo_without_the_std_as_the_set_size_goes_to_1(queue):
    rows = random_rows(4, sizes=(8, 5), preds=ANSWERS)
    grpo = make_trainer("algorithm.adv_estimator=grpo", "algorithm.norm_adv_by_std_in_grpo=False")
    ours = at_step(make_trainer(*PASS, linear("set_size", 4, 1, 30)), 30, rows)
    for expected, got in zip(compute(grpo, rows).advantages, ours.advantages, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_drawn_sets_follow_the_set_size_in_force(queue):
    """18 sets of three are drawn of the 20 among six rollouts; all of the 15 of four and the 6 of five."""
    rows = random_rows(5, sizes=(8, 6), preds=ANSWERS)
    draw = "algorithm.set_rl.num_sets=18"
    scheduled = make_trainer(*POLY, draw, linear("set_size", 5, 3, 9))
    for step, set_size, drawn in ((1, 5, False), (5, 4, False), (9, 3, True)):
        result = at_step(scheduled, step, rows)
        fixed = at_step(make_trainer(*POLY, draw, f"algorithm.set_rl.set_size={set_size}"), step, rows)
        every_set = at_step(make_trainer(*POLY, f"algorithm.set_rl.set_size={set_size}"), step, rows)
        assert_same_bits(fixed.advantages, result.advantages)
        assert (result.group("uid_1_x") != every_set.group("uid_1_x")) == drawn


@pytest.mark.parametrize(("group", "name"), [(LOO, "coef"), (DIV, "coef"), (POLY, "set_size"), (PASS, "set_size")])
def test_only_what_the_method_reads_is_a_metric(queue, group, name):
    metrics = compute(make_trainer(*group), stream(6)).metrics
    assert {key for key in metrics if key.startswith(("set_rl/coef", "set_rl/set_size"))} == {f"set_rl/{name}"}


@pytest.mark.parametrize("group", [LOO, DIV])
@pytest.mark.parametrize("base", ["grpo", "rloo"])
def test_auto_gives_the_first_batch_exactly_the_target_share(queue, group, base):
    metrics = compute(make_trainer(*group, *AUTO, f"algorithm.set_rl.base_estimator={base}"), stream(7)).metrics
    assert metrics["set_rl/credit_share"] == pytest.approx(0.3, abs=1e-5)
    means = metrics["set_rl/coef_auto/credit"], metrics["set_rl/coef_auto/rest"]
    assert metrics["set_rl/coef"] == pytest.approx(3 / 7 * means[1] / means[0], rel=1e-9)


@pytest.mark.parametrize("group", [LOO, DIV])
def test_auto_is_bit_for_bit_the_fixed_coef_that_it_logs(queue, group):
    auto = compute(make_trainer(*group, *AUTO), stream(8))
    fixed = compute(make_trainer(*group, f"algorithm.set_rl.coef={auto.metrics['set_rl/coef']!r}"), stream(8))
    assert_same_bits(fixed.advantages, auto.advantages)


@pytest.mark.parametrize("group", [LOO, DIV])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_auto_holds_the_target_share_on_a_stationary_stream(queue, group, share):
    """The batches differ, and so do their own shares; over many the target is what comes out."""
    trainer = make_trainer(*group, "algorithm.set_rl.coef=auto", f"algorithm.set_rl.target_share={share}")
    steps = [at_step(trainer, step, stream(step)).metrics for step in range(1, 31)]
    shares = [metrics["set_rl/credit_share"] for metrics in steps[5:]]
    assert max(shares) - min(shares) > 0.01
    assert sum(shares) / len(shares) == pytest.approx(share, abs=0.03)
    coefs = [metrics["set_rl/coef"] for metrics in steps[5:]]
    assert max(abs(b / a - 1) for a, b in pairwise(coefs)) < 0.1


@pytest.mark.parametrize("group", [LOO, DIV])
def test_auto_without_any_diversity_is_coef_0_and_no_nan(queue, group):
    rows = [Row(f"p{p}", s, reward=float(s % 2), pred="1") for p in range(3) for s in range(4)]
    plain = make_trainer(*group, "algorithm.set_rl.coef=0")
    ours = compute(make_trainer(*group, *AUTO), rows)
    assert_same_bits(compute(plain, rows).advantages, ours.advantages)
    assert ours.metrics["set_rl/coef"] == 0
    assert all(value == value for value in set_rl_metrics(ours).values())


def test_auto_under_collapse_stops_at_max_coef(queue):
    """Answers that differ as little as can be, for which the share would take a coef in the thousands."""
    trainer = make_trainer(*LOO, *AUTO, "algorithm.set_rl.max_coef=6")
    slight = [Row("p", s, reward=float(s % 2), pred="1" if s else "9999/10000") for s in range(4)]
    result = compute(trainer, slight)
    assert result.metrics["set_rl/coef"] == 6
    assert all(torch.isfinite(advantage).all() for advantage in result.advantages)


def test_a_batch_without_a_usable_prompt_leaves_the_means_alone(queue):
    trainer = make_trainer(*LOO, *AUTO)
    before = compute(trainer, stream(9)).metrics
    after = compute(trainer, [Row("small", s, reward=float(s), pred=f"{s}/2") for s in range(2)]).metrics
    names = [f"set_rl/{name}" for name in ("coef", "coef_auto/credit", "coef_auto/rest")]
    assert before["set_rl/coef"] > 0
    assert [after[name] for name in names] == [before[name] for name in names]


@pytest.mark.parametrize("group", [LOO, DIV])
def test_prompts_without_a_signal_have_no_say_in_auto(queue, group):
    """The one that fails has rewards, and so a base advantage, of another mean size than the others."""
    rows, odd = stream(10), [Row("odd", s, reward=float(s == 0), pred=f"{s}/8") for s in range(8)]
    signal = "test_failing_line" if group == LOO else "test_failing_answers"
    failing = (f"algorithm.set_rl.signal.name={signal}", "+algorithm.set_rl.signal.failing=odd")
    without = compute(make_trainer(*group, *AUTO, "algorithm.norm_adv_by_std_in_grpo=False"), rows).metrics
    ours = compute(make_trainer(*group, *failing, *AUTO, "algorithm.norm_adv_by_std_in_grpo=False"), rows + odd).metrics
    assert ours["set_rl/signal_failed_groups"] == 1
    assert ours["set_rl/coef"] == pytest.approx(without["set_rl/coef"], rel=1e-6)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), 1e38])
def test_an_odd_reward_does_not_spoil_auto(queue, reward):
    trainer = make_trainer(*LOO, *AUTO)
    compute(trainer, stream(11))
    odd = [Row("odd", s, reward=reward if s == 0 else 0.5, pred=f"{s}/8") for s in range(4)]
    for rows in (stream(12) + odd, stream(13)):
        result = compute(trainer, rows)
        assert 0 < result.metrics["set_rl/coef"] <= 100
        assert all(torch.isfinite(advantage).all() for advantage in result.advantages)


@pytest.mark.parametrize("group", [LOO, DIV])
def test_rollouts_that_are_not_trained_on_have_no_say_in_the_share(queue, group):
    """As when rollout correction rejects a whole response: here those of one token."""
    trained = [Row("p", s, reward=float(s % 2), pred=f"{s}/8") for s in range(6)]
    rejected = [Row("p", s, reward=1.0, pred="1", text="a", eos=False) for s in (6, 7)]
    rows = trained + rejected
    masks = {"response_mask": lambda length: torch.full((length,), int(length > 1))}
    result = compute_with(make_trainer(*group, *AUTO), rows, masks)
    base = compute_with(make_trainer(*group, "algorithm.set_rl.coef=0"), rows, masks)
    assert not any(advantage.any() for advantage in result.advantages[6:])
    whole, rest = ([r.advantages[k][0].item() for k in range(6)] for r in (result, base))
    size = sum(abs(a - b) for a, b in zip(whole, rest, strict=True))
    assert size / (size + sum(map(abs, rest))) == pytest.approx(0.3, abs=1e-5)
    assert result.metrics["set_rl/credit_share"] == pytest.approx(0.3, abs=1e-5)
