"""verl's FSDP engine for a reference or actor model on the host, registered for the device "cpu"."""

from __future__ import annotations

import torch
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device="cpu")
class HostFSDPEngineWithLMHead(FSDPEngineWithLMHead):
    """verl's engine without the offload of a reference model: its parameters are in host memory already,
    and the offload would pin them, which a torch without an accelerator cannot do."""

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        forward_only = self.engine_config.forward_only
        self.engine_config.forward_only = False
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config.forward_only = forward_only
