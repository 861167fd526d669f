"""verl's separate_async on the host: what it may not be asked for there, and why."""

from __future__ import annotations

import socket

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.replay_buffer import ReplayBufferAsync
from verl.utils.fsdp_utils import fsdp2_sharded_save_to_cpu

from tests.trainer.conftest import compose_config

SEPARATE = ("+platform=cpu", "actor_rollout_ref.rollout.nnodes=1", "data.train_batch_size=8")
TWO_UPDATES = ("trainer.v1.separate_async.parameter_sync_step=2", "actor_rollout_ref.actor.ppo_mini_batch_size=4")
MODES = pytest.mark.parametrize("words", [("separate_async",), ("set_separate_async", "+set_rl=set_loo")])


def make_trainer(mode: str, *overrides: str):
    config = compose_config(*overrides, *SEPARATE, f"trainer.v1.trainer_mode={mode}")
    return get_trainer_cls(mode)(config)


@MODES
def test_the_platform_sets_all_that_the_mode_asks_of_it(words):
    mode, *method = words
    trainer = make_trainer(mode, *method, "actor_rollout_ref.actor.ppo_mini_batch_size=8")
    assert trainer.parameter_sync_step == 1
    assert type(trainer.replay_buffer) is ReplayBufferAsync


@MODES
def test_more_than_one_update_between_transfers_is_refused(words):
    mode, *method = words
    sentence = (
        r"^trainer\.v1\.separate_async\.parameter_sync_step=2 gives wrong old log probs on platform=cpu: set it 1, or "
        r"algorithm\.rollout_correction\.bypass_mode=True,"
    )
    with pytest.raises(ValueError, match=sentence):
        make_trainer(mode, *method, *TWO_UPDATES)


@MODES
def test_more_than_one_update_is_taken_where_the_rollouts_log_probs_are_the_old_ones(words):
    mode, *method = words
    bypass = "algorithm.rollout_correction.bypass_mode=True"
    assert make_trainer(mode, *method, *TWO_UPDATES, bypass).parameter_sync_step == 2


def test_verls_copy_of_weights_on_the_host_is_the_weights_themselves():
    """Why more than one update is refused. When this fails, verl copies, and the refusal can go."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        model = fully_shard(torch.nn.Linear(2, 2, bias=False), mesh=init_device_mesh("cpu", (1,)))
        saved, _ = fsdp2_sharded_save_to_cpu(model)
        with torch.no_grad():
            model.weight.fill_(7.0)
        assert torch.equal(saved["weight"][0], torch.full((2, 2), 7.0))
    finally:
        torch.distributed.destroy_process_group()
