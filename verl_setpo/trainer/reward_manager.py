"""The reward manager `set_rl`: any inner manager's reward, and an early start for the group's signal."""

from __future__ import annotations

import logging
from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from verl_setpo.signals import Rollout, Run, build_signal, question_of
from verl_setpo.signals.answer import find_answer
from verl_setpo.trainer.config_check import inner_manager_class
from verl_setpo.trainer.settings import read_settings

logger = logging.getLogger(__name__)

GROUP_SIZE = "set_rl_rollouts"
"""Column that our trainers give their training prompts: how many rollouts each will have."""


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
        run = self.settings.run
        if run is not None:  # None outside of our trainers
            self.signal.bind(Run(run.name, run.nodes))
        self.settle = _settles(config)

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
        group_size = last.non_tensor_batch.get(GROUP_SIZE)
        if group_size is None:
            return result  # of a validation prompt, whose diversity nobody asks for
        session = last.non_tensor_batch.get("session_id")
        rollout = Rollout(
            uid=str(last.non_tensor_batch.get("uid")),
            session=-1 if session is None else int(session),
            token_ids=tokens,
            answer=str(extra["pred"]),
            text=text,
            question=question_of(last.non_tensor_batch.get("raw_prompt")),
            group_size=int(group_size),
            reward_extra_info=extra,
        )
        try:
            await self.signal.submit(rollout, self.settle)
        except Exception as error:
            # The trainer sends again what is missing, and counts it.
            logger.warning(
                "verl_setpo: the signal %s did not take a rollout (%s: %s)",
                self.settings.signal.name,
                type(error).__name__,
                error,
            )
        return result


def _settles(config: Any) -> bool:
    """Whether a rollout is finished only when the work that it starts is done.

    Under the asynchronous trainers that keeps its prompt out of the batch until its signal is there, while others
    generate on; a synchronous one would wait with nothing else to do. A colocated reward model sleeps afterwards.
    """
    colocated = config.reward.reward_model.enable and not config.reward.reward_model.enable_resource_pool
    return colocated or config.trainer.v1.trainer_mode not in ("sync", "set_sync")
