"""The reward manager `set_rl`: any inner manager's reward, and an early start for the group's signal."""

from __future__ import annotations

import logging
from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from verl_setpo.signals import Rollout, build_signal
from verl_setpo.signals.answer import find_answer
from verl_setpo.trainer.settings import inner_manager_class, read_settings

logger = logging.getLogger(__name__)


@register("set_rl")
class SetRewardManager(RewardManagerBase):
    """Takes the reward from the manager that `algorithm.set_rl.reward_manager` names, notes the final answer as
    "pred" where the reward function did not, and submits the rollout to the signal while others still generate."""

    tokenizer: Any

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **kwargs: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        self.settings = read_settings(config.algorithm)
        self.inner = inner_manager_class(self.settings.reward_manager)(config, tokenizer, compute_score, **kwargs)
        self.signal = build_signal(self.settings.signal.name, self.settings.signal_keys)

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """The inner manager's result. A signal that fails to take the rollout never costs the reward."""
        result = await self.inner.run_single(data)
        last = data[-1:][0]  # of a multi-output session the last output counts
        responses = last.batch["responses"]
        length = int(last.batch["attention_mask"][-responses.shape[-1] :].sum())
        tokens = responses[:length]

        def text() -> str:
            return self.tokenizer.decode(tokens, skip_special_tokens=True)

        extra = result.setdefault("reward_extra_info", {})
        if extra.get("pred") is None:
            extra["pred"] = await self.loop.run_in_executor(None, lambda: find_answer(text()))
        session = last.non_tensor_batch.get("session_id")
        rollout = Rollout(
            uid=str(last.non_tensor_batch.get("uid")),
            session=-1 if session is None else int(session),
            token_ids=tokens,
            answer=str(extra["pred"]),
            text=text,
        )
        try:
            await self.signal.submit(rollout)
        except Exception:
            logger.exception("verl_setpo: the signal %s did not take a rollout", self.settings.signal.name)
        return result
