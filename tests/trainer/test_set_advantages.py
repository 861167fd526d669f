"""Poly-EPO, any set objective and GRPO+DIV on the real trainer, against exact enumeration of the sets in fractions."""

from __future__ import annotations

import random
from fractions import Fraction
from math import exp, log

import numpy as np
import pytest
import torch

from tests.trainer import exact
from tests.trainer.batches import (
    assert_same_bits,
    by_key,
    equality_kernel,
    groups_of,
    line_kernel,
    random_rows,
    rewards_of,
    set_rl_metrics,
)
from tests.trainer.conftest import Row, compute, make_trainer
from verl_setpo.set_rl import sample_sets

PREDS = ["7", "8", "9", ""]  # "" is degenerate
BASE = ("algorithm.adv_estimator=grpo", "algorithm.norm_adv_by_std_in_grpo=False")


def poly_epo(set_size, *overrides):
    return make_trainer(
        "+set_rl=poly_epo", f"algorithm.set_rl.set_size={set_size}", "actor_rollout_ref.rollout.n=8", *overrides
    )


def objective(name, set_size, *overrides):
    return make_trainer(
        "+set_rl=pass_at_n",
        f"algorithm.set_rl.objective={name}",
        f"algorithm.set_rl.set_size={set_size}",
        "actor_rollout_ref.rollout.n=8",
        *overrides,
    )


def clusters_of(group):
    return exact.number_clusters([row.pred for row in group])


def assert_equals(result, rows, advantages_of_group):
    """Each rollout of a prompt has the advantage that the function of (rewards, clusters) gives it, on all its rows."""
    for uid, group in groups_of(rows).items():
        expected = advantages_of_group(rewards_of(group), clusters_of(group))
        for row in rows:
            if row.uid == uid:
                value = expected[[member.session for member in group].index(row.session)]
                assert result.of(uid, row.session, row.output) == pytest.approx(float(value), abs=1e-6)


@pytest.mark.parametrize(
    ("set_size", "zero_single_cluster"), [(2, True), (4, True), (1, False), (2, False), (4, False)]
)
def test_poly_epo_equals_enumeration(queue, set_size, zero_single_cluster):
    rows = random_rows(seed=1, sizes=(8, 7, 6, 5), preds=PREDS)
    result = compute(poly_epo(set_size, f"algorithm.set_rl.zero_single_cluster={zero_single_cluster}"), rows, pad_to=8)
    value = exact.polychromic if zero_single_cluster else exact.polychromic_paying_singles
    assert max(map(abs, result.group("uid_0_x"))) > 0.01
    assert_equals(result, rows, lambda r, c: exact.marginal_of_all_sets(r, c, value, set_size))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pass_at_n", exact.pass_at_n),
        ("mean", exact.mean_reward),
        ("coverage", exact.coverage),
        ("polychromic", exact.polychromic),
        ("tests.trainer.objectives:worst", lambda rewards, clusters: min(rewards)),
    ],
)
def test_any_objective_by_name_or_import_path_equals_enumeration(queue, name, value):
    rows = random_rows(seed=2, sizes=(8, 6, 4), preds=PREDS)
    result = compute(objective(f"'{name}'", 3), rows)
    assert max(map(abs, result.group("uid_0_x"))) > 0.01
    assert_equals(result, rows, lambda r, c: exact.marginal_of_all_sets(r, c, value, 3))


