"""A tiny run: real data of our own making, a real tokenizer, and the words that name them."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verl_setpo.tasks.tiny_model import build_tokenizer

OUR_REWARD = (
    "reward.custom_reward_function.path=pkg://verl_setpo.tasks.rewards",
    "reward.custom_reward_function.name=compute_score",
)


def row_of(source, gold, index=0):
    """A row in verl's schema."""
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": "y=x^2+3x+7"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"index": index, "split": "train"},
    }


POLYNOMIALS = [row_of("polynomial", json.dumps({"a": 1, "b": b, "c": 7}), b) for b in range(40)]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder with a tokenizer and a config, which is all that is looked at without a worker."""
    folder = tmp_path_factory.mktemp("model")
    build_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return folder


@pytest.fixture
def run_words(model, tmp_path):
    """The words of a run on the given rows."""

    def make(rows, *words, name="train.parquet"):
        path = tmp_path / name
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [
            "+platform=cpu",
            f"data.train_files={path}",
            f"data.val_files={path}",
            f"actor_rollout_ref.model.path={model}",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
            "actor_rollout_ref.actor.ppo_mini_batch_size=4",
            "actor_rollout_ref.rollout.n=8",
            "data.train_batch_size=4",
            "data.max_response_length=24",
            *words,
        ]

    return make
