"""What a run's own reward says of a sample of its data: an answer, no answer, and garbage."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager

from verl_setpo.doctor.check import Check, sentence
from verl_setpo.doctor.data_rows import BrokenData, CannotRead, own_reader, sample
from verl_setpo.doctor.group import ABANDONED
from verl_setpo.doctor.model_tokenizer import load_tokenizer
from verl_setpo.doctor.reward_rows import GARBAGE, objects, own_answers
from verl_setpo.signals import Run
from verl_setpo.trainer.config_check import Method, check_config
from verl_setpo.trainer.prepare import prepare_config
from verl_setpo.trainer.rows import GRADER_FAILED

LIMIT_S = 20.0
"""For all rows together: a reward that asks a model may take for ever."""
_BREAKS = "verl drops a prompt whose reward raises: correct or drop such rows, or mend the reward function."


@dataclass(frozen=True)
class Graded:
    """What the reward said of a row. own: the best of its own answers; blank, garbage: of a response without one.

    Each is a reward or, as a text, what was raised; own is None where no answer is known. failed: the grader could not
    grade the own answer.
    """

    at: str
    own: float | str | None
    blank: float | str
    garbage: float | str
    failed: bool = False

    @property
    def rewards(self) -> list[float]:
        return [said for said in (self.own, self.blank, self.garbage) if isinstance(said, float)]

    @property
    def raised(self) -> list[str]:
        return [said for said in (self.own, self.blank, self.garbage) if isinstance(said, str)]


def reward_checks(config: DictConfig, ours: bool, count: int) -> Iterator[Check]:
    """The reward manager as the run has it, on `count` rows of data.train_files."""
    if config.reward.reward_model.enable and config.reward.custom_reward_function.path is None:
        yield Check("rewards", "not done", "they come from reward.reward_model, which the run starts")
        return
    try:
        rows, total = sample(config, count)
    except CannotRead as error:
        yield Check("rewards", "not done", str(error))
        return
    except BrokenData as error:
        if own_reader(config) is not None:
            yield Check("rewards", "not done", str(error))
            return
        rows = []
    if not rows:
        yield Check("rewards", "not done", "the training data comes first")
        return
    config = copy.deepcopy(config)
    method = check_config(config) if ours else None
    if method is not None:
        prepare_config(config, method, Run("doctor"))
    try:
        tokenizer = load_tokenizer(config)
    except Exception as error:  # the hub, a broken folder: each raises its own
        yield Check("rewards", "not done", f"the model's tokenizer cannot be had: {sentence(error)}")
        return
    graded = _in_time(config, tokenizer, rows)
    if not graded:
        yield Check("rewards", "not done", f"none of {len(rows)} rows was graded in {LIMIT_S:g} s")
        return
    yield _judged(graded, total, method)


def _in_time(config: DictConfig, tokenizer: Any, rows: list[dict[str, Any]]) -> list[Graded]:
    """What was graded within LIMIT_S. A thread that is still at it is left behind."""
    graded: list[Graded] = []
    raised: list[BaseException] = []

    async def all_rows() -> None:
        # Made here, since a manager keeps the loop that it is made in.
        manager = load_reward_manager(config, tokenizer)
        for row in rows:
            graded.append(await _grade(manager, tokenizer, row))

    def work() -> None:
        try:
            asyncio.run(all_rows())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name=ABANDONED, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    if raised:
        raise raised[0]
    return list(graded)


async def _grade(manager: Any, tokenizer: Any, row: dict[str, Any]) -> Graded:
    async def ask(response: str) -> tuple[float | str, bool]:
        try:
            said = await manager.run_single(_item(tokenizer, row, response))
            return float(said["reward_score"]), bool((said.get("reward_extra_info") or {}).get(GRADER_FAILED))
        except Exception as error:  # people's own functions raise anything
            return sentence(error), False

    blank, _ = await ask("")
    garbage, _ = await ask(GARBAGE)
    own: float | str | None = None
    failed = False
    try:
        answers = own_answers(row)
    except ValueError as error:
        return Graded(row["at"], sentence(error), blank, garbage)
    for answer in answers:
        said, graderless = await ask(answer)
        failed |= graderless
        if not isinstance(own, float) or (isinstance(said, float) and said > own):
            own = said
        if isinstance(own, float) and own >= 1:
            break
    return Graded(row["at"], own, blank, garbage, failed and not (isinstance(own, float) and own > 0))


def _item(tokenizer: Any, row: dict[str, Any], response: str) -> DataProto:
    """One rollout as a reward worker gets it; without the column that asks for the signal's work."""
    tokens = [*tokenizer.encode(response, add_special_tokens=False), tokenizer.eos_token_id or 0]
    responses, prompts = torch.tensor([tokens]), torch.zeros(1, 1, dtype=torch.int64)
    mask = torch.ones(1, 1 + len(tokens), dtype=torch.int64)
    others = {name: objects([copy.deepcopy(value)]) for name, value in row.items() if name != "at"}
    others.setdefault("extra_info", objects([{}]))
    return DataProto(
        batch=TensorDict({"prompts": prompts, "responses": responses, "attention_mask": mask}, batch_size=1),
        non_tensor_batch={**others, "uid": objects(["doctor"]), "session_id": objects([0])},
    )