def test_objective_mean_of_one_is_grpo_without_the_std(queue):
    rows = random_rows(seed=3, sizes=(8, 5, 2))
    plain, ours = compute(make_trainer(*BASE), rows), compute(objective("mean", 1), rows)
    for expected, got in zip(plain.advantages, ours.advantages, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_reduction_sum_equals_enumeration(queue):
    rows = random_rows(seed=4, sizes=(8, 6), preds=PREDS)
    result = compute(poly_epo(3, "algorithm.set_rl.reduction=sum"), rows)
    assert_equals(result, rows, lambda r, c: exact.marginal_of_all_sets(r, c, exact.polychromic, 3, "sum"))


@pytest.mark.parametrize("coef", ["0", "0.5"])
def test_grpo_div_equals_its_formula(queue, coef):
    rows = random_rows(seed=5, sizes=(8, 5, 3, 2), preds=PREDS)
    result = compute(make_trainer("+set_rl=grpo_div", f"algorithm.set_rl.coef={coef}"), rows, pad_to=8)
    assert_equals(result, rows, lambda r, c: exact.grpo_div(r, c, Fraction(coef)))


def test_published_table_of_poly_epo(queue):
    """N = 8, n = 2, zero_single_cluster off: common correct, rare correct, wrong."""
    rewards, preds = [1.0] * 5 + [0.0] * 3, list("AAAABCDE")
    rows = [Row("p", s, reward=r, pred=p) for s, (r, p) in enumerate(zip(rewards, preds, strict=True))]
    got = compute(poly_epo(2, "algorithm.set_rl.zero_single_cluster=False"), rows).group("p")
    assert got == pytest.approx([0.0536] * 4 + [0.2679] + [-0.1607] * 3, abs=5e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_group_too_small_for_two_sets_keeps_its_base_advantage_to_the_bit(queue, size):
    """With n = 3, a group of three has one set, whose advantage would be 0, and smaller ones have none."""
    rows = [Row("small", s, reward=s / 4, pred=str(s)) for s in range(size)]
    rows += [Row("p", s, reward=float(s % 2), pred=str(s)) for s in range(5)]
    plain, ours = compute(make_trainer(*BASE), rows), compute(poly_epo(3), rows)
    assert_same_bits(plain.advantages[:size], ours.advantages[:size])
    assert plain.advantages[0].any() or size != 3
    assert ours.metrics["set_rl/groups_too_small"] == 1
    assert_equals(ours, rows[size:], lambda r, c: exact.marginal_of_all_sets(r, c, exact.polychromic, 3))


def test_a_group_of_one_keeps_its_base_advantage_under_grpo_div(queue):
    rows = [Row("one", 3, reward=0.75, pred="1"), *(Row("p", s, reward=float(s), pred=str(s)) for s in range(2))]
    plain, ours = compute(make_trainer(*BASE), rows), compute(make_trainer("+set_rl=grpo_div"), rows)
    assert_same_bits(plain.advantages[:1], ours.advantages[:1])
    assert ours.metrics["set_rl/groups_too_small"] == 1


def test_a_batch_of_small_groups_only_is_the_base_method(queue):
    rows = [Row(f"p{p}", s, reward=s / 2, pred=str(s)) for p in range(3) for s in range(1 + p)]
    plain, ours = compute(make_trainer(*BASE), rows, pad_to=4), compute(poly_epo(3), rows, pad_to=4)
    assert_same_bits(plain.advantages, ours.advantages)
    assert ours.metrics["set_rl/groups_too_small"] == 3


def test_num_sets_equal_to_all_sets_is_exact(queue):
    rows = random_rows(seed=6, sizes=(8, 8), preds=PREDS)
    result = compute(poly_epo(4, "algorithm.set_rl.num_sets=70"), rows)
    assert_equals(result, rows, lambda r, c: exact.marginal_of_all_sets(r, c, exact.polychromic, 4))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_drawn_sets_equal_the_definition_over_those_sets(queue, reduction):
    """20 of the 70 sets of four among eight; seed and step choose them."""
    rows = random_rows(seed=7, sizes=(8, 8), preds=PREDS)
    overrides = ("algorithm.set_rl.num_sets=20", "algorithm.set_rl.seed=11", f"algorithm.set_rl.reduction={reduction}")
    trainer = poly_epo(4, *overrides)
    trainer.global_steps = 5
    result = compute(trainer, rows)
    sets_PKn = sample_sets(torch.ones(2, 8), 4, 20, torch.Generator().manual_seed(11 + 5)).tolist()
    drawn = dict(zip(groups_of(rows), sets_PKn, strict=True))
    for uid, group in groups_of(rows).items():
        args = (rewards_of(group), clusters_of(group), exact.polychromic, drawn[uid], reduction)
        assert result.group(uid) == pytest.approx([float(a) for a in exact.marginal(*args)], abs=1e-6)


def test_each_step_draws_other_sets_and_the_same_step_the_same(queue):
    rows = random_rows(seed=8, sizes=(8,), preds=PREDS)
    trainer = poly_epo(4, "algorithm.set_rl.num_sets=5")
    first, again = compute(trainer, rows), compute(trainer, rows)
    trainer.global_steps += 1
    next_step = compute(trainer, rows)
    assert_same_bits(first.advantages, again.advantages)
    assert first.group("uid_0_x") != next_step.group("uid_0_x")


def test_a_ragged_group_with_fewer_sets_than_num_sets_uses_all_of_them(queue):
    """70 sets of four among eight, of which 20 are drawn; 15 among six and 5 among five."""
    rows = random_rows(seed=9, sizes=(8, 6, 5), preds=PREDS)
    result = compute(poly_epo(4, "algorithm.set_rl.num_sets=20"), rows)
    small = [row for row in rows if row.uid != "uid_0_x"]
    assert_equals(result, small, lambda r, c: exact.marginal_of_all_sets(r, c, exact.polychromic, 4))


def test_failed_sessions_leave_a_smaller_group_with_its_own_sets(queue):
    rows = [Row("p", s, reward=float(s % 2), pred="78"[s % 3 > 0]) for s in (7, 0, 4, 2, 5)]
    result = compute(poly_epo(2), rows)
    assert_equals(result, rows, lambda r, c: exact.marginal_of_all_sets(r, c, exact.polychromic, 2))


@pytest.mark.parametrize("group", ["poly_epo", "pass_at_n", "grpo_div"])
def test_all_outputs_of_a_session_get_the_advantage_of_its_last_one(queue, group):
    rows = [
        Row("p", s, output, reward=float(s % 2), text="####9" if output < s % 3 else f"####{s // 2}")
        for s in range(6)
        for output in range(s % 3 + 1)
    ]
    random.Random(0).shuffle(rows)
    overrides = [] if group == "grpo_div" else ["algorithm.set_rl.set_size=3", "actor_rollout_ref.rollout.n=8"]
    result = compute(make_trainer(f"+set_rl={group}", *overrides), rows, pad_to=8)
    rewards = [Fraction(s % 2) for s in range(6)]
    clusters = [s // 2 for s in range(6)]
    expected = {
        "poly_epo": lambda: exact.marginal_of_all_sets(rewards, clusters, exact.polychromic, 3),
        "pass_at_n": lambda: exact.marginal_of_all_sets(rewards, clusters, exact.pass_at_n, 3),
        "grpo_div": lambda: exact.grpo_div(rewards, clusters, Fraction(1, 10)),
    }[group]()
    assert len(rows) == 12
    for row in rows:
        assert result.of("p", row.session, row.output) == pytest.approx(float(expected[row.session]), abs=1e-6)


@pytest.mark.parametrize("group", ["poly_epo", "pass_at_n", "grpo_div"])
def test_row_order_changes_no_advantage(queue, group):
    rows = random_rows(seed=10, sizes=(8, 7, 5), preds=PREDS, outputs=(1, 2))
    overrides = [] if group == "grpo_div" else ["algorithm.set_rl.set_size=3", "actor_rollout_ref.rollout.n=8"]
    trainer = make_trainer(f"+set_rl={group}", *overrides)
    first = by_key(compute(trainer, rows))
    for seed in range(2):
        shuffled = random.Random(seed).sample(rows, len(rows))
        for key, advantage in by_key(compute(trainer, shuffled, pad_to=8)).items():
            assert torch.equal(advantage, first[key])


def test_row_order_within_a_prompt_changes_no_drawn_set(queue):
    rows = random_rows(seed=11, sizes=(8,), preds=PREDS)
    trainer = poly_epo(4, "algorithm.set_rl.num_sets=9")
    assert compute(trainer, rows).group("uid_0_x") == compute(trainer, rows[::-1]).group("uid_0_x")


def test_padding_rows_are_nobodys_rollouts(queue):
    rows = random_rows(seed=12, sizes=(8, 5), preds=PREDS)
    trainer = poly_epo(3)
    alone, padded = compute(trainer, rows), compute(trainer, rows, pad_to=32)
    assert len(padded.advantages) == 32
    assert_same_bits(alone.advantages, padded.advantages[: len(rows)])
    assert all(torch.equal(advantage, torch.zeros(1)) for advantage in padded.advantages[len(rows) :])
    assert set_rl_metrics(alone) == set_rl_metrics(padded)


def test_a_wrong_rollout_with_a_rare_strategy_can_beat_a_duplicate_correct_one(queue):
    """Eq. 15: what sets SetPO and Poly-EPO apart from a bonus on correct answers only."""
    rewards, preds = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0], list("AAAAAAAB")
    rows = [Row("p", s, reward=r, pred=p) for s, (r, p) in enumerate(zip(rewards, preds, strict=True))]
    advantages = compute(poly_epo(4), rows).group("p")
    assert advantages[7] > 0 > max(advantages[:7])


def smooth_value(rewards, clusters):
    """Mean reward x exp of the entropy of the cluster shares / n."""
    labelled = [c for c in clusters if c != -1]
    shares = [labelled.count(c) / len(labelled) for c in set(labelled)]
    effective = exp(-sum(share * log(share) for share in shares)) if labelled else 0.0
    return Fraction(sum(rewards) / len(rewards) * Fraction(effective) / len(rewards))


def test_smooth_polychromic_equals_enumeration(queue):
    rows = random_rows(seed=5, sizes=(8, 6, 5), preds=PREDS)
    result = compute(objective("smooth_polychromic", 4), rows)
    assert max(map(abs, result.group("uid_0_x"))) > 0.01
    assert_equals(result, rows, lambda r, c: exact.marginal_of_all_sets(r, c, smooth_value, 4))


@pytest.mark.parametrize("signal", ["test_line", "answer"])
def test_vendi_sees_the_kernel_of_the_signal(queue, signal):
    """A signal of clusters gives the kernel of equal clusters."""
    rows = random_rows(seed=6, sizes=(8, 6, 5))
    result = compute(objective("vendi", 3, f"algorithm.set_rl.signal.name={signal}"), rows)
    kernel_of = line_kernel if signal == "test_line" else equality_kernel
    for uid, group in groups_of(rows).items():
        kernel = np.array([[float(k) for k in line] for line in kernel_of([row.pred for row in group])])

        def value(rewards, members, kernel=kernel):
            eigenvalues = np.linalg.eigvalsh(kernel[np.ix_(members, members)] / 3).clip(1e-300)
            return Fraction(float(np.mean([float(r) for r in rewards]) * exp(-(eigenvalues @ np.log(eigenvalues))) / 3))

        # In place of clusters, the sets hold the rollouts' own numbers.
        expected = exact.marginal_of_all_sets(rewards_of(group), range(len(group)), value, 3)
        assert result.group(uid) == pytest.approx([float(a) for a in expected], abs=1e-6)
        assert max(map(abs, expected)) > 0.001
