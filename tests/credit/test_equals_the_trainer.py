"""The dry run gives what the trainer gives, from the files that verl and the trainer themselves write."""

from __future__ import annotations

import pytest
import transfer_queue as tq
from omegaconf import open_dict
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from tests.trainer.batches import groups_of, random_rows
from tests.trainer.conftest import compose_config, compute, make_trainer
from tests.trainer.objectives import worst

PREDS = ["7", "8", "9", ""]  # "" is degenerate
WORST = f"{worst.__module__}:{worst.__name__}"

METHODS = {
    "set_loo": (
        ("+set_rl=set_loo", "algorithm.set_rl.coef=2", "algorithm.set_rl.shaping=exp"),
        ("--estimator", "set_loo", "--coef", 2, "--shaping", "exp"),
    ),
    "poly_epo": (
        ("+set_rl=poly_epo", "algorithm.set_rl.set_size=3"),
        ("--estimator", "poly_epo", "--set-size", 3),
    ),
    "pass_at_n": (
        ("+set_rl=pass_at_n", "algorithm.set_rl.set_size=2"),
        ("--estimator", "pass_at_n", "--set-size", 2),
    ),
    "grpo_div": (
        ("+set_rl=grpo_div", "algorithm.set_rl.coef=0.5"),
        ("--estimator", "grpo_div", "--coef", 0.5),
    ),
    "coverage": (
        ("+set_rl=pass_at_n", "algorithm.set_rl.objective=coverage", "algorithm.set_rl.set_size=3"),
        ("--estimator", "grpo", "--objective", "coverage", "--set-size", 3),
    ),
    WORST: (
        ("+set_rl=pass_at_n", f"algorithm.set_rl.objective='{WORST}'", "algorithm.set_rl.set_size=3"),
        ("--estimator", "grpo", "--objective", WORST, "--set-size", 3),
    ),
    "grpo": (("algorithm.adv_estimator=grpo",), ("--estimator", "grpo")),
    "grpo_no_std": (
        ("algorithm.adv_estimator=grpo", "algorithm.norm_adv_by_std_in_grpo=False"),
        ("--estimator", "grpo_no_std"),
    ),
}


@pytest.fixture(scope="module")
def queue(ray_logs):
    """A running TransferQueue. `init` finds one that other tests have started, and they find and close this one."""
    config = compose_config()
    with open_dict(config):
        config.transfer_queue.enable = True
        config.transfer_queue.backend.SimpleStorage.num_data_storage_units = 1
    tq.init(config.transfer_queue)
    return tq


def rows_of(seed):
    """Ragged groups, down to one rollout, sessions with several outputs."""
    return random_rows(seed, sizes=(8, 8, 7, 5, 4, 3, 2, 1), preds=PREDS, outputs=(1, 2))


def verls_file(rows, folder, step=7):
    """As verl writes validation samples, whose reward function returns `pred`; sorted as verl sorts them."""
    rows = sorted(rows, key=lambda row: (row.uid, row.session, row.output))
    PPOTrainer._write_generations(
        inputs=[f"question of {row.uid}" for row in rows],
        outputs=[row.text for row in rows],
        gts=[None] * len(rows),
        scores=[row.reward for row in rows],
        reward_extra_infos_dict={
            "pred": [row.pred for row in rows],
            "uid": [f"{row.uid}_{row.session}_{row.output}" for row in rows],
        },
        dump_path=str(folder),
        global_steps=step,
    )
    return folder


def trainer_of(overrides, *more):
    ours = any(override.startswith("+set_rl=") for override in overrides)
    signal = ("algorithm.set_rl.signal.name=answer",) if "+set_rl=set_loo" in overrides else ()
    return make_trainer(*overrides, *(signal if ours else ()), *more, "actor_rollout_ref.rollout.n=8")


