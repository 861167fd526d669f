"""The CPU recipe, run as a user runs it: real verl, FSDP2, vLLM, Ray and TransferQueue train a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.signals.embedding.models import MINILM
from verl_setpo.set_rl import marginal_set_advantage

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = REPOSITORY / "recipes" / "cpu" / "run_tiny_fsdp.sh"
LIMIT_SECONDS = 1500
COMPACT = "{backend:xgrammar,disable_any_whitespace:true}"
"""For the server of a judge: an untrained model that may write blanks writes nothing else."""


@dataclass
class Run:
    """A finished run: its metrics by step, and its folder."""

    metrics: dict[int, dict[str, float]]
    folder: Path
    log: str


def train(inputs: Path, folder: Path, method: str, steps: int, *overrides: str, signal_name: str = "answer") -> Run:
    """Run the recipe in a session of its own, so that whatever it leaves behind can be ended."""
    environment = {
        **os.environ,
        "METHOD": method,
        "SIGNAL": signal_name,
        "DATA_DIR": str(inputs / "data"),
        "MODEL_PATH": str(inputs / "model"),
        "RUN_DIR": str(folder),
        "STEPS": str(steps),
        "TRAIN_BATCH_SIZE": "8",
        "VAL_N": "4",
        "TEST_FREQ": str(steps),
        "PYTHON": sys.executable,
    }
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "train.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [str(RECIPE), *overrides],
            env=environment,
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=LIMIT_SECONDS)
        finally:
            subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)
    text = log.read_text(errors="replace")
    assert status == 0, text[-6000:]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Run({line["step"]: line["data"] for line in lines}, folder, text)


@pytest.mark.slow
def test_poly_epo_trains_in_sync_mode_with_a_judge_on_verls_server_and_vllm_follows_the_trainer(
    inputs, tmp_path, judge_model
):
    log_dir = tmp_path / "rollouts"
    judge = [
        "algorithm.set_rl.signal.max_prompt_tokens=8192",
        # An untrained model fills what it may, and says the same of all unless it draws.
        "algorithm.set_rl.signal.max_strategy_chars=16",
        "algorithm.set_rl.signal.temperature=1",
        f"reward.reward_model.model_path={judge_model}",
        "reward.reward_model.rollout.max_model_len=16384",
        f"+reward.reward_model.rollout.engine_kwargs.vllm.structured_outputs_config={COMPACT}",
        "ray_kwargs.ray_init.num_gpus=2",  # a pool of its own
    ]
    overrides = [f"algorithm.set_rl.rollout_log={log_dir}", *judge]
    run = train(inputs, tmp_path / "run", "poly_epo", 6, *overrides, signal_name="judge_reward_model")

    steps = [run.metrics[step] for step in range(1, 7)]
    # The weights move, and vLLM's token probabilities stay those of the trainer, to rounding: 2e-7 to 4e-7 on average.
    # The greatest difference has a long tail (up to 4e-5 in 27,800 steps), so the mean tells a missed layer: 6e-3.
    assert sum(step["actor/grad_norm"] > 0 for step in steps) >= 4
    assert max(step["training/rollout_probs_diff_mean"] for step in steps) < 1e-6
    assert max(step["training/rollout_probs_diff_max"] for step in steps) < 1e-3  # no single token is off either
    assert all(0 <= step["set_rl/credit_share"] <= 1 for step in steps)
    # One call a prompt, and another for an answer that does not hold; none for the prompts of validation.
    for step in steps:
        assert step["set_rl/signal_failed_groups"] == 0
        assert step["set_rl/judge/groups"] == 8
        assert step["set_rl/judge/failed_calls"] == step["set_rl/judge/sent_again"] == 0
        assert step["set_rl/judge/calls"] * step["set_rl/judge/parse_rate"] == pytest.approx(8)
    assert all(step["set_rl/judge/completion_tokens"] > 8 * 8 for step in steps)
    # The reward is the function's, not that of the model that verl takes for a reward model.
    assert all(0 < step["critic/score/mean"] < 1 for step in steps)

    # What was trained on is what the mathematics says of the logged rewards and clusters.
    rows = [json.loads(line) for line in (log_dir / "3.jsonl").read_text().splitlines()]
    assert len(rows) == 8 * 8
    for uid in {row["uid"] for row in rows}:
        group = [row for row in rows if row["uid"] == uid]
        expected = marginal_set_advantage(
            torch.tensor([[row["reward"] for row in group]]),
            torch.tensor([[row["cluster"] for row in group]]),
            set_size=4,
        )
        assert [row["advantage"] for row in group] == pytest.approx(expected[0].tolist(), abs=2e-6)

    # verl's own validation left the samples that `verl-setpo report` reads.
    samples = [json.loads(line) for line in (run.folder / "validation" / "6.jsonl").read_text().splitlines()]
    assert len(samples) == 8 * 4
    assert {"input", "output", "pred", "acc"} <= set(samples[0])


@pytest.mark.slow
def test_set_loo_trains_in_colocate_async_mode_with_a_local_embedder_and_a_reference_model_and_resumes(
    inputs, tmp_path
):
    overrides = [
        "trainer.v1.trainer_mode=set_colocate_async",
        f"algorithm.set_rl.signal.model={MINILM}",
        "algorithm.set_rl.signal.max_tokens=null",
        "algorithm.set_rl.signal.num_gpus=0.1",
        "actor_rollout_ref.actor.use_kl_loss=True",
        "actor_rollout_ref.actor.kl_loss_coef=0.001",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=64",
        "trainer.save_freq=3",
        "trainer.resume_mode=auto",
        "trainer.val_before_train=False",
    ]
    first = train(inputs, tmp_path / "run", "set_loo", 3, *overrides, signal_name="embedding_local")
    assert all(first.metrics[step]["set_rl/credit/max"] > 0 for step in (1, 2, 3))
    assert "actor/kl_loss" in first.metrics[3]
    # A prompt joins a batch when its signal is there; prompts of the next batch are held.
    assert all(first.metrics[step]["set_rl/embedding/ready"] == 1 for step in (1, 2, 3))
    assert first.metrics[1]["set_rl/embedding/held_groups"] > 0
    assert "verl_setpo: set_loo on base estimator grpo, signal embedding" in first.log

    resumed = train(inputs, tmp_path / "run", "set_loo", 5, *overrides, signal_name="embedding_local")
    assert sorted(resumed.metrics) == [4, 5]
    assert resumed.metrics[5]["actor/grad_norm"] > 0


@pytest.mark.slow
def test_set_loo_trains_with_an_embedder_on_verls_server_beside_the_trainer(inputs, tmp_path):
    embedder = [
        f"algorithm.set_rl.signal.tokenizer={MINILM}",
        "algorithm.set_rl.signal.max_tokens=256",
        f"reward.reward_model.model_path={MINILM}",
        "reward.reward_model.rollout.max_model_len=256",
        "reward.reward_model.enable_resource_pool=False",
    ]
    overrides = [*embedder, "trainer.val_before_train=False"]
    run = train(inputs, tmp_path / "run", "set_loo", 2, *overrides, signal_name="embedding_reward_model")
    for step in (1, 2):
        metrics = run.metrics[step]
        assert metrics["set_rl/embedding/groups"] == 8
        assert metrics["set_rl/embedding/calls"] > 0
        assert metrics["set_rl/embedding/failed_calls"] == metrics["set_rl/embedding/sent_again"] == 0
        assert 0 < metrics["critic/score/mean"] < 1
        # Before the model sleeps, where it does.
        assert metrics["set_rl/embedding/ready"] == 1
        assert metrics["set_rl/credit/max"] > 0
    assert run.metrics[2]["actor/grad_norm"] > 0


def test_sessions_are_ended_by_id_only():
    """The helper above must never kill by name: the session of a fresh process is that process's id."""
    process = subprocess.Popen(["sleep", "30"], start_new_session=True)
    subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=True)
    assert process.wait(timeout=5) == -signal.SIGKILL
