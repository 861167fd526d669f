"""Room on the GPUs, by count: no GPU is needed to know what 24 GB hold."""

from __future__ import annotations

import json

import pytest
import torch

from verl_setpo.doctor.command_line import compose_run
from verl_setpo.doctor.gpu_memory import activations_gb, embedder_needs, judged, memory_checks, served_share

GB = 2**30


@pytest.mark.parametrize(
    ("free", "share", "needed", "status"),
    [
        (79.0, 0.6, 3.0, "ok"),
        (79.0, 0.99, 3.0, "fail"),  # vLLM's share alone is not free
        (79.0, 0.97, 3.0, "fail"),  # and here nothing is left for the embedder
        (30.0, 0.6, 0.0, "fail"),
    ],
)
def test_a_gpu_must_hold_what_vllm_takes_and_the_embedder(free, share, needed, status):
    check = judged("GPU memory 0", free, 80.0, share, needed, "an embedder" if needed else "")
    assert check.status == status
    assert ("gpu_memory_utilization" in check.cure) == (status == "fail")


def test_each_gpu_is_judged_by_what_is_free_on_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ((78 if index == 0 else 20) * GB, 80 * GB))
    config = compose_run(["+set_rl=set_loo", "actor_rollout_ref.rollout.gpu_memory_utilization=0.5"])
    config.trainer.device = "cuda"
    first, second = memory_checks(config)
    assert (first.status, second.status) == ("ok", "fail")
    assert first.found == "78.0 of 80.0 GB free, vLLM takes 40.0, 38.0 left"


def test_without_a_gpu_it_is_not_done():
    (check,) = memory_checks(compose_run(["+set_rl=set_loo", "+platform=cpu"]))
    assert check.status == "not done"
    assert "trainer.device=cpu" in check.found


def test_an_embedder_needs_its_weights_and_room_for_a_batch(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 1024, "intermediate_size": 3072}))
    (tmp_path / "model.safetensors").write_bytes(bytes(3 * 2**20))
    words = ["+set_rl=set_loo", "+set_rl/signal=embedding_local", f"algorithm.set_rl.signal.model={tmp_path}"]
    assert embedder_needs(compose_run(words)) == (0.0, "")  # on the CPU, as the group has it
    needed, what = embedder_needs(compose_run([*words, "algorithm.set_rl.signal.device=cuda"]))
    assert what == str(tmp_path)
    # 16,384 tokens x (6 x 1,024 + 3 x 3,072) numbers x 4 bytes, CUDA's half a GB, and the file.
    assert needed == pytest.approx(0.9375 + 0.5 + 3 / 1024)
    assert activations_gb({"hidden_size": 1024, "intermediate_size": 3072}, 16_384) == pytest.approx(0.9375)


def test_a_judge_on_the_trainers_gpus_takes_turns_with_the_rollouts():
    words = ["actor_rollout_ref.rollout.gpu_memory_utilization=0.5", "reward.reward_model.enable=True"]
    words.append("reward.reward_model.rollout.gpu_memory_utilization=0.7")
    assert served_share(compose_run(words)) == 0.7
    assert served_share(compose_run([*words, "reward.reward_model.enable_resource_pool=True"])) == 0.5
