"""The reward manager `set_rl`: another manager's reward unchanged, a final answer noted, a rollout submitted."""

from __future__ import annotations

import asyncio
import logging
import pickle

import numpy as np
import pytest
import torch
from omegaconf import open_dict
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.reward_score import default_compute_score

from tests.trainer.conftest import Tokenizer, compose_config, make_trainer
from verl_setpo.signals import AnswerClusters, register_signal
from verl_setpo.trainer.reward_manager import SetRewardManager

GSM8K = "openai/gsm8k"


@register_signal("test_recorder")
class Recorder(AnswerClusters):
    """Keeps what it is given."""

    submitted: list

    async def submit(self, rollout, settle=False):
        self.settle = settle
        self.submitted = [*getattr(self, "submitted", []), rollout]


@register_signal("test_refuser")
class Refuser(AnswerClusters):
    """Its server is down."""

    async def submit(self, rollout, settle=False):
        raise ConnectionError("no route to the judge")


def outputs(*texts: str, truth: str = "7", source: str = GSM8K, pad: int = 3) -> DataProto:
    """The outputs of one session as verl's agent loop gives them to a reward worker: prompts of two tokens."""
    responses = [[ord(c) for c in text] for text in texts]
    width = max(map(len, responses)) + pad
    count = len(texts)
    return DataProto(
        batch=TensorDict(
            {
                "prompts": torch.full((count, 2), 65),
                "responses": torch.tensor([r + [0] * (width - len(r)) for r in responses]),
                "attention_mask": torch.tensor([[1, 1] + [1] * len(r) + [0] * (width - len(r)) for r in responses]),
            },
            batch_size=count,
        ),
        non_tensor_batch={
            "data_source": np.array([source] * count),
            "reward_model": np.array([{"ground_truth": truth}] * count),
            "extra_info": np.array([{"index": 3} for _ in range(count)]),
            "uid": np.array(["3f2a-11"] * count),
            "session_id": np.array([5] * count),
            "raw_prompt": np.array(
                [[{"role": "system", "content": "Solve."}, {"role": "user", "content": "3+4?"}]] * count
            ),
            "set_rl_rollouts": np.array([8] * count),
        },
    )


def manager_of(*overrides: str, compute_score=default_compute_score) -> SetRewardManager:
    config = compose_config("+set_rl=set_loo", *overrides)
    return SetRewardManager(config, Tokenizer(), compute_score)


def run(manager, data):
    return manager.loop.run_until_complete(manager.run_single(data))


@pytest.mark.parametrize(("text", "reward"), [("so #### 7", 1.0), ("so #### 8", 0.0), ("so seven", 0.0)])
def test_the_reward_is_that_of_the_inner_manager(text, reward):
    config = compose_config("+set_rl=set_loo")
    naive = compose_config("reward.reward_manager.name=naive")
    ours, plain = (load_reward_manager(c, Tokenizer()) for c in (config, naive))
    assert isinstance(ours, SetRewardManager)
    result, expected = run(ours, outputs(text)), run(plain, outputs(text))
    assert result["reward_score"] == expected["reward_score"] == reward
    assert result["reward_extra_info"] | expected["reward_extra_info"] == result["reward_extra_info"]


