"""Files, models and GPUs that a run names are looked for before Ray starts."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, open_dict

from verl_setpo.trainer.inputs_check import check_inputs
from verl_setpo.trainer.start_check import StartCheck


@pytest.fixture(autouse=True)
def no_ray_and_no_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=list(overrides))
    with open_dict(config):
        config.pop("hydra", None)
    return config


def said_of(*overrides: str) -> str:
    with pytest.raises(ValueError, match=r".") as found:
        check_inputs(composed(*overrides))
    assert "\n" not in str(found.value)
    return str(found.value)


def test_inputs_that_are_there_pass(there):
    check_inputs(composed(*there))


@pytest.mark.parametrize("key", ["train_files", "val_files"])
@pytest.mark.parametrize("form", ["{}", "['{}']"])
def test_a_missing_file_is_named_with_the_command_that_writes_it(there, tmp_path, key, form):
    missing = f"{tmp_path}/gsm8k/train.parquet"
    said = said_of(*there, f"data.{key}={form.format(missing)}")
    assert said.startswith(f"data.{key}: there is no file {missing}: write it with `verl-setpo data NAME --out FOLDER`")


def test_files_elsewhere_are_left_to_verl(there):
    check_inputs(composed(*there, "data.train_files=hdfs://host/train.parquet"))


def test_a_missing_folder_of_a_model_is_named(there):
    said = said_of(*there, "actor_rollout_ref.model.path=/models/none")
    assert said.startswith("actor_rollout_ref.model.path: there is no folder /models/none")


def test_a_folder_without_a_model_is_named(there, tmp_path):
    said = said_of(*there, f"actor_rollout_ref.model.path={tmp_path}")
    assert "has no config.json" in said


def test_a_model_that_the_hub_cannot_give_is_named(there):
    said = said_of(*there, "actor_rollout_ref.model.path=Qwen/Qwen-none")
    assert said.startswith("actor_rollout_ref.model.path: Qwen/Qwen-none cannot be had from the hub")
    assert "hf download Qwen/Qwen-none" in said


def test_the_models_of_signals_are_looked_for_too(there, tmp_path):
    method = [*there, "+set_rl=set_loo"]
    said = said_of(*method, "+set_rl/signal=embedding_local", "algorithm.set_rl.signal.model=/none")
    assert said.startswith("algorithm.set_rl.signal.model: there is no folder /none")
    said = said_of(*method, "+set_rl/signal=embedding", "algorithm.set_rl.signal.tokenizer=/none")
    assert said.startswith("algorithm.set_rl.signal.tokenizer: there is no folder /none")
    said = said_of(
        *method,
        "+set_rl/signal=embedding_reward_model",
        f"algorithm.set_rl.signal.tokenizer={tmp_path}/model",
        "reward.reward_model.model_path=/none",
    )
    assert said.startswith("reward.reward_model.model_path: there is no folder /none")


def test_too_few_gpus_are_counted_before_ray_starts(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    said = said_of(*there, "trainer.device=cuda", "trainer.n_gpus_per_node=8")
    assert said.startswith("trainer.n_gpus_per_node=8 asks for 8 GPUs, and this machine shows 2")
    assert "+platform=cpu" in said
    check_inputs(composed(*there, "trainer.device=cuda", "trainer.n_gpus_per_node=2"))


def test_gpus_of_pools_come_on_top(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    pool = [
        *there,
        "trainer.device=cuda",
        "trainer.n_gpus_per_node=2",
        "reward.reward_model.enable=True",
        "reward.reward_model.enable_resource_pool=True",
        "reward.reward_model.n_gpus_per_node=1",
        "reward.reward_model.nnodes=1",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=2",
    ]
    said = said_of(*pool)
    assert said.startswith(
        "trainer.n_gpus_per_node=2 and reward.reward_model.n_gpus_per_node=1 and "
        "actor_rollout_ref.rollout.n_gpus_per_node=2 ask for 5 GPUs, and this machine shows 4"
    )


def test_several_nodes_need_a_ray_that_runs(there, monkeypatch, tmp_path):
    nodes = [*there, "trainer.device=cuda", "trainer.nnodes=2"]
    assert said_of(*nodes).startswith("trainer.nnodes=2 needs a Ray cluster, and none runs here")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")
    check_inputs(composed(*nodes))
    (tmp_path / "ray" / "ray_current_cluster").unlink()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    check_inputs(composed(*nodes))


def test_a_baseline_is_checked_too_and_nothing_else_of_it_changes(there, tmp_path):
    plain, off = composed(*there), composed(*there, "+set_rl=off")
    assert plain == off
    config = composed(*there, "+set_rl=off", "data.train_files=/none.parquet")
    with pytest.raises(SystemExit, match=r"verl_setpo: data.train_files: there is no file /none.parquet"):
        StartCheck().on_job_start(config)


def test_a_wrong_key_is_said_before_a_missing_file(there):
    config = composed(*there, "+set_rl=set_loo", "data.train_files=/none.parquet", "algorithm.set_rl.coef=-1")
    with pytest.raises(SystemExit, match=r"algorithm\.set_rl\.coef"):
        StartCheck().on_job_start(config)
