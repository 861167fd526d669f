"""A judge and an embedder on the server that verl itself starts for `reward.reward_model`, in each of verl's ways."""

from __future__ import annotations

import pytest

from tests.end_to_end.test_training_on_cpu import Run, train
from tests.signals.embedding.models import MINILM

COMPACT = "{backend:xgrammar,disable_any_whitespace:true}"
EMBEDDER = (
    f"algorithm.set_rl.signal.tokenizer={MINILM}",
    "algorithm.set_rl.signal.max_tokens=256",
    f"reward.reward_model.model_path={MINILM}",
    "reward.reward_model.rollout.max_model_len=256",
)
JUDGE = (
    "algorithm.set_rl.signal.max_prompt_tokens=8192",
    # An untrained model fills what it may, and says the same of all unless it draws.
    "algorithm.set_rl.signal.max_strategy_chars=16",
    "algorithm.set_rl.signal.temperature=1",
    "reward.reward_model.rollout.max_model_len=16384",
    f"+reward.reward_model.rollout.engine_kwargs.vllm.structured_outputs_config={COMPACT}",
)


def check(run: Run, signal: str) -> None:
    for step in (1, 2):
        metrics = run.metrics[step]
        assert metrics[f"set_rl/{signal}/groups"] == 8
        assert metrics[f"set_rl/{signal}/calls"] > 0
        assert metrics[f"set_rl/{signal}/failed_calls"] == metrics[f"set_rl/{signal}/sent_again"] == 0
        # The reward is the function's, not that of the model that verl takes for a reward model.
        assert 0 < metrics["critic/score/mean"] < 1
    assert run.metrics[2]["actor/grad_norm"] > 0


@pytest.mark.slow
def test_verls_reward_model_server_judges_in_a_pool_of_its_own(inputs, tmp_path, judge_model):
    overrides = [*JUDGE, f"reward.reward_model.model_path={judge_model}", "ray_kwargs.ray_init.num_gpus=2"]
    overrides.append("trainer.val_before_train=False")
    run = train(inputs, tmp_path / "run", "poly_epo", 2, *overrides, signal_name="judge_reward_model")
    check(run, "judge")


@pytest.mark.slow
def test_verls_reward_model_server_embeds_beside_the_trainer(inputs, tmp_path):
    overrides = [*EMBEDDER, "reward.reward_model.enable_resource_pool=False", "trainer.val_before_train=False"]
    run = train(inputs, tmp_path / "run", "set_loo", 2, *overrides, signal_name="embedding_reward_model")
    check(run, "embedding")
    for step in (1, 2):
        # Before the model sleeps, where it does.
        assert run.metrics[step]["set_rl/embedding/ready"] == 1
        assert run.metrics[step]["set_rl/credit/max"] > 0
