"""Real verl objects without processes that train: a config composed by Hydra, TransferQueue on Ray, verl's trainers.

Only what would load a model is left out: a trainer is made without its `_setup`, and rows are put into TransferQueue
in the form in which verl's agent loop puts them.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transfer_queue as tq
import verl.trainer.main_ppo
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

EOS = 1
MAX_RESPONSE = 6


@pytest.fixture(scope="session")
def queue(ray_logs):
    """A running TransferQueue."""
    config = compose_config()
    with open_dict(config):
        config.transfer_queue.enable = True
        config.transfer_queue.backend.SimpleStorage.num_data_storage_units = 1
    tq.init(config.transfer_queue)
    yield tq
    tq.close()


def compose_config(*overrides: str) -> DictConfig:
    """verl's own ppo_trainer config with overrides, as `python -m verl.trainer.main_ppo` composes it."""
    base = [
        "actor_rollout_ref.model.path=unused",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.n=4",
        f"data.max_response_length={MAX_RESPONSE}",
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[*base, *overrides])
    with open_dict(config):
        config.pop("hydra", None)
    return config


class Tokenizer:
    """Token i is the character chr(i); special tokens below 32 vanish."""

    eos_token_id = EOS
    pad_token_id = 0

    def decode(self, tokens, skip_special_tokens=True):
        return "".join(chr(int(t)) for t in tokens if int(t) >= 32)


def make_trainer(*overrides: str, **attributes: Any):
    """A trainer of the mode that the overrides compose to, initialised up to where verl would start workers."""
    config = compose_config(*overrides)
    cls = get_trainer_cls(config.trainer.v1.trainer_mode)
    trainer = cls.__new__(cls)

    if hasattr(cls, "_read_method"):
        trainer._read_method(config)
    trainer.config = config
    trainer.tokenizer = Tokenizer()
    trainer.global_steps = 1
    for name, value in attributes.items():
        setattr(trainer, name, value)
    return trainer


@dataclass
class Row:
    """One output of one session."""

    uid: str
    session: int = 0
    output: int = 0
    reward: float = 0.0
    text: str = "ab"
    pred: str | None = None
    eos: bool = True
    question: str = "What is 3 + 4?"
    extra: dict[str, Any] = field(default_factory=dict)
    """What else the reward function returned."""


@dataclass
class Computed:
    """What a trainer's `_compute_advantage` left in the queue."""

    batch: KVBatchMeta
    rows: list[Row | None]
    advantages: list[torch.Tensor]
    returns: list[torch.Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)

    def of(self, uid: str, session: int, output: int = 0) -> float:
        """The advantage of a row, the same for all its tokens."""
        for row, advantage in zip(self.rows, self.advantages, strict=True):
            if row is not None and (row.uid, row.session, row.output) == (uid, session, output):
                assert torch.equal(advantage, advantage[:1].expand_as(advantage))
                return advantage[0].item()
        raise KeyError((uid, session, output))

    def group(self, uid: str) -> list[float]:
        sessions = sorted({row.session for row in self.rows if row is not None and row.uid == uid})
        return [
            self.of(uid, session, max(r.output for r in self.rows if r and r.uid == uid and r.session == session))
            for session in sessions
        ]


def put_rows(rows: list[Row], pad_to: int = 1) -> tuple[KVBatchMeta, list[Row | None]]:
    """Put rows into TransferQueue as verl's agent loop does, and pad the batch with verl's own code."""
    partition = f"train-{uuid.uuid4().hex[:8]}"
    keys, fields, tags = [], [], []
    for row in rows:
        tokens = [ord(c) for c in row.text] + ([EOS] if row.eos else [])
        response = torch.tensor(tokens, dtype=torch.int64)
        prompt = torch.tensor([65, 66], dtype=torch.int64)
        scores = torch.zeros(len(tokens), dtype=torch.float32)
        scores[-1] = row.reward
        log_probs = torch.linspace(-1, -0.1, len(tokens))
        extra = {"acc": float(row.reward > 0.5), **row.extra}
        if row.pred is not None:
            extra["pred"] = row.pred
        keys.append(f"{row.uid}_{row.session}_{row.output}")
        fields.append(
            {
                "uid": row.uid,
                "session_id": row.session,
                "prompts": prompt,
                "responses": response,
                "input_ids": torch.cat([prompt, response]),
                "position_ids": torch.arange(len(prompt) + len(response)),
                "response_mask": torch.ones(len(tokens), dtype=torch.int64),
                "loss_mask": torch.ones(len(tokens), dtype=torch.int64),
                "rm_scores": scores,
                "rollout_log_probs": log_probs,
                "old_log_probs": log_probs,
                "extra_fields": {"reward_extra_info": extra},
                "extra_info": {"index": 7},
                "raw_prompt": [{"role": "user", "content": row.question}],
                "num_turns": 2,
            }
        )
        tags.append({"status": "success", "prompt_len": 2, "response_len": len(tokens), "seq_len": 2 + len(tokens)})
    tq.kv_batch_put(keys=keys, partition_id=partition, fields=list_of_dict_to_tensordict(fields), tags=tags)
    batch = upsample_batch_to_divisible_size(
        KVBatchMeta(partition_id=partition, keys=keys, tags=tags), pad_to, eos_token_id=EOS
    )
    if len(batch) > len(rows):
        pads = batch.keys[len(rows) :]
        tq.kv_batch_put(
            keys=pads,
            partition_id=partition,
            fields=list_of_dict_to_tensordict([{"old_log_probs": torch.zeros(1)} for _ in pads]),
        )
    return batch, [*rows, *[None] * (len(batch) - len(rows))]


def compute(trainer, rows: list[Row], pad_to: int = 1) -> Computed:
    """Run the trainer's real `_compute_advantage` on rows in the queue and read the result back."""
    batch, padded = put_rows(rows, pad_to)
    metrics: dict[str, Any] = {}
    trainer._compute_advantage(batch, metrics)
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["advantages", "returns"])
    result = Computed(batch, padded, list(data["advantages"].unbind()), list(data["returns"].unbind()), metrics)
    tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
    return result


__all__ = ["OmegaConf", "Row", "compose_config", "compute", "make_trainer", "verl"]
