"""The step of advantages on made-up rollouts is the trainer's own: with the real queue it gives the same to the bit."""

from __future__ import annotations

import pytest
import torch
import transfer_queue as tq
from omegaconf import open_dict
from transfer_queue import KVBatchMeta

from tests.trainer.conftest import compose_config
from verl_setpo.doctor import dry_run as module
from verl_setpo.doctor.check import isolated
from verl_setpo.doctor.command_line import compose_run
from verl_setpo.doctor.dry_run import advantage_checks, dry_run
from verl_setpo.doctor.fake_batch import Shape

SHAPE = ("data.train_batch_size=6", "actor_rollout_ref.rollout.n=8", "data.max_response_length=16")
METHODS = {
    "set_loo": ["+set_rl=set_loo"],
    "set_loo by a judge": ["+set_rl=set_loo", "+set_rl/signal=judge", "algorithm.set_rl.signal.base_url=http://x/v1"],
    "set_loo by embeddings": ["+set_rl=set_loo", "+set_rl/signal=embedding_local", "algorithm.set_rl.coef=2"],
    "set_loo, auto": ["+set_rl=set_loo", "algorithm.set_rl.coef=auto", "algorithm.set_rl.target_share=0.3"],
    "set_loo, KL in the reward": ["+set_rl=set_loo", "algorithm.use_kl_in_reward=True"],
    "set_loo on rloo": ["+set_rl=set_loo", "algorithm.set_rl.base_estimator=rloo"],
    "set_loo on gae": ["+set_rl=set_loo", "algorithm.adv_estimator=gae"],
    "poly_epo": ["+set_rl=poly_epo", "algorithm.set_rl.reward_range=[-1,1]"],
    "poly_epo by a field": ["+set_rl=poly_epo", "+algorithm.set_rl.signal.field=strategy"],
    "poly_epo, asynchronous": ["+set_rl=poly_epo", "trainer.v1.trainer_mode=set_separate_async"],
    "pass_at_n, drawn": ["+set_rl=pass_at_n", "algorithm.set_rl.num_sets=9"],
    "vendi": ["+set_rl=pass_at_n", "algorithm.set_rl.objective=vendi", "algorithm.set_rl.signal.name=ngram"],
    "grpo_div": ["+set_rl=grpo_div"],
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_and_kind_of_signal_has_a_step_with_credit(name):
    result = dry_run(compose_run([*METHODS[name], *SHAPE]))
    assert torch.isfinite(result.advantages).all()
    assert result.advantages.any()
    assert result.metrics["set_rl/signal_failed_groups"] == 0
    if "pass_at_n" not in name:
        assert 0 < result.metrics["set_rl/credit_share"] < 1


@pytest.fixture(scope="module")
def queue(ray_logs):
    """A running TransferQueue; `init` finds one that other tests have started, and they find this one."""
    config = compose_config()
    with open_dict(config):
        config.transfer_queue.enable = True
        config.transfer_queue.backend.SimpleStorage.num_data_storage_units = 1
    tq.init(config.transfer_queue)


@pytest.mark.parametrize("name", ["set_loo", "poly_epo", "set_loo, KL in the reward"])
def test_the_real_queue_gives_the_same_advantages(queue, monkeypatch, name):
    config = compose_run([*METHODS[name], *SHAPE])
    here = dry_run(config).advantages
    monkeypatch.setattr(module, "LocalQueue", None)
    monkeypatch.setattr(module, "_in_place_of_transfer_queue", _through_the_real_one)
    there = dry_run(config).advantages
    assert torch.equal(here.view(torch.int32), there.view(torch.int32))


class _through_the_real_one:
    """Put the made-up batch into TransferQueue and, when the step is done, take its advantages from there."""

    def __init__(self, local):
        self.local = local

    def __enter__(self):
        batch = self.local.batch
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=self.local.fields, tags=batch.tags)

    def __exit__(self, *raised):
        batch: KVBatchMeta = self.local.batch
        self.local.fields = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["advantages"]
        )
        tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)


def test_nothing_is_written_and_the_config_stays_as_it_was(tmp_path):
    config = compose_run(["+set_rl=poly_epo", f"algorithm.set_rl.rollout_log={tmp_path}/log", *SHAPE])
    before = repr(config)
    dry_run(config)
    assert not list(tmp_path.iterdir())
    assert repr(config) == before


def test_the_check_shows_time_share_and_what_stood_in(monkeypatch):
    config = compose_run([*METHODS["set_loo by a judge"], "algorithm.set_rl.coef=5", *SHAPE])
    (check,) = advantage_checks({"": config})
    assert check.status == "ok"
    assert "random clusters for judge" in check.found
    assert "6 x 8 responses of up to 16 tokens" in check.found
    assert "credit share" in check.found


def worthless(rewards, clusters):
    """A set objective by which no set is worth anything."""
    return torch.zeros_like(rewards[..., 0])


def infinite(rewards, clusters):
    return torch.full_like(rewards[..., 0], torch.inf)


def test_a_step_that_teaches_nothing_fails():
    words = ["+set_rl=pass_at_n", f"algorithm.set_rl.objective='{__name__}:worthless'", *SHAPE]
    (check,) = advantage_checks({"": compose_run(words)})
    assert check.status == "fail"
    assert "all advantages are 0" in check.found


def test_an_objective_that_breaks_is_a_failed_check():
    words = ["+set_rl=pass_at_n", f"algorithm.set_rl.objective='{__name__}:infinite'", *SHAPE]
    config = compose_run(words)
    (check,) = isolated("advantages", lambda: advantage_checks({"": config}))
    assert check.status == "fail"
    assert "finite" in check.found


def test_long_responses_are_shortened_and_it_says_so():
    config = compose_run(
        ["data.train_batch_size=128", "actor_rollout_ref.rollout.n=8", "data.max_response_length=8192"]
    )
    shape = Shape.of(config)
    assert shape.length == 256
    assert str(shape) == "128 x 8 responses of up to 256 tokens (of 8,192)"


@pytest.mark.parametrize(
    ("words", "status", "cure"),
    [
        (["+set_rl=set_loo", "algorithm.set_rl.coef=0.0001"], "note", "Raise algorithm.set_rl.coef"),
        (["+set_rl=set_loo", "algorithm.set_rl.coef=100"], "note", "Lower algorithm.set_rl.coef"),
        (["+set_rl=set_loo", "algorithm.set_rl.signal.name=answer", "algorithm.set_rl.coef=5"], "ok", ""),
        (["+set_rl=set_loo", "algorithm.set_rl.coef=0"], "ok", ""),  # the base method, as asked for
        (["+set_rl=poly_epo"], "ok", ""),
    ],
)
def test_a_credit_share_near_0_or_above_a_half_is_noted_with_the_key_to_change(words, status, cure):
    (check,) = advantage_checks({"": compose_run([*words, *SHAPE])})
    assert check.status == status, check
    assert cure in check.cure
    assert bool(check.cure) == bool(cure)
