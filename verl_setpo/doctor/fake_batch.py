"""Rollouts of a run's shape that nobody generated, and a queue that holds them in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_setpo.set_rl import cosine_kernel
from verl_setpo.signals import Rollout, Signal, SignalBatch

MAX_TOKENS = 2**18
"""Response tokens of the batch, all together: a larger one is tried with shorter responses, since advantages do not
depend on the length, and memory does."""
STRATEGIES = 4
_NOISE = 0.2
_WIDTH = 64


@dataclass(frozen=True)
class Shape:
    """prompts x rollouts, of at most `length` tokens each; `asked` is the run's own length."""

    prompts: int
    rollouts: int
    length: int
    asked: int

    @classmethod
    def of(cls, config: DictConfig) -> Shape:
        """The run's shape, its responses shortened to MAX_TOKENS in all."""
        prompts, rollouts = int(config.data.train_batch_size), int(config.actor_rollout_ref.rollout.n)
        asked = int(config.data.max_response_length)
        return cls(prompts, rollouts, max(min(asked, MAX_TOKENS // (prompts * rollouts)), 2), asked)

    def __str__(self) -> str:
        cut = "" if self.length >= self.asked else f" (of {self.asked:,})"
        return f"{self.prompts} x {self.rollouts} responses of up to {self.length:,} tokens{cut}"


class LocalQueue:
    """What the step of advantages calls of TransferQueue, for the one batch that it holds."""

    def __init__(self, keys: Sequence[str], fields: TensorDict) -> None:
        self.batch = KVBatchMeta(partition_id="doctor", keys=list(keys), tags=[{} for _ in keys])
        self.fields = fields

    def kv_batch_get(self, keys: Sequence[str], partition_id: str, select_fields: Sequence[str]) -> TensorDict:
        """Those of the fields that are there, as the real one does."""
        self._check(keys)
        return self.fields.select(*select_fields, strict=False)

    def kv_batch_put(self, keys: Sequence[str], partition_id: str, fields: TensorDict) -> KVBatchMeta:
        """Add fields, or replace them."""
        self._check(keys)
        self.fields = self.fields.copy().update(fields)
        return self.batch

    def _check(self, keys: Sequence[str]) -> None:
        if list(keys) != self.batch.keys:
            raise KeyError("the queue of a dry run has the rows of one batch, in its order")


def make_queue(shape: Shape, rewards: tuple[float, float], field: str, generator: torch.Generator) -> LocalQueue:
    """A batch in the form in which verl's agent loop leaves it: each prompt with a difficulty of its own, responses of
    1 token to the full length in one of STRATEGIES wordings, lowest or highest reward, and log probs.

    Args:
        field: under which the reward function returns the answer, which here numbers the wording.
    """
    keys, rows = [], []
    for prompt in range(shape.prompts):
        easy = float(torch.rand((), generator=generator))
        wording_ST = torch.randint(32, 30_000, (STRATEGIES, shape.length), generator=generator)
        for session in range(shape.rollouts):
            strategy = int(torch.randint(STRATEGIES, (), generator=generator))
            length = int(torch.randint(max(shape.length // 2, 1), shape.length + 1, (), generator=generator))
            reward = rewards[int(torch.rand((), generator=generator) < easy)]
            noise_T = torch.randint(32, 30_000, (length,), generator=generator)
            other_T = torch.rand(length, generator=generator) < _NOISE
            tokens = torch.where(other_T, noise_T, wording_ST[strategy, :length])
            keys.append(f"prompt{prompt}_{session}_0")
            rows.append(_row(tokens, reward, {field: str(strategy + 1), "pred": str(strategy + 1)}, prompt, generator))
    return LocalQueue(keys, list_of_dict_to_tensordict(rows))


def _row(
    tokens: torch.Tensor, reward: float, said: dict[str, Any], prompt: int, generator: torch.Generator
) -> dict[str, Any]:
    scores = torch.zeros(len(tokens))
    scores[-1] = reward
    log_probs = -torch.rand(len(tokens), generator=generator)
    return {
        "uid": f"prompt{prompt}",
        "responses": tokens,
        "response_mask": torch.ones_like(tokens),
        "rm_scores": scores,
        "rollout_log_probs": log_probs,
        "old_log_probs": log_probs,
        "ref_log_prob": log_probs,
        "values": torch.zeros(len(tokens)),
        "extra_fields": {"reward_extra_info": said},
        "extra_info": {"index": prompt},
        "raw_prompt": [{"role": "user", "content": f"Question {prompt}?"}],
    }


class RandomClusters(Signal):
    """Stands for a judge: each rollout in the cluster of its made-up strategy."""

    provides = "clusters"

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        return SignalBatch(clusters_PN=torch.tensor([[int(rollout.answer) - 1 for rollout in g] for g in groups]))


class RandomKernel(Signal):
    """Stands for an embedder: random vectors around one for each made-up strategy."""

    provides = "kernel"

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        clusters_PN = RandomClusters().collect(groups).clusters_PN
        assert clusters_PN is not None
        centre_PSD = torch.randn(len(groups), STRATEGIES, _WIDTH, generator=self._generator)
        around_PND = torch.randn(*clusters_PN.shape, _WIDTH, generator=self._generator)
        own_PND = centre_PSD.gather(1, clusters_PN[:, :, None].expand(-1, -1, _WIDTH))
        return SignalBatch(kernel_PNN=cosine_kernel(own_PND + 0.5 * around_PND))
