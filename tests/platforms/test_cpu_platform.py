"""The platform `cpu`: chosen by itself on a CPU build of torch only, and what verl asks of an accelerator."""

from __future__ import annotations

import re
import socket

import pytest
import torch
from omegaconf import OmegaConf
from verl.plugin.platform import PlatformRegistry
from verl.plugin.platform.platform_manager import _create_platform, _detect_platform_name
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.workers.engine.base import EngineRegistry

from tests.trainer.conftest import compose_config
from verl_setpo import platforms
from verl_setpo.platforms.cpu import PlatformCPU

cpu_build = pytest.mark.skipif(not platforms.is_cpu_build(), reason="torch is built for an accelerator")


@pytest.fixture
def build_of_torch(monkeypatch):
    """torch as built for something: a fault that this machine cannot have."""

    def pretend(accelerator):
        if accelerator == "npu":
            monkeypatch.setattr(torch, "npu", object(), raising=False)
        elif accelerator is not None:
            monkeypatch.setattr(torch.version, accelerator, "12.8")

    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # No driver on this machine, nor in an actor without a GPU on a machine that has one.
    monkeypatch.setattr("shutil.which", lambda command: None)
    monkeypatch.setattr("os.path.isfile", lambda path: False)
    return pretend


@pytest.mark.parametrize(("accelerator", "is_cpu"), [(None, True), ("cuda", False), ("hip", False), ("npu", False)])
def test_the_cpu_platform_is_chosen_only_where_torch_is_built_without_an_accelerator(
    build_of_torch, accelerator, is_cpu
):
    """A process that sees no GPU proves nothing: a Ray actor without one on a GPU machine sees none either."""
    build_of_torch(accelerator)
    assert platforms.is_cpu_build() is is_cpu
    assert PlatformCPU().is_platform_available(use_smi_check=True) is is_cpu
    assert (_detect_platform_name() == "cpu") is is_cpu


@pytest.mark.parametrize("name", ["cpu", "CPU", " cpu "])
def test_verl_platform_overrides_the_choice(build_of_torch, monkeypatch, name):
    build_of_torch("cuda")
    monkeypatch.setenv("VERL_PLATFORM", name)
    assert isinstance(_create_platform(_detect_platform_name()), PlatformCPU)


def test_verl_platform_overrides_the_cpu_too(build_of_torch, monkeypatch):
    build_of_torch(None)
    monkeypatch.setenv("VERL_PLATFORM", "nvidia")
    assert _detect_platform_name() == "nvidia"


def test_the_cpu_replaces_none_of_verls_platforms():
    assert {"nvidia", "cpu"} <= set(PlatformRegistry.registered_names())
    assert PlatformRegistry.get("cpu") is PlatformCPU
    assert PlatformRegistry.get("nvidia").__module__.startswith("verl.")


def test_verl_counts_shares_of_the_host_as_gpus_and_moves_tensors_to_the_cpu():
    platform = PlatformCPU()
    assert (platform.device_name, platform.ray_resource_name()) == ("cpu", "GPU")
    assert torch.ones(1).to(platform.current_device()).device.type == "cpu"
    assert not platform.is_ipc_supported()


def test_the_memory_figures_are_those_of_this_process():
    device = PlatformCPU().device_module
    available, total = device.mem_get_info()
    assert 0 < available <= total
    assert 1e8 < device.memory_allocated() <= total  # torch alone takes more than 100 MB
    assert device.memory_allocated() * 0.9 <= device.max_memory_allocated() <= total


def test_the_random_state_of_the_host_is_saved_and_restored():
    """verl keeps it in checkpoints through the device module."""
    device = PlatformCPU().device_module
    before = torch.get_rng_state()
    try:
        state = device.get_rng_state()
        first = torch.rand(3)
        device.set_rng_state(state)
        assert torch.equal(torch.rand(3), first)
        device.manual_seed_all(5)
        seeded = torch.rand(3)
        torch.manual_seed(5)
        assert torch.equal(torch.rand(3), seeded)
    finally:
        torch.set_rng_state(before)


def test_a_worker_with_a_rank_joins_a_gloo_group(monkeypatch):
    platform = PlatformCPU()
    monkeypatch.delenv("RANK", raising=False)
    assert platform.communication_backend_name() == "gloo"
    assert not torch.distributed.is_initialized()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "DIST_INIT_METHOD": address}.items():
        monkeypatch.setenv(name, value)
    try:
        assert [platform.communication_backend_name() for _ in range(2)] == ["gloo", "gloo"]
        assert torch.distributed.get_backend() == "gloo"
        assert torch.distributed.get_world_size() == 1
    finally:
        torch.distributed.destroy_process_group()


def test_the_users_settings_of_vllm_win_over_ours(monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert PlatformCPU().rollout_env_vars()["VLLM_CPU_KVCACHE_SPACE"] == "1"
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9")
    assert PlatformCPU().rollout_env_vars()["VLLM_CPU_KVCACHE_SPACE"] == "9"


@cpu_build
def test_an_fsdp2_engine_is_registered_for_the_cpu():
    assert EngineRegistry._engines["language_model"]["fsdp2"]["cpu"].__name__ == "HostFSDPEngineWithLMHead"


@pytest.mark.parametrize(
    ("mode", "buffer"), [("sync", ReplayBuffer), ("colocate_async", ReplayBufferAsync), ("set_sync", ReplayBuffer)]
)
def test_the_replay_buffer_is_verls_own_of_the_mode_polled_more_often(mode, buffer):
    method = ["+set_rl=set_loo"] if mode.startswith("set_") else []
    config = compose_config(*method, "+platform=cpu", f"trainer.v1.trainer_mode={mode}")
    built = get_trainer_cls(mode)(config).replay_buffer
    assert type(built) is buffer
    assert built.poll_interval == 0.05


def test_dapos_filter_and_the_refill_of_failed_groups_work_on_the_cpu_platform():
    keys = (
        "algorithm.filter_groups.enable=True",
        "algorithm.filter_groups.metric=acc",
        "trainer.v1.sampler.sync_refill_failed_groups=True",
    )
    plain = get_trainer_cls("sync")(compose_config(*keys)).replay_buffer
    on_cpu = get_trainer_cls("sync")(compose_config(*keys, "+platform=cpu")).replay_buffer
    assert (plain.filter_groups_metric, plain.sync_refill_failed_groups) == ("acc", True)
    assert (on_cpu.filter_groups_metric, on_cpu.sync_refill_failed_groups) == ("acc", True)


@pytest.mark.parametrize("mode", ["sync", "set_sync"])
def test_lora_is_refused_with_its_key_before_anything_starts(mode):
    method = ["+set_rl=set_loo"] if mode.startswith("set_") else []
    config = compose_config(*method, "+platform=cpu", f"trainer.v1.trainer_mode={mode}")
    get_trainer_cls(mode)(config.copy())
    for key, value in {"lora_rank": 8, "lora.rank": 8, "lora_adapter_path": "/adapters/one"}.items():
        asks = config.copy()
        OmegaConf.update(asks, f"actor_rollout_ref.model.{key}", value)
        sentence = re.escape(
            f"actor_rollout_ref.model.{key}={value} asks for LoRA, which platform=cpu does not support"
        )
        with pytest.raises(ValueError, match=f"^{sentence}"):
            get_trainer_cls(mode)(asks)