@pytest.mark.parametrize(
    ("text", "pred"),
    [("so #### 7", "7"), (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"), ("<answer>3 + 4</answer>", "3 + 4"), ("?", "")],
)
def test_pred_is_filled_where_the_reward_function_gives_none(text, pred):
    assert run(manager_of(), outputs(text))["reward_extra_info"]["pred"] == pred


def test_pred_of_the_reward_function_is_kept():
    def score(**kwargs):
        return {"score": 0.5, "pred": "1/2", "acc": 1}

    result = run(manager_of(compute_score=score), outputs("so #### 0.50"))
    assert result == {"reward_score": 0.5, "reward_extra_info": {"score": 0.5, "pred": "1/2", "acc": 1}}


def test_pred_that_is_none_is_filled():
    def score(**kwargs):
        return {"score": 0.5, "pred": None}

    assert run(manager_of(compute_score=score), outputs("#### 9"))["reward_extra_info"]["pred"] == "9"


def test_an_asynchronous_reward_function_works_inside():
    async def score(**kwargs):
        await asyncio.sleep(0)
        return 0.25

    assert run(manager_of(compute_score=score), outputs("#### 9"))["reward_score"] == 0.25


def test_a_reward_function_that_fails_fails_as_without_us():
    def score(**kwargs):
        raise ZeroDivisionError("in the reward function")

    with pytest.raises(ZeroDivisionError, match="in the reward function"):
        run(manager_of(compute_score=score), outputs("#### 9"))


def test_the_rollout_is_submitted_with_its_identity_and_only_its_own_tokens():
    manager = manager_of("algorithm.set_rl.signal.name=test_recorder")
    run(manager, outputs("so #### 7"))
    (rollout,) = manager.signal.submitted
    assert (rollout.uid, rollout.session, rollout.answer) == ("3f2a-11", 5, "7")
    assert rollout.token_ids.tolist() == [ord(c) for c in "so #### 7"]
    assert rollout.text() == "so #### 7"
    assert (rollout.question, rollout.group_size) == ("3+4?", 8)
    assert manager.signal.settle is False


@pytest.mark.parametrize("mode", ["set_colocate_async", "set_separate_async"])
def test_under_an_asynchronous_trainer_a_rollout_ends_with_its_signal(mode):
    manager = manager_of("algorithm.set_rl.signal.name=test_recorder", f"trainer.v1.trainer_mode={mode}")
    run(manager, outputs("so #### 7"))
    assert manager.signal.settle is True


def test_a_validation_rollout_is_not_submitted():
    manager = manager_of("algorithm.set_rl.signal.name=test_recorder")
    data = outputs("so #### 7")
    del data.non_tensor_batch["set_rl_rollouts"]
    assert run(manager, data)["reward_score"] == 1.0
    assert not hasattr(manager.signal, "submitted")


def test_of_several_outputs_the_last_one_is_judged():
    manager = manager_of("algorithm.set_rl.signal.name=test_recorder")
    result = run(manager, outputs("first #### 8", "#### 7"))
    (rollout,) = manager.signal.submitted
    assert result["reward_score"] == 1.0
    assert (result["reward_extra_info"]["pred"], rollout.answer, rollout.text()) == ("7", "7", "#### 7")


def test_an_empty_response_has_reward_and_no_answer():
    manager = manager_of("algorithm.set_rl.signal.name=test_recorder")
    result = run(manager, outputs(""))
    assert (result["reward_score"], result["reward_extra_info"]["pred"]) == (0.0, "")
    assert len(manager.signal.submitted[0].token_ids) == 0


def test_a_signal_that_does_not_take_the_rollout_costs_no_reward(caplog):
    with caplog.at_level(logging.WARNING):
        result = run(manager_of("algorithm.set_rl.signal.name=test_refuser"), outputs("#### 7"))
    assert result["reward_score"] == 1.0
    assert result["reward_extra_info"]["pred"] == "7"
    assert "the signal test_refuser did not take a rollout" in caplog.text
    assert "no route to the judge" in caplog.text


def test_dapo_inside_keeps_its_overlong_penalty():
    """Of a maximum of 10 tokens the last 4 are the buffer: 9 tokens exceed the expected 6 by 3, a penalty of 3/4."""
    recipe = (
        "reward.reward_manager.name=dapo",
        "+reward.reward_kwargs.max_resp_len=10",
        "+reward.reward_kwargs.overlong_buffer_cfg={enable: true, len: 4, penalty_factor: 1.0, log: true}",
    )
    config = make_trainer("algorithm.adv_estimator=grpo", *recipe, "+set_rl=set_loo").config
    result = run(load_reward_manager(config, Tokenizer()), outputs("so #### 7"))
    assert float(result["reward_score"]) == pytest.approx(1 - 3 / 4)
    assert result["reward_extra_info"]["overlong"]
    assert result["reward_extra_info"]["pred"] == "7"


def test_a_custom_inner_manager_by_its_registered_name():
    result = run(manager_of("algorithm.set_rl.reward_manager=dapo"), outputs("#### 7"))
    assert result["reward_score"] == 1.0


def test_set_rl_inside_set_rl_is_refused():
    with pytest.raises(ValueError, match=r"^algorithm\.set_rl\.reward_manager=set_rl wraps itself: name the inner one"):
        manager_of("algorithm.set_rl.reward_manager=set_rl")


def test_without_the_set_rl_keys_the_error_names_the_group_to_add():
    config = compose_config("reward.reward_manager.name=set_rl")
    with pytest.raises(ValueError, match=r"has no algorithm\.set_rl: add \+set_rl=set_loo"):
        SetRewardManager(config, Tokenizer(), default_compute_score)


def test_a_hostile_response_of_100_kb_has_a_reward_and_no_answer():
    result = run(manager_of(), outputs(r"\boxed{" * 14_000))
    assert (result["reward_score"], result["reward_extra_info"]["pred"]) == (0.0, "")


def test_the_settings_of_the_signal_reach_it():
    manager = manager_of("+algorithm.set_rl.signal.n=2")
    assert manager.signal.n == 2


def test_a_worker_takes_rollouts_without_a_session():
    """Validation batches and older agent loops may have no session id."""
    data = outputs("#### 7")
    del data.non_tensor_batch["session_id"]
    manager = manager_of("algorithm.set_rl.signal.name=test_recorder")
    assert run(manager, data)["reward_score"] == 1.0
    assert manager.signal.submitted[0].session == -1


def test_the_prepared_config_survives_the_way_to_a_worker():
    """Ray pickles the config; a worker then builds the manager from it."""
    config = make_trainer("reward.reward_manager.name=dapo", "+set_rl=set_loo").config
    with open_dict(config):
        config.algorithm.set_rl.signal.name = "answer"
    manager = load_reward_manager(pickle.loads(pickle.dumps(config)), Tokenizer())
    assert type(manager.inner).__name__ == "DAPORewardManager"
