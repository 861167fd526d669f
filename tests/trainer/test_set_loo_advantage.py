"""SetPO on the real trainer: what ends up in the queue is verl's base advantage plus coef times the exact credit."""

from __future__ import annotations

import random
from fractions import Fraction
from math import log

import pytest
import torch
from verl.trainer.ppo import core_algos

from tests.trainer import exact
from tests.trainer.batches import (
    assert_same_bits,
    by_key,
    compute_with,
    equality_kernel,
    groups_of,
    line_kernel,
    random_rows,
    set_rl_metrics,
)
from tests.trainer.conftest import Row, compose_config, compute, make_trainer

COEF = 0.75
SET_LOO = ("+set_rl=set_loo", f"algorithm.set_rl.coef={COEF}", "algorithm.set_rl.signal.name=test_line")


def exact_credits(rows, shaping="neg_log1p", kernel=line_kernel):
    """(uid, session) -> s_i."""
    credits = {}
    for uid, group in groups_of(rows).items():
        values = exact.leave_one_out(kernel([row.pred for row in group]), shaping)
        credits.update({(uid, row.session): float(s) for row, s in zip(group, values, strict=True)})
    return credits


def assert_base_plus_credit(base, ours, credits, coef=COEF):
    """Every token of a row is the base's token plus coef times its rollout's credit; padding rows stay as they are."""
    for row, base_T, got_T in zip(ours.rows, base.advantages, ours.advantages, strict=True):
        expected_T = base_T if row is None else base_T + coef * credits[row.uid, row.session]
        torch.testing.assert_close(got_T, expected_T, rtol=0, atol=0 if row is None else 1e-6)


@pytest.mark.parametrize(
    "base",
    [
        "grpo",
        "grpo_vectorized",
        "rloo",
        "rloo_vectorized",
        "reinforce_plus_plus",
        "reinforce_plus_plus_baseline",
        "opo",
        "gpg",
    ],
)
def test_advantage_is_the_base_plus_coef_times_the_credit(queue, base):
    rows = random_rows(seed=1)
    plain = compute(make_trainer(f"algorithm.adv_estimator={base}"), rows, pad_to=8)
    ours = compute(make_trainer(*SET_LOO, f"algorithm.set_rl.base_estimator={base}"), rows, pad_to=8)
    credits = exact_credits(rows)
    assert max(map(abs, credits.values())) > 0.05
    assert None in ours.rows
    assert_base_plus_credit(plain, ours, credits)
    assert_same_bits(plain.returns, ours.returns)


def test_on_grpo_passk_which_takes_no_group_of_one(queue):
    rows = random_rows(seed=2, sizes=(5, 4, 2))
    plain = compute(make_trainer("algorithm.adv_estimator=grpo_passk"), rows)
    ours = compute(make_trainer(*SET_LOO, "algorithm.set_rl.base_estimator=grpo_passk"), rows)
    assert_base_plus_credit(plain, ours, exact_credits(rows))


def test_on_gae_whose_advantage_differs_from_token_to_token(queue):
    rows = random_rows(seed=3)
    values = {"values": lambda length: torch.linspace(0, 1, length)}
    plain = compute_with(make_trainer("algorithm.adv_estimator=gae"), rows, values, pad_to=8)
    ours = compute_with(make_trainer(*SET_LOO, "algorithm.set_rl.base_estimator=gae"), rows, values, pad_to=8)
    assert any((advantage != advantage[0]).any() for advantage in plain.advantages)
    assert_base_plus_credit(plain, ours, exact_credits(rows))


def test_on_an_estimator_that_somebody_else_registered_with_verl(queue):
    @core_algos.register_adv_est("test_tripled_reward")
    def tripled(token_level_rewards, response_mask, **kwargs):
        advantages = 3 * token_level_rewards.sum(-1, keepdim=True) * response_mask
        return advantages, advantages

    try:
        rows = random_rows(seed=4)
        ours = compute(make_trainer(*SET_LOO, "algorithm.set_rl.base_estimator=test_tripled_reward"), rows)
    finally:
        del core_algos.ADV_ESTIMATOR_REGISTRY["test_tripled_reward"]
    credits = exact_credits(rows)
    for row in rows:
        expected = 3 * row.reward + COEF * credits[row.uid, row.session]
        assert ours.of(row.uid, row.session) == pytest.approx(expected, abs=1e-6)


