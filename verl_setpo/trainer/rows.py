"""The rollouts of a batch as the set estimators need them, read from TransferQueue."""

from __future__ import annotations

from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from verl_setpo.signals import Rollout, question_of
from verl_setpo.signals.answer import find_answer

GRADER_FAILED = "grader_failed"
"""The key under which a reward function says that it could not grade a response, and gave it 0."""


class Rows:
    """What the set estimators need of the rollouts of one batch, beside what verl hands them: lists of length B.

    values_BT: the critic's, padded; None where they were not asked for.
    """

    def __init__(self, data: TensorDict) -> None:
        self.responses = list(data["responses"].unbind())
        self.extra_fields = list(data["extra_fields"]) if "extra_fields" in data else [{}] * len(self.responses)
        self.extra_info = list(data["extra_info"]) if "extra_info" in data else [{}] * len(self.responses)
        self.prompts = list(data["raw_prompt"]) if "raw_prompt" in data else [None] * len(self.responses)
        self.values_BT = data["values"].to_padded_tensor(0.0) if "values" in data else None
        self.answers: dict[int, str] = {}

    @classmethod
    def read(cls, batch: KVBatchMeta, *, with_prompt: bool, with_log: bool, with_values: bool) -> Rows:
        """Read no more than is needed, since a step waits.

        with_prompt: for questions. with_log: for log_extras. with_values: for a base estimator with a critic.
        """
        fields = ["responses", "extra_fields"]
        fields += ["raw_prompt"] * with_prompt + ["extra_info"] * with_log + ["values"] * with_values
        return cls(tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields))

    def rollout(self, row: int, uid: str, session: int, group_size: int, tokenizer: Any) -> Rollout:
        tokens = self.responses[row]

        def text() -> str:
            return tokenizer.decode(tokens, skip_special_tokens=True)

        info = self.extra_fields[row].get("reward_extra_info") or {}
        answer = info.get("pred")
        # The reward function's own canonical answer, else what the response marks as its answer.
        self.answers[row] = find_answer(text()) if answer is None else str(answer)
        return Rollout(
            uid=uid,
            session=session,
            token_ids=tokens,
            answer=self.answers[row],
            text=text,
            question=question_of(self.prompts[row]),
            group_size=group_size,
            reward_extra_info=info,
        )

    def reward_says(self, row: int, field: str) -> Any:
        """What the reward function returned under `field`, beside the score; None where it did not."""
        return (self.extra_fields[row].get("reward_extra_info") or {}).get(field)

    def log_extras(self, keys: list[str], max_length: int, eos_token_id: int) -> list[dict[str, Any]]:
        extras: list[dict[str, Any]] = []
        for row, (key, tokens) in enumerate(zip(keys, self.responses, strict=True)):
            info = self.extra_info[row]
            extras.append(
                {
                    "key": key,
                    "prompt_index": info.get("index") if isinstance(info, dict) else None,
                    "answer": self.answers.get(row),
                    "length": len(tokens),
                    # verl keeps no finish reason: a response that fills the limit and does not end was cut.
                    "truncated": len(tokens) >= max_length and int(tokens[-1]) != eos_token_id,
                    "grader_failed": bool(self.reward_says(row, GRADER_FAILED)),
                }
            )
        return extras


def first_token(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """(B,) each row's value at its first trained token; 0 where no token is trained."""
    first_B = mask_BT.argmax(-1, keepdim=True)
    return torch.where(mask_BT.any(-1), values_BT.gather(-1, first_B)[:, 0], 0.0)
