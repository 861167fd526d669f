"""The platform `cpu`: what verl asks of an accelerator, answered by the host.

verl's platforms describe accelerators. Here the "accelerator" is the host itself: one Ray "GPU" is a share of the
machine, memory figures are those of the process, collectives are gloo's, and weights go to vLLM through shared memory.
"""

from __future__ import annotations

import contextlib
import os
import platform as host
import resource
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import psutil
import torch
import torch.distributed
from verl.plugin.platform import PlatformBase, PlatformRegistry


class HostDevice(ModuleType):
    """`torch.cpu` plus the calls that verl makes on `torch.cuda`. Memory is this process's, in bytes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        # False: verl reads this as "is there device memory to manage, map to, or seed?"
        return False

    def get_device_name(self, device: Any = None) -> str:
        return host.processor() or host.machine()

    def memory_allocated(self, device: Any = None) -> int:
        return psutil.Process().memory_info().rss

    memory_reserved = memory_allocated

    def max_memory_allocated(self, device: Any = None) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    max_memory_reserved = max_memory_allocated

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def empty_cache(self) -> None:
        """The host's allocator keeps no cache that verl should empty."""

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """The kernel's peak of a process cannot be reset."""


_HOST_DEVICE = HostDevice("verl_setpo.platforms.cpu.device")


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """A host without an accelerator, as a verl platform."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return _HOST_DEVICE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        from verl_setpo.platforms import is_cpu_build

        return is_cpu_build()

    def current_device(self) -> Any:
        # verl passes this to `tensor.to(...)`; an index would mean a CUDA device there.
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: Any) -> None:
        """There is one host."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Host operations are synchronous."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """The settings are those of CUDA's allocator."""

    def empty_cache(self) -> None:
        """The host's allocator keeps no cache that verl should empty."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        # verl composes "cpu:gloo,<device>:<backend>", which torch refuses when the device is the CPU too, and then
        # initialises only if nobody has: so a worker that has its rank joins the group here, on the way.
        if "RANK" in os.environ and not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                backend="gloo",
                rank=int(os.environ["RANK"]),
                world_size=int(os.environ["WORLD_SIZE"]),
                init_method=os.environ.get("DIST_INIT_METHOD"),
                timeout=timedelta(hours=1),
            )
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

    def ray_resource_name(self) -> str:
        # verl counts "GPU" and "NPU" only; ray_kwargs.ray_init.num_gpus says how many shares the host has.
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        # vLLM pins its threads to cores of their own; on a small machine the trainer needs the same cores
        # while vLLM idles, so leave the placement to the kernel.
        defaults = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # Only then does vLLM's CPU engine run its worker in its own process (distributed_executor_backend=uni);
            # the engine of a server is apart from the server in any case.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_PLUGINS": "",
        }
        return {key: os.environ.get(key, value) for key, value in defaults.items()}

    def cudart(self) -> Any:
        return None
