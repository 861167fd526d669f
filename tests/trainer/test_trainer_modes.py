"""Our trainer modes are verl's trainers with one method more, and verl sees its own names."""

from __future__ import annotations

import pytest
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.utils import need_critic
from verl.trainer.ppo.v1 import (
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    PPOTrainerSync,
    get_trainer_cls,
)

from tests.trainer.batches import assert_same_bits, random_rows
from tests.trainer.conftest import Row, compose_config, compute, make_trainer
from verl_setpo.trainer.modes import SetRLMixin

SET_LOO = "+set_rl=set_loo"
MODES = {
    "set_sync": ("sync", PPOTrainerSync),
    "set_colocate_async": ("colocate_async", PPOTrainerColocateAsync),
    "set_separate_async": ("separate_async", PPOTrainerSeparateAsync),
}
SEPARATE = (
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
    "data.train_batch_size=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=1",
    "trainer.v1.separate_async.parameter_sync_step=4",
)


@pytest.mark.parametrize("mode", list(MODES))
def test_a_real_trainer_of_each_mode_is_verls_under_verls_name(mode, caplog):
    """verl looks up keys by the mode's name, such as trainer.v1.separate_async.parameter_sync_step."""
    verls_name, verls_class = MODES[mode]
    overrides = SEPARATE if mode == "set_separate_async" else ()
    config = compose_config(SET_LOO, f"trainer.v1.trainer_mode={mode}", *overrides)
    trainer = get_trainer_cls(mode)(config)
    assert isinstance(trainer, SetRLMixin)
    assert isinstance(trainer, verls_class)
    assert trainer.trainer_mode == verls_name
    assert trainer.parameter_sync_step == (4 if mode == "set_separate_async" else 1)
    assert "set_loo on base estimator grpo, signal ngram, coef 0.1" in caplog.text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("coef=auto", "algorithm.set_rl.target_share=0.3"), "coef auto (target_share 0.3)"),
        (("coef={schedule:cosine,start:5,end:0.5,steps:200}",), "coef cosine 5 to 0.5 in 200 steps"),
    ],
)
def test_the_log_says_how_coef_is_chosen(words, text, caplog):
    first, *others = words
    get_trainer_cls("set_sync")(compose_config(SET_LOO, f"algorithm.set_rl.{first}", *others))
    assert text in caplog.text


@pytest.mark.parametrize("mode", ["set_colocate_async", "set_separate_async"])
def test_the_asynchronous_modes_add_the_same_credit(queue, mode):
    rows = random_rows(seed=1)
    overrides = (SET_LOO, "algorithm.set_rl.signal.name=test_line")
    in_sync = compute(make_trainer(*overrides), rows)
    trainer = make_trainer(*overrides, f"trainer.v1.trainer_mode={mode}")
    assert isinstance(trainer, MODES[mode][1])
    assert_same_bits(in_sync.advantages, compute(trainer, rows).advantages)


@pytest.mark.parametrize("estimator", ["set_loo", "poly_epo", "grpo_div", "set_rl"])
def test_an_estimator_under_verls_own_mode_stops_with_the_key_to_set(queue, estimator):
    """As where a config file names the estimator, which no command line shows."""
    trainer = make_trainer(f"algorithm.adv_estimator={estimator}")
    with pytest.raises(
        ValueError, match=rf"^algorithm\.adv_estimator={estimator} needs .* set trainer\.v1\.trainer_mode="
    ):
        compute(trainer, [Row("p", s) for s in range(4)])


def test_a_mode_without_an_estimator_of_ours_stops_before_it_starts_anything():
    config = compose_config("algorithm.adv_estimator=grpo", "trainer.v1.trainer_mode=set_sync")
    with pytest.raises(
        ValueError, match=r"trainer\.v1\.trainer_mode=set_sync needs .* set algorithm\.adv_estimator to"
    ):
        get_trainer_cls("set_sync")(config)


def test_the_base_estimators_name_is_back_in_place_when_the_base_fails(queue, monkeypatch):
    def broken(**_):
        raise TypeError("a recipe's own estimator, with a mistake in it")

    monkeypatch.setitem(ADV_ESTIMATOR_REGISTRY, "broken", broken)
    trainer = make_trainer(SET_LOO, "algorithm.set_rl.base_estimator=broken")
    with pytest.raises(TypeError, match="with a mistake in it"):
        compute(trainer, [Row("p", s) for s in range(4)])
    assert trainer.config.algorithm.adv_estimator == "set_loo"


def test_a_dapo_recipe_becomes_set_loo_on_grpo_with_its_own_reward_manager_inside():
    recipe = ("algorithm.adv_estimator=grpo", "reward.reward_manager.name=dapo")
    trainer = make_trainer(*recipe, SET_LOO)
    assert trainer.method.estimator == "set_loo"
    assert trainer.method.base_estimator == "grpo"
    assert trainer.config.algorithm.adv_estimator == "set_loo"
    assert trainer.config.algorithm.set_rl.base_estimator == "grpo"
    assert trainer.config.reward.reward_manager.name == "set_rl"
    assert trainer.config.reward.reward_manager.source == "register"
    assert trainer.config.algorithm.set_rl.reward_manager.name == "dapo"


def test_a_recipes_own_reward_manager_from_a_file_stays_inside():
    recipe = (
        "reward.reward_manager.source=importlib",
        "reward.reward_manager.name=MyManager",
        "reward.reward_manager.module.path=/recipes/mine.py",
    )
    trainer = make_trainer(*recipe, SET_LOO)
    inner = trainer.config.algorithm.set_rl.reward_manager
    assert (inner.source, inner.name, inner.module.path) == ("importlib", "MyManager", "/recipes/mine.py")
    assert trainer.config.reward.reward_manager.source == "register"


def test_a_grpo_recipe_without_a_reward_manager_has_naive_inside():
    trainer = make_trainer("algorithm.adv_estimator=grpo", SET_LOO)
    assert trainer.config.algorithm.set_rl.reward_manager == "naive"


def test_gae_as_the_base_gets_verls_critic():
    """verl decides by algorithm.adv_estimator, which is ours."""
    assert need_critic(make_trainer("algorithm.adv_estimator=gae", SET_LOO).config)
    assert not need_critic(make_trainer("algorithm.adv_estimator=grpo", SET_LOO).config)
    assert not need_critic(make_trainer("algorithm.adv_estimator=gae", "critic.enable=False", SET_LOO).config)
