"""The tokenizer of the model that a run trains."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig


def load_tokenizer(config: DictConfig) -> Any:
    """As verl's workers load it. Raises what the hub or a broken folder makes of it."""
    from verl.utils import hf_tokenizer
    from verl.utils.fs import copy_to_local

    model = config.actor_rollout_ref.model
    tokenizer = hf_tokenizer(copy_to_local(model.get("tokenizer_path") or model.path), trust_remote_code=True)
    if model.get("custom_chat_template") is not None:
        tokenizer.chat_template = model.custom_chat_template
    return tokenizer