def test_with_a_kl_penalty_in_the_reward_of_the_base(queue):
    rows = random_rows(seed=5)
    reference = {"ref_log_prob": lambda length: torch.linspace(-2, -0.5, length)}

    def run(*overrides):
        overrides = (*overrides, "algorithm.use_kl_in_reward=True", "algorithm.kl_ctrl.kl_coef=0.5")
        controller = core_algos.get_kl_controller(compose_config(*overrides).algorithm.kl_ctrl)
        return compute_with(make_trainer(*overrides, kl_ctrl_in_reward=controller), rows, reference, pad_to=8)

    plain, ours = run("algorithm.adv_estimator=rloo"), run(*SET_LOO, "algorithm.set_rl.base_estimator=rloo")
    assert_base_plus_credit(plain, ours, exact_credits(rows))


def test_tokens_that_rollout_correction_rejects_get_no_credit(queue):
    rows = random_rows(seed=6)
    # Every second token drifted between rollout and trainer, beyond what rejection sampling lets pass.
    drifted = {"old_log_probs": lambda length: torch.linspace(-1, -0.1, length) - 3.0 * (torch.arange(length) % 2)}
    reject = (
        "algorithm.rollout_correction.rollout_rs=token_k1",
        "algorithm.rollout_correction.rollout_rs_threshold='0.5_2.0'",
    )
    plain = compute_with(make_trainer("algorithm.adv_estimator=grpo", *reject), rows, drifted)
    ours = compute_with(make_trainer(*SET_LOO, *reject), rows, drifted)
    credits = exact_credits(rows)
    for row, base_T, got_T in zip(rows, plain.advantages, ours.advantages, strict=True):
        kept_T = torch.arange(len(got_T)) % 2 == 0
        assert (got_T[~kept_T] == 0).all()
        expected_T = base_T[kept_T] + COEF * credits[row.uid, row.session]
        torch.testing.assert_close(got_T[kept_T], expected_T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shaping", ["linear", "neg_square", "neg_log1p", "exp"])
def test_credit_equals_exact_enumeration_for_each_shaping(queue, shaping):
    """Equal rewards, so the base advantage is 0 and the credit stands alone."""
    rows = random_rows(seed=7, sizes=(8, 7, 5, 4, 3), rewards=[1.0])
    ours = compute(make_trainer(*SET_LOO, f"algorithm.set_rl.shaping={shaping}"), rows)
    for (uid, session), credit in exact_credits(rows, shaping).items():
        assert ours.of(uid, session) == pytest.approx(COEF * credit, abs=1e-7)


def test_credit_on_answer_clusters_equals_exact_enumeration(queue):
    """A signal of clusters becomes the kernel 1 for equal answers, 0 for others; no answers are alike."""
    rows = random_rows(seed=8, sizes=(8, 6, 3), preds=["7", "8", "9", ""], rewards=[0.0])
    overrides = ("algorithm.set_rl.signal.name=answer", "algorithm.set_rl.shaping=linear")
    ours = compute(make_trainer(*SET_LOO[:2], *overrides), rows)
    for (uid, session), credit in exact_credits(rows, "linear", equality_kernel).items():
        assert ours.of(uid, session) == pytest.approx(COEF * credit, abs=1e-7)


def test_a_lone_answer_among_seven_equal_ones_by_hand(queue):
    """Each of the seven has local mass 6/7, the lone one 0 (Eq. 3)."""
    preds = ["5"] * 7 + ["6"]
    rows = [Row("p", session, reward=1.0, pred=pred) for session, pred in enumerate(preds)]
    overrides = ("algorithm.set_rl.coef=1", "algorithm.set_rl.signal.name=answer")
    ours = compute(make_trainer("+set_rl=set_loo", *overrides), rows)
    diversity = -7 / 8 * log(13 / 7)
    without_the_lone_one, without_an_equal_one = -log(2), -6 / 7 * log(11 / 6)
    assert ours.of("p", 7) == pytest.approx(diversity - without_the_lone_one, abs=1e-6)
    assert ours.of("p", 0) == pytest.approx(diversity - without_an_equal_one, abs=1e-6)


@pytest.mark.parametrize("size", [1, 2])
def test_a_group_of_one_or_two_keeps_its_base_advantage_to_the_bit(queue, size):
    rows = [Row("small", s, reward=float(s), pred=f"{s}/16") for s in range(size)]
    rows += [Row("p", s, reward=s / 4, pred=f"{s}/16") for s in range(4)]
    plain = compute(make_trainer("algorithm.adv_estimator=grpo"), rows)
    ours = compute(make_trainer(*SET_LOO), rows)
    assert_same_bits(plain.advantages[:size], ours.advantages[:size])
    assert ours.of("p", 0) != plain.of("p", 0)
    assert ours.metrics["set_rl/groups_too_small"] == 1


def test_a_batch_of_small_groups_only_is_the_base_method(queue):
    rows = [Row(f"p{p}", s, reward=float(s), pred=f"{s}/16") for p in range(3) for s in range(1 + p % 2)]
    plain = compute(make_trainer("algorithm.adv_estimator=grpo"), rows)
    ours = compute(make_trainer(*SET_LOO), rows)
    assert_same_bits(plain.advantages, ours.advantages)
    assert ours.metrics["set_rl/groups_too_small"] == 3


def test_failed_sessions_leave_a_smaller_group_with_its_own_credit(queue):
    """Sessions 1 and 4 of 6 are absent: the credit is that of a group of four."""
    preds = {0: "0/16", 2: "4/16", 3: "4/16", 5: "16/16"}
    rows = [Row("p", session, reward=0.0, pred=pred) for session, pred in preds.items()]
    ours = compute(make_trainer(*SET_LOO, "algorithm.set_rl.shaping=linear"), rows)
    credits = exact.leave_one_out(line_kernel(list(preds.values())), "linear")
    assert ours.group("p") == pytest.approx([COEF * float(s) for s in credits], abs=1e-7)


@pytest.mark.parametrize("base", ["grpo", "rloo"])
def test_all_outputs_of_a_session_get_the_credit_of_its_last_one(queue, base):
    """verl itself collapses the outputs for GRPO only; for others each output has a base advantage of its own."""
    last = {0: "####1", 1: "####1", 2: "####2", 3: "####3"}
    rows = []
    for session, text in last.items():
        # The first outputs would make all four alike.
        rows += [
            Row("p", session, output, reward=session / 4, text="####9" * (output + 1)) for output in range(session % 3)
        ]
        rows.append(Row("p", session, session % 3, reward=session / 4, text=text))
    random.Random(0).shuffle(rows)
    plain = compute(make_trainer(f"algorithm.adv_estimator={base}"), rows, pad_to=4)
    overrides = (f"algorithm.set_rl.base_estimator={base}", "algorithm.set_rl.signal.name=answer")
    ours = compute(make_trainer(*SET_LOO[:2], *overrides), rows, pad_to=4)
    values = exact.leave_one_out(equality_kernel(list(last.values())), "neg_log1p")
    assert len(rows) == 7
    assert len(set(values)) > 1
    assert_base_plus_credit(plain, ours, {("p", session): values[session] for session in last})


def test_centred_credit_is_the_credit_less_the_groups_mean(queue):
    rows = random_rows(seed=4, sizes=(6, 4, 3, 2))
    plain = compute(make_trainer("algorithm.adv_estimator=grpo"), rows)
    ours = compute(make_trainer(*SET_LOO, "algorithm.set_rl.center=True"), rows)
    credits = exact_credits(rows)
    for uid, group in groups_of(rows).items():
        mean = sum(credits[uid, row.session] for row in group) / len(group)
        credits.update({(uid, row.session): credits[uid, row.session] - mean for row in group})
        assert uid != "uid_0_x" or abs(mean) > 1e-4
    assert_base_plus_credit(plain, ours, credits)


@pytest.mark.parametrize("signal", ["test_line", "ngram", "answer"])
def test_row_order_changes_no_advantage(queue, signal):
    rows = random_rows(seed=9, outputs=(1, 2), rewards=[1.0])  # base advantage 0: no float sums that depend on order
    trainer = make_trainer(*SET_LOO[:2], f"algorithm.set_rl.signal.name={signal}")
    first = by_key(compute(trainer, rows))
    assert any(advantage.any() for advantage in first.values())
    for seed in range(3):
        shuffled = random.Random(seed).sample(rows, len(rows))
        for key, advantage in by_key(compute(trainer, shuffled, pad_to=8)).items():
            assert torch.equal(advantage, first[key])


def test_padding_rows_are_nobodys_rollouts(queue):
    """They copy the first row, answer included, and would make its rollout look common."""
    rows = [Row("p", s, reward=0.0, pred=f"{4 * s}/16") for s in range(4)]
    trainer = make_trainer(*SET_LOO)
    alone, padded = compute(trainer, rows), compute(trainer, rows, pad_to=16)
    assert len(padded.advantages) == 16
    assert_same_bits(alone.advantages, padded.advantages[:4])
    assert all(torch.equal(advantage, torch.zeros(1)) for advantage in padded.advantages[4:])
    assert set_rl_metrics(alone) == set_rl_metrics(padded)


def test_coef_scales_the_credit(queue):
    rows = random_rows(seed=10, sizes=(6,), rewards=[0.0])
    one, five = (compute(make_trainer(*SET_LOO, f"algorithm.set_rl.coef={coef}"), rows) for coef in (1, 5))
    for a, b in zip(one.group("uid_0_x"), five.group("uid_0_x"), strict=True):
        assert b == pytest.approx(5 * a, abs=1e-6)
        assert a != 0


def test_rarer_rollout_gets_more_credit(queue):
    """Theorem 4.5, through the whole of the trainer: r is nowhere more similar than c, and less to one rollout."""
    rows = [Row("p", s, reward=1.0, pred=pred) for s, pred in enumerate(["0/16", "2/16", "4/16", "5/16", "16/16"])]
    kernel = line_kernel([row.pred for row in rows])
    advantages = compute(make_trainer(*SET_LOO), rows).group("p")
    pairs = [
        (r, c)
        for r in range(5)
        for c in range(5)
        if all(kernel[r][y] <= kernel[c][y] for y in range(5) if y not in (r, c))
        and sum((kernel[c][y] - kernel[r][y] for y in range(5) if y not in (r, c)), Fraction(0)) > 0
    ]
    assert pairs
    assert all(advantages[r] > advantages[c] for r, c in pairs)


def test_tokens_of_a_tool_get_no_credit_and_the_figures_are_of_trained_tokens(queue):
    """The first two tokens of each response are a tool's."""
    rows = [Row("p", s, reward=s / 4, text="ab", pred=f"{4 * s}/16") for s in range(4)]
    mask_T = torch.tensor([0, 0, 1])
    masks = {"response_mask": lambda length: mask_T.clone()}
    plain = compute_with(make_trainer("algorithm.adv_estimator=grpo"), rows, masks)
    ours = compute_with(make_trainer(*SET_LOO), rows, masks)
    credits = exact_credits(rows)
    expected = [advantage[2] + COEF * credits["p", s] for s, advantage in enumerate(plain.advantages)]
    for got_T, value in zip(ours.advantages, expected, strict=True):
        torch.testing.assert_close(got_T, value * mask_T, rtol=0, atol=1e-6)
    size = sum(COEF * abs(credit) for credit in credits.values())
    rest = sum(abs(advantage[2].item()) for advantage in plain.advantages)
    assert ours.metrics["set_rl/credit_share"] == pytest.approx(size / (size + rest), abs=1e-5)
    assert ours.metrics["set_rl/zero_advantage_prompts"] == 0
