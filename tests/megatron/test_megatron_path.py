"""Our methods on verl's Megatron backend, from the command line's config to the advantages.

All but the last test is verl and ours only: Megatron itself is not imported until verl starts its workers.
"""

from __future__ import annotations

import pytest
import torch
from hydra.utils import get_class
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.workers.config import McoreActorConfig, McoreCriticConfig, McoreEngineConfig

from tests.config.test_config_groups import each_group
from tests.trainer.batches import assert_same_bits, random_rows, set_rl_metrics
from tests.trainer.conftest import Tokenizer, compose_config, compute

ENGINE = "actor_rollout_ref.actor.megatron"
RECIPE = (
    "algorithm.adv_estimator=grpo",
    "actor_rollout_ref.rollout.n=8",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
    "trainer.n_gpus_per_node=8",
)
MEGATRON = (
    *RECIPE,
    "model_engine=megatron",
    f"{ENGINE}.tensor_model_parallel_size=2",
    f"{ENGINE}.pipeline_model_parallel_size=2",
)


def validate(config) -> None:
    """What verl's main does with a config before it starts Ray."""
    validate_config(config, need_reference_policy(config), need_critic(config))


def real_trainer(*overrides: str):
    """A trainer of verl's own constructor, up to where verl would start workers."""
    config = compose_config(*overrides)
    trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config)
    trainer.tokenizer, trainer.global_steps = Tokenizer(), 1
    return trainer


@each_group
def test_verl_accepts_the_config_and_its_loss_is_that_of_fsdp(group, capsys):
    """verl's main checks the config so before it starts Ray, and its workers build their loss from this dataclass."""
    config = compose_config(*MEGATRON, f"+set_rl={group}")
    validate(config)
    assert "All configuration checks passed" in capsys.readouterr().out
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert type(actor) is McoreActorConfig
    assert type(actor.engine) is McoreEngineConfig
    assert (actor.engine.tensor_model_parallel_size, actor.engine.pipeline_model_parallel_size) == (2, 2)

    fsdp = omega_conf_to_dataclass(compose_config(*RECIPE, f"+set_rl={group}").actor_rollout_ref.actor)
    for key in ("loss_agg_mode", "clip_ratio_low", "clip_ratio_high", "entropy_coeff", "use_kl_loss", "policy_loss"):
        assert actor.get(key) == fsdp.get(key), key


def test_the_checks_are_those_of_megatron():
    """Or the ones above would pass for FSDP's reasons."""
    config = compose_config(*MEGATRON, "+set_rl=poly_epo", f"{ENGINE}.tensor_model_parallel_size=3")
    with pytest.raises(AssertionError, match=r"n_gpus \(8\) must be divisible by model_parallel_size \(6\)"):
        validate(config)


@each_group
def test_the_advantages_are_those_of_fsdp_to_the_bit(queue, group):
    """Of verl's real trainer on a shuffled, ragged, padded batch; those of FSDP are tested against exact values."""
    rows = random_rows(seed=31, sizes=(8, 7, 5, 3), preds=["7", "8", "9", ""])
    words = (f"+set_rl={group}", "algorithm.set_rl.signal.name=answer")
    on_fsdp, on_megatron = (compute(real_trainer(*recipe, *words), rows, pad_to=8) for recipe in (RECIPE, MEGATRON))
    assert_same_bits(on_fsdp.advantages, on_megatron.advantages)
    assert set_rl_metrics(on_fsdp) == set_rl_metrics(on_megatron) != {}

    plain = compute(real_trainer(*MEGATRON), rows, pad_to=8)
    apart = [abs(ours - grpo) for ours, grpo in zip(on_megatron.group("uid_0_x"), plain.group("uid_0_x"), strict=True)]
    assert max(apart) > 1e-3


def test_a_gae_recipe_keeps_the_critic_of_megatron():
    """verl would leave a critic out, as the estimator that it sees is ours."""
    trainer = real_trainer(*MEGATRON, "algorithm.adv_estimator=gae", "+set_rl=set_loo")
    assert trainer.method.base_estimator == "gae"
    assert trainer.use_critic
    assert get_class(trainer.config.critic._target_) is McoreCriticConfig


@pytest.mark.skipif(torch.cuda.is_available(), reason="what stops Megatron on a machine without CUDA")
def test_without_cuda_verls_engine_forms_its_groups_and_stops_at_the_seed(tmp_path):
    """Whatever else it lacked (Transformer Engine, Apex) would have shown before, in its imports."""
    pytest.importorskip("megatron.core", reason="Megatron is not installed: pip install --no-deps megatron-core")
    from megatron.core import parallel_state
    from verl.workers.engine.megatron import MegatronEngineWithLMHead

    actor = omega_conf_to_dataclass(compose_config(*RECIPE, "model_engine=megatron").actor_rollout_ref.actor)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        with pytest.raises(AssertionError, match="Torch not compiled with CUDA enabled") as stop:
            MegatronEngineWithLMHead(None, actor.engine, actor.optim, actor.checkpoint)
        assert stop.traceback[-1].name == "_lazy_init"
        assert "model_parallel_cuda_manual_seed" in [entry.name for entry in stop.traceback]
        groups = (parallel_state.get_tensor_model_parallel_group(), parallel_state.get_data_parallel_group())
        assert [torch.distributed.get_backend(group) for group in groups] == ["gloo", "gloo"]
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()
