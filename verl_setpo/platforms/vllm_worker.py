"""What verl does inside vLLM's workers, for the CPU engine and for reward models that generate no text."""

from __future__ import annotations

from typing import Any

import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from verl_setpo.platforms.vllm_reload import repack_tied_output_layers
from verl_setpo.platforms.vllm_rollout import own_handle


class RewardModelWorkerExtension(vLLMColocateWorkerExtension):
    """verl's worker extension for `reward.reward_model`, on any device: an encoder, such as BERT, is served too.

    verl wraps `compute_logits` of every model that it serves, and an encoder has none: the server would not start.
    """

    model_runner: Any  # of the vLLM worker that this class is mixed into

    def monkey_patch_model(self, vocab_size: int, banned_token_ids: list[int] | None = None) -> None:
        """Keep verl's mask of illegal tokens where there are tokens to sample."""
        if hasattr(self.model_runner.get_model(), "compute_logits"):
            super().monkey_patch_model(vocab_size, banned_token_ids)


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    """verl's worker extension, loading weights through vLLM's own `reload_weights`.

    vLLM packs linear weights for the CPU once they are loaded, so verl's in-place load into the packed parameters
    fails; `reload_weights` restores the checkpoint layout, loads, and packs again.
    """

    model_runner: Any  # of the vLLM worker that this class is mixed into

    def update_weights_from_ipc(
        self, peft_config: dict | None = None, base_sync_done: bool = False, use_shm: bool = False
    ) -> None:
        """Receive all tensors from the trainer and load them. Raises NotImplementedError for LoRA adapters."""
        if peft_config:
            raise NotImplementedError(
                "LoRA is not supported on platform=cpu: unset actor_rollout_ref.model.lora_rank, or use a GPU."
            )
        weights: list[tuple[str, torch.Tensor]] = []

        def keep(bucket: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            # Clone: the shared buffer is reused for the next bucket.
            weights.extend((name, tensor.clone()) for name, tensor in bucket)

        handle = own_handle(self._get_zmq_handle())
        receiver = BucketedWeightReceiver(zmq_handle=handle, device=self.device, use_shm=use_shm)
        receiver.receive_weights(on_bucket_received=keep)
        self.model_runner.reload_weights(weights_iterator=iter(weights))
        repack_tied_output_layers(self.model_runner.get_model())