def _judged(graded: list[Graded], total: int, method: Method | None) -> Check:
    asked = f"{len(graded)} of {total:,} rows"
    for row in graded:
        if row.raised:
            count = sum(bool(other.raised) for other in graded)
            return Check("rewards", "fail", f"{asked}: {count} raise, {row.at}: {row.raised[0]}", _BREAKS)
    rewards = [reward for row in graded for reward in row.rewards]
    low, high = (-math.inf, math.inf)
    if method is not None and method.estimator != "set_loo":
        low, high = method.settings.reward_range
    odd = [reward for reward in rewards if not (math.isfinite(reward) and low <= reward <= high)]
    spread = f"{asked}, rewards from {min(rewards):g} to {max(rewards):g}"
    if odd:
        if math.isinf(low):
            return Check("rewards", "fail", f"{spread}: {odd[0]:g} is not finite", "Mend the reward function.")
        cure = "Set algorithm.set_rl.reward_range to the lowest and highest reward there is."
        return Check("rewards", "fail", f"{spread}: outside algorithm.set_rl.reward_range=[{low:g}, {high:g}]", cure)
    return _paid(graded, spread, method.settings.correct_threshold if method is not None else 0.5)


def _paid(graded: list[Graded], spread: str, threshold: float) -> Check:
    """Whether the right answer is paid and nothing else is."""

    def share(paid: list[Any]) -> str:
        return f"{sum(paid)} of {len(paid)}"

    known = [row for row in graded if row.own is not None]
    own, blank, garbage = (
        [isinstance(said, float) and said > threshold for said in asked]
        for asked in ([row.own for row in known], [row.blank for row in graded], [row.garbage for row in graded])
    )
    found = (
        f"{spread}; above {threshold:g} (correct): own ground truth {share(own)}, empty {share(blank)}, "
        f"garbage {share(garbage)}"
    )
    ungraded = next((row for row in graded if row.failed), None)
    if ungraded is not None:
        cure = "Correct or drop such rows; `verl-setpo doctor grader --data FILE` finds them all."
        return Check("rewards", "fail", f"{found}; {ungraded.at} cannot be graded", cure)
    if any(blank) or any(garbage):
        return Check("rewards", "note", found, "The reward pays for no answer: a policy will find that out.")
    if not all(own):
        at = known[own.index(False)].at
        cure = f"Look at {at}: is its ground truth an answer, and in which form does the reward function look for one?"
        return Check("rewards", "note", found, cure)
    return Check("rewards", "ok", found)
