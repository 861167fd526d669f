"""The keys of `algorithm.set_rl.signal` that every signal with a store has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PREFIX = "algorithm.set_rl.signal."


class StoreSettings(BaseModel):
    """What the store may hold and wait for.

    wait_s: seconds that a training step waits for what is not there yet. Failures that pass (no connection, busy
        server) are tried again until then.
    shards: actors; None: one a node.
    keep_s: seconds after which rollouts that nobody collected (filtered groups) are dropped.
    max_memory_mb: of all texts held, over all shards; the oldest are dropped first.
    start_timeout_s: seconds that the actors may take to start, a local model's loading included.
    num_cpus, num_gpus: of Ray's resources, for each actor. A share of a GPU is taken beside the trainer's workers.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    wait_s: float = Field(120, gt=0, allow_inf_nan=False)
    shards: int | None = Field(None, ge=1)
    keep_s: float = Field(7200, gt=0, allow_inf_nan=False)
    max_memory_mb: float = Field(4096, gt=0, allow_inf_nan=False)
    start_timeout_s: float = Field(600, gt=0, allow_inf_nan=False)
    num_cpus: float = Field(0, ge=0, allow_inf_nan=False)
    num_gpus: float = Field(0, ge=0, allow_inf_nan=False)


def split_keys(keys: Mapping[str, Any]) -> tuple[StoreSettings, dict[str, Any]]:
    """The store's settings, and the keys that are not its own; ValueError names a wrong one.

    A null address or model, which a config file has until it is filled in, counts as not given.
    """
    ours = {key: value for key, value in keys.items() if key in StoreSettings.model_fields}
    try:
        settings = StoreSettings(**ours)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{PREFIX}{first['loc'][0]}: {first['msg']} (found {first['input']!r}).") from None
    unset = {key for key in ("base_url", "model") if keys.get(key) is None}
    return settings, {key: value for key, value in keys.items() if key not in ours and key not in unset}


def refuse_gpus_unless(local: bool, settings: StoreSettings) -> None:
    """ValueError where actors that only send requests would take GPUs."""
    if settings.num_gpus and not local:
        raise ValueError(f"{PREFIX}num_gpus is for a model in the actors (kind=local): remove it.")


def refuse_server_keys(keys: Mapping[str, Any]) -> None:
    """ValueError where an address or a model is named beside kind=reward_model, which has its own."""
    for key in ("base_url", "model"):
        if key in keys:
            raise ValueError(f"{PREFIX}{key} comes from reward.reward_model where kind=reward_model: set it null.")


def shared(settings: Mapping[str, Any], shards: int) -> dict[str, Any]:
    """Keys of an endpoint for one of `shards` that ask it: each gets its part of what all together may ask for."""
    parts = dict(settings)
    for key in ("concurrency", "requests_per_minute", "tokens_per_minute"):
        if parts.get(key) is not None:
            parts[key] = max(parts[key] // shards, 1)
    return parts