@pytest.mark.parametrize("name", METHODS)
def test_every_rollout_gets_the_trainers_advantage(queue, credit, tmp_path, name):
    overrides, options = METHODS[name]
    rows = rows_of(seed=1)
    trained = compute(trainer_of(overrides), rows, pad_to=8)
    found = credit(verls_file(rows, tmp_path / "validation"), *options)
    assert "verl's generations of step 7; 8 prompts with 1 to 8 rollouts" in found.text
    for uid in groups_of(rows):
        assert found.advantages(name, uid) == pytest.approx(trained.group(uid), abs=1e-6)
    assert max(map(abs, found.advantages(name, "uid_0_x"))) > 0.01
    if "grpo" not in name or name == "grpo_div":
        share = trained.metrics["set_rl/credit_share"]
        assert found.summary(name)["credit_share"] == pytest.approx(share, abs=1e-5)
        assert found.summary(name)["too_small"] == trained.metrics["set_rl/groups_too_small"]
        zero = found.summary(name)["zero_prompts"] / 8
        assert zero == pytest.approx(trained.metrics["set_rl/zero_advantage_prompts"])


@pytest.mark.parametrize("name", ["set_loo", "vendi"])
def test_a_kernel_reaches_the_estimator_as_in_the_trainer(queue, credit, tmp_path, name):
    """test_line is a signal of another package: registered, so that --signal finds it."""
    rows = random_rows(seed=2, sizes=(8, 6, 5))
    group = "set_loo" if name == "set_loo" else "pass_at_n"
    keys = [] if name == "set_loo" else ["algorithm.set_rl.objective=vendi"]
    overrides = (f"+set_rl={group}", "algorithm.set_rl.signal.name=test_line", *keys)
    trained = compute(make_trainer(*overrides, "actor_rollout_ref.rollout.n=8"), rows)
    options = ("--estimator", "set_loo") if name == "set_loo" else ("--estimator", "grpo", "--objective", "vendi")
    found = credit(verls_file(rows, tmp_path / "validation"), "--signal", "test_line", *options)
    for uid in groups_of(rows):
        assert found.advantages(name, uid) == pytest.approx(trained.group(uid), abs=1e-6)
        assert any(found.prompt(uid)["credits"][name])


@pytest.mark.parametrize("name", ["set_loo", "poly_epo", "grpo_div"])
def test_the_rollout_log_of_a_run_gives_back_what_it_was_trained_on(queue, credit, tmp_path, name):
    overrides, options = METHODS[name]
    rows = rows_of(seed=3)
    trained = compute(trainer_of(overrides, f"algorithm.set_rl.rollout_log={tmp_path}/log"), rows, pad_to=8)
    found = credit(tmp_path / "log", *options)
    assert "a rollout log of step 1; 8 prompts with 1 to 8 rollouts" in found.text
    assert found.figures["signal"] == "clusters"
    for uid in groups_of(rows):
        assert found.advantages(name, uid) == pytest.approx(trained.group(uid), abs=2e-6)


def test_a_group_whose_signal_failed_keeps_its_base_advantage_as_in_the_run(queue, credit, tmp_path):
    rows = random_rows(seed=4, sizes=(5, 5, 5), preds=["7", "8"])
    log = f"algorithm.set_rl.rollout_log={tmp_path}/log"
    failing = ("algorithm.set_rl.signal.name=test_failing_answers", "+algorithm.set_rl.signal.failing=uid_0_x")
    trained = compute(make_trainer("+set_rl=grpo_div", log, *failing), rows)
    found = credit(tmp_path / "log", "--estimator", "grpo_div")
    for uid in groups_of(rows):
        assert found.advantages("grpo_div", uid) == pytest.approx(trained.group(uid), abs=2e-6)
    (warned,) = found.warnings("signal_failed")
    assert warned["count"] == 1
    assert found.summary("grpo_div")["failed"] == 1


def test_rewards_of_plus_and_minus_one_are_mapped_as_in_the_run(queue, credit, tmp_path):
    rows = random_rows(seed=5, sizes=(8, 8), preds=PREDS, rewards=(-1.0, 1.0))
    overrides = ("+set_rl=poly_epo", "algorithm.set_rl.reward_range=[-1,1]")
    trained = compute(make_trainer(*overrides, "actor_rollout_ref.rollout.n=8"), rows)
    folder = verls_file(rows, tmp_path / "validation")
    found = credit(folder, "--estimator", "poly_epo", "--reward-range", -1, 1)
    for uid in groups_of(rows):
        assert found.advantages("poly_epo", uid) == pytest.approx(trained.group(uid), abs=1e-6)
    assert "algorithm.set_rl.reward_range=[-1,1]" in found.summary("poly_epo")["run"]
