"""A signal that has nothing to say of a group costs that group its diversity term, and says so; never the run."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.batches import Line, assert_same_bits, by_key, random_rows
from tests.trainer.conftest import Row, compute, make_trainer
from verl_setpo.signals import AnswerClusters, Signal, SignalBatch, register_signal

ROLLOUTS = "actor_rollout_ref.rollout.n=8"
METHODS = {
    "set_loo": ("+set_rl=set_loo", "algorithm.set_rl.coef=0.5", ROLLOUTS),
    "poly_epo": ("+set_rl=poly_epo", "algorithm.set_rl.set_size=2", ROLLOUTS),
    "pass_at_n": ("+set_rl=pass_at_n", "algorithm.set_rl.set_size=2", ROLLOUTS),
    "grpo_div": ("+set_rl=grpo_div", ROLLOUTS),
}
SIGNALS = dict.fromkeys(METHODS, "test_failing_answers") | {"set_loo": "test_failing_line"}
WHOLE = dict.fromkeys(METHODS, "answer") | {"set_loo": "test_line"}
each_method = pytest.mark.parametrize("method", list(METHODS))


def trainer_with(method, signal, *overrides, **keys):
    return make_trainer(
        *METHODS[method],
        "algorithm.set_rl.max_failed_fraction=1",
        *overrides,
        f"algorithm.set_rl.signal.name={signal}",
        *(f"+algorithm.set_rl.signal.{key}='{value}'" for key, value in keys.items()),
    )


def base_of(method):
    std = method == "set_loo"
    return make_trainer("algorithm.adv_estimator=grpo", f"algorithm.norm_adv_by_std_in_grpo={std}")


@each_method
def test_a_failed_group_trains_on_its_base_advantage_and_the_others_as_ever(queue, caplog, method):
    rows = random_rows(seed=1, sizes=(6, 5, 4))
    failed = ("uid_1_x",)
    result = compute(trainer_with(method, SIGNALS[method], failing="uid_1_x"), rows, pad_to=8)
    base, whole = by_key(compute(base_of(method), rows)), by_key(compute(trainer_with(method, WHOLE[method]), rows))
    for key, advantage in by_key(result).items():
        expected = base if key[0] in failed else whole
        assert_same_bits([expected[key]], [advantage])
    assert any(not torch.equal(base[key], whole[key]) for key in base if key[0] in failed)
    assert result.metrics["set_rl/signal_failed_groups"] == 1
    assert result.metrics["set_rl/groups_too_small"] == 0
    assert f"1 prompts have no signal from {SIGNALS[method]}" in caplog.text
    assert "the judge is away" in caplog.text


@each_method
def test_when_all_groups_fail_the_step_is_the_base_method(queue, method):
    rows = random_rows(seed=2, sizes=(4, 3))
    result = compute(trainer_with(method, SIGNALS[method], failing="uid_0_x uid_1_x"), rows, pad_to=8)
    assert_same_bits(compute(base_of(method), rows, pad_to=8).advantages, result.advantages)
    assert result.metrics["set_rl/signal_failed_groups"] == 2
    assert "set_rl/credit/mean" not in result.metrics


def test_one_failed_group_ends_the_run_where_the_key_says_so(queue):
    rows = random_rows(seed=2, sizes=(4, 3, 5))
    trainer = trainer_with(
        "set_loo", "test_failing_line", "algorithm.set_rl.on_signal_failure=error", failing="uid_1_x"
    )
    with pytest.raises(
        RuntimeError, match=r"1 of 3 prompts have no signal from test_failing_line .*=error: the judge is"
    ):
        compute(trainer, rows)


@pytest.mark.parametrize(("failing", "ends"), [("uid_0_x uid_1_x", False), ("uid_0_x uid_1_x uid_2_x", True)])
def test_the_run_ends_when_more_than_the_allowed_share_fails(queue, failing, ends):
    """Of four groups, two are the default half, three are more."""
    rows = random_rows(seed=5, sizes=(4, 3, 5, 4))
    trainer = trainer_with(
        "poly_epo", "test_failing_answers", "algorithm.set_rl.max_failed_fraction=0.5", failing=failing
    )
    if not ends:
        assert compute(trainer, rows).metrics["set_rl/signal_failed_groups"] == 2
        return
    message = "step 1: 3 of 4 prompts have no signal from test_failing_answers, more than .*=0.5 allows: the judge is"
    with pytest.raises(RuntimeError, match=message):
        compute(trainer, rows)


def test_a_failed_group_that_is_also_too_small_is_counted_once(queue):
    rows = [Row("p", s, reward=float(s), pred=f"{s}/16") for s in range(2)]
    result = compute(trainer_with("set_loo", "test_failing_line", failing="p"), rows)
    assert result.metrics["set_rl/signal_failed_groups"] == 1
    assert result.metrics["set_rl/groups_too_small"] == 0


def test_each_cause_is_one_log_line_with_its_number_of_prompts(queue, caplog):
    rows = [Row(f"p{p}", s, pred=f"{s}/16") for p in range(12) for s in range(3)]
    compute(trainer_with("set_loo", "test_failing_line", failing=" ".join(f"p{p}" for p in range(10))), rows)
    lines = [record.message for record in caplog.records if "no signal" in record.message]
    assert len(lines) == 1
    assert "10 prompts have no signal" in lines[0]


def test_the_set_diversity_of_a_failed_group_enters_no_mean(queue):
    """p's two answers at distance 1: k = 0, so D = 0 under -log(1+m); q fails."""
    rows = [Row(uid, s, pred=f"{16 * (s % 2)}/16") for uid in "pq" for s in range(4)]
    whole = compute(trainer_with("set_loo", "test_line"), rows[:4])
    with_q = compute(trainer_with("set_loo", "test_failing_line", failing="q"), rows)
    name = "set_rl/set_diversity/mean"
    assert with_q.metrics[name] == pytest.approx(whole.metrics[name])


