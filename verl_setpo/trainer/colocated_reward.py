"""Rewards by a reward function while verl's reward model shares the trainer's GPUs.

Where `reward.reward_model` has no resource pool of its own, verl computes rewards after sampling, with the model awake,
and hands a reward worker a rollout's prompt and response only. That is enough for a model that gives the reward. Where
the model serves a judge or an embedder, the reward comes from a function, which needs the other columns too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl import DataProto
from verl.utils.tensordict_utils import assign_non_tensor_stack

from verl_setpo.trainer.groups import Groups
from verl_setpo.trainer.reward_manager import GROUP_SIZE

_COLUMNS = ("raw_prompt", "data_source", "reward_model", "extra_info", "extra_fields")


def compute_rewards(batch: KVBatchMeta, compute: Callable[[DataProto], DataProto], pad_token_id: int) -> KVBatchMeta:
    """Give every row of `batch` its reward, in the queue, where an agent loop would have put it.

    Args:
        compute: verl's `RewardLoopManager.compute_rm_score`.
    """
    data = tq.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=["prompts", "responses", *_COLUMNS]
    )
    lengths = {name: data[name].offsets().diff() for name in ("prompts", "responses")}
    padded = {name: data[name].to_padded_tensor(padding=pad_token_id) for name in lengths}
    mask = torch.cat([_mask(lengths[name], padded[name].shape[1]) for name in lengths], dim=1)
    columns = {name: list(data[name]) for name in _COLUMNS if name in data}
    columns |= _identity(batch)
    scored = compute(
        DataProto(
            batch=TensorDict({**padded, "attention_mask": mask}, batch_size=len(batch)),
            non_tensor_batch={name: _objects(values) for name, values in columns.items()},
        )
    )
    scores = [scored.batch["rm_scores"][row, : int(length)] for row, length in enumerate(lengths["responses"])]
    fields = TensorDict({"rm_scores": torch.nested.as_nested_tensor(scores, layout=torch.jagged)}, len(batch))
    names = scored.meta_info.get("reward_extra_keys", [])
    extra_fields = columns.get("extra_fields") or [{}] * len(batch)
    infos = [{name: scored.non_tensor_batch[name][row] for name in names} for row in range(len(batch))]
    assign_non_tensor_stack(
        fields,
        "extra_fields",
        [{**extra, "reward_extra_info": info} for extra, info in zip(extra_fields, infos, strict=True)],
    )
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
    return batch


def _identity(batch: KVBatchMeta) -> dict[str, list[Any]]:
    """Each row's prompt, session and, where it is a session's last output in training, its group's size."""
    groups = Groups.of(batch.keys, batch.tags)
    size = {
        row: len(members) if batch.partition_id == "train" else None for members in groups.members() for row in members
    }
    parts = [key.rsplit("_", 2) for key in batch.keys]
    return {
        "uid": [part[0] for part in parts],
        "session_id": [int(part[1]) for part in parts],
        GROUP_SIZE: [size.get(row) for row in range(len(batch.keys))],
    }


def _mask(lengths: torch.Tensor, width: int) -> torch.Tensor:
    return (torch.arange(width) < lengths[:, None]).long()


def _objects(values: list[Any]) -> np.ndarray:
    """An array of the values as they are, also where they are lists of one length."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
