"""New weights in a running vLLM, by its own `reload_weights`. Needs no verl, which takes seconds to import."""

from __future__ import annotations

from typing import Any

from verl_setpo.platforms import is_cpu_build


class CheckpointWorkerExtension:
    """Mixed into vLLM's worker by its `worker_extension_cls`: loads another checkpoint of the model it serves."""

    model_runner: Any  # of the worker

    def load_checkpoint(self, path: str) -> None:
        """Take the weights of the Hugging Face folder `path`, a model of the same config."""
        self.reload_weights(weights_path=path)  # type: ignore[attr-defined] # the worker's own
        if is_cpu_build():
            repack_tied_output_layers(self.model_runner.get_model())


def repack_tied_output_layers(model: Any) -> None:
    """Pack each output layer of a model on the CPU anew after a reload.

    vLLM packs linear weights for the CPU once they are loaded. A layer that is tied to the input embedding is in no
    checkpoint, so a reload passes it over, and it would keep on multiplying by its first packed weights.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