class _Faulty(Signal):
    """Does not keep to the interface."""

    provides = "clusters"
    batch: SignalBatch | Exception

    def collect(self, groups):
        if isinstance(self.batch, Exception):
            raise self.batch
        return self.batch


@register_signal("test_faulty_clusters")
class FaultyClusters(_Faulty):
    pass


@register_signal("test_faulty_kernel")
class FaultyKernel(_Faulty):
    provides = "kernel"


EYE = torch.eye(4)[None]
FAULTS = {
    "raises": RuntimeError("connection refused"),
    "returns nothing": SignalBatch(),
    "clusters of another shape": SignalBatch(clusters_PN=torch.zeros(1, 3, dtype=torch.long)),
    "clusters that are no integers": SignalBatch(clusters_PN=torch.zeros(1, 4)),
    "too many failures": SignalBatch(clusters_PN=torch.zeros(1, 4, dtype=torch.long), failures=(None, None)),
    "kernel of another shape": SignalBatch(kernel_PNN=torch.eye(3)[None]),
    "kernel of integers": SignalBatch(kernel_PNN=EYE.long()),
    "kernel with NaN": SignalBatch(kernel_PNN=EYE * torch.nan),
    "kernel above 1": SignalBatch(kernel_PNN=1.5 - 0.5 * EYE),
    "kernel below 0": SignalBatch(kernel_PNN=2 * EYE - 1),
    "kernel not symmetric": SignalBatch(kernel_PNN=(EYE + EYE.roll(1, -1)).clamp(max=1)),
    "kernel not 1 on its diagonal": SignalBatch(kernel_PNN=EYE * 0.5),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_signal_that_breaks_its_promises_costs_the_diversity_term_not_the_run(queue, monkeypatch, caplog, fault):
    of_kernel = "kernel" in fault
    monkeypatch.setattr(_Faulty, "batch", FAULTS[fault], raising=False)
    rows = [Row("p", s, reward=s / 4, pred=str(s)) for s in range(4)]
    method = "set_loo" if of_kernel else "grpo_div"
    result = compute(trainer_with(method, f"test_faulty_{'kernel' if of_kernel else 'clusters'}"), rows, pad_to=8)
    assert_same_bits(compute(base_of(method), rows, pad_to=8).advantages, result.advantages)
    assert result.metrics["set_rl/signal_failed_groups"] == 1
    assert "1 prompts have no signal" in caplog.text


@register_signal("test_without_failures")
class WithoutFailures(AnswerClusters):
    """A signal that never fails need not fill in `failures`."""

    def collect(self, groups):
        return SignalBatch(clusters_PN=super().collect(groups).clusters_PN)


def test_failures_may_be_left_out(queue):
    rows = random_rows(seed=3, sizes=(4, 3))
    ours = compute(trainer_with("grpo_div", "test_without_failures"), rows)
    assert_same_bits(compute(trainer_with("grpo_div", "answer"), rows).advantages, ours.advantages)


@register_signal("test_half_precision")
class HalfPrecision(Line):
    def collect(self, groups):
        return SignalBatch(kernel_PNN=super().collect(groups).kernel_PNN.bfloat16())


def test_a_kernel_in_half_precision_is_a_kernel(queue):
    """Sixteenths are exact in bfloat16."""
    rows = random_rows(seed=4, sizes=(5,))
    ours = compute(trainer_with("set_loo", "test_half_precision"), rows)
    assert_same_bits(compute(trainer_with("set_loo", "test_line"), rows).advantages, ours.advantages)
