"""Embeddings by the server that verl itself starts for `reward.reward_model`, in both of verl's ways."""

from __future__ import annotations

import pytest

from tests.end_to_end.test_training_on_cpu import train
from tests.signals.embedding.models import MINILM

SIGNAL = (
    f"algorithm.set_rl.signal.tokenizer={MINILM}",
    "algorithm.set_rl.signal.max_tokens=256",
    f"reward.reward_model.model_path={MINILM}",
    "reward.reward_model.rollout.max_model_len=256",
    "trainer.val_before_train=False",
)
WAYS = {
    "in a pool of its own": ("ray_kwargs.ray_init.num_gpus=2",),
    "beside the trainer": ("reward.reward_model.enable_resource_pool=False",),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_verls_reward_model_server_embeds_the_rollouts(inputs, tmp_path, way):
    run = train(inputs, tmp_path / "run", "set_loo", 2, *SIGNAL, *WAYS[way], signal_name="embedding_reward_model")
    for step in (1, 2):
        metrics = run.metrics[step]
        assert metrics["set_rl/embedding/groups"] == 8
        assert metrics["set_rl/embedding/calls"] > 0
        assert metrics["set_rl/embedding/failed_calls"] == metrics["set_rl/embedding/sent_again"] == 0
        # Before the model sleeps, where it does.
        assert metrics["set_rl/embedding/ready"] == 1
        # The reward is the function's, not the embedding model's.
        assert 0 < metrics["critic/score/mean"] < 1
        assert metrics["set_rl/credit/max"] > 0
    assert run.metrics[2]["actor/grad_norm"] > 0
