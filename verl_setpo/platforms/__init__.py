"""Real verl on a machine without an accelerator, through verl's extension points.

`register()` is called by the plugin in every verl process, and does nothing where torch is not a CPU build.
"""

from __future__ import annotations

import torch


def is_cpu_build() -> bool:
    """True where torch was built without any accelerator.

    `torch.cuda.is_available()` would not do: an actor without a GPU on a GPU machine sees none either.
    """
    return torch.version.cuda is None and torch.version.hip is None and not hasattr(torch, "npu")


def register() -> None:
    """Register the CPU platform, its training engine and vLLM's name; a no-op on a machine's GPU build of torch."""
    from verl_setpo.platforms import cpu  # noqa: F401  (registers on import: verl's detection, or VERL_PLATFORM=cpu, finds it)

    if is_cpu_build():
        from verl_setpo.platforms import vllm_name

        vllm_name.register()  # before the engine: its imports may ask for vLLM's version
        from verl.workers.rollout.base import _ROLLOUT_REGISTRY

        from verl_setpo.platforms import engine  # noqa: F401  (registers on import)

        # A registry by name, to which verl has no function that adds.
        _ROLLOUT_REGISTRY["vllm", "async"] = "verl_setpo.platforms.vllm_rollout.CpuServerAdapter"
