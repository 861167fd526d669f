"""`+set_rl=...` and `+platform=cpu` on verl's own ppo_trainer config, composed by Hydra through our search path."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from tests.trainer.conftest import compose_config
from verl_setpo.signals import build_signal
from verl_setpo.trainer.config_check import check_config
from verl_setpo.trainer.settings import SetRLSettings, read_settings

GROUPS = {"set_loo": "set_loo", "poly_epo": "poly_epo", "pass_at_n": "set_rl", "grpo_div": "grpo_div"}
each_group = pytest.mark.parametrize("group", list(GROUPS))

GRPO_RECIPE = (
    "algorithm.adv_estimator=grpo",
    "algorithm.use_kl_in_reward=False",
    "actor_rollout_ref.actor.use_kl_loss=True",
    "actor_rollout_ref.rollout.n=8",
    "reward.reward_manager.name=dapo",
)


def yaml_of(group: str, option: str) -> str:
    return (files("verl_setpo.config") / group / f"{option}.yaml").read_text()


def leaves(config: DictConfig, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in OmegaConf.to_container(config, resolve=False).items():
        name = f"{prefix}{key}"
        found.update(
            leaves(OmegaConf.create(value), f"{name}.") if isinstance(value, dict) and value else {name: value}
        )
    return found


def test_there_is_a_yaml_file_for_each_group_and_no_other():
    folder = files("verl_setpo.config") / "set_rl"
    options = {path.name.removesuffix(".yaml") for path in folder.iterdir() if path.is_file()}
    assert options == {*GROUPS, "off"}  # off: verl's own method, for a baseline


@each_group
def test_one_word_on_verls_defaults_sets_all_that_the_method_needs(group):
    config = compose_config(f"+set_rl={group}", "actor_rollout_ref.rollout.n=8")
    method = check_config(config)
    assert (method.estimator, method.base_estimator) == (GROUPS[group], "grpo")
    assert config.trainer.v1.trainer_mode == "set_sync"
    assert config.reward.reward_manager.name == "set_rl"
    assert config.algorithm.adv_estimator == GROUPS[group]


@each_group
@pytest.mark.parametrize("first", [True, False])
def test_one_word_turns_a_grpo_recipe_into_the_method_wherever_it_stands(group, first):
    word = f"+set_rl={group}"
    config = compose_config(*((word, *GRPO_RECIPE) if first else (*GRPO_RECIPE, word)))
    method = check_config(config)
    assert (method.estimator, method.base_estimator) == (GROUPS[group], "grpo")
    assert config.trainer.v1.trainer_mode == "set_sync"
    assert config.actor_rollout_ref.actor.use_kl_loss  # what the recipe says, it keeps


@pytest.mark.parametrize("group", ["poly_epo", "pass_at_n", "grpo_div"])
def test_the_set_methods_bring_the_papers_loss(group):
    """No std; a token sum over a constant length (Dr.GRPO); clip 0.2 / 0.28; no KL, no entropy bonus."""
    config = compose_config(f"+set_rl={group}", "data.max_response_length=77")
    actor = config.actor_rollout_ref.actor
    assert actor.loss_scale_factor == 77  # else verl takes the longest response of a micro-batch
    assert config.algorithm.norm_adv_by_std_in_grpo is False
    assert actor.loss_agg_mode == "seq-mean-token-sum-norm"
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.2, 0.28)
    assert (actor.use_kl_loss, actor.entropy_coeff) == (False, 0)


def test_set_loo_leaves_the_loss_of_the_recipe_alone():
    """SetPO is a term of the advantage; ratio, clip, KL and aggregation stay."""
    changed = leaves(compose_config("+set_rl=set_loo"))
    plain = leaves(compose_config())
    different = {key for key in changed if changed[key] != plain.get(key)}
    assert {key for key in different if not key.startswith("algorithm.set_rl.")} == {
        "algorithm.adv_estimator",
        "reward.reward_manager.name",
        "trainer.v1.trainer_mode",
    }


def test_the_papers_settings_are_the_defaults():
    poly_epo = read_settings(compose_config("+set_rl=poly_epo").algorithm)
    assert (poly_epo.set_size, poly_epo.num_sets, poly_epo.zero_single_cluster) == (4, None, True)
    set_loo = read_settings(compose_config("+set_rl=set_loo").algorithm)
    assert set_loo.shaping == "neg_log1p"
    assert 0.05 <= set_loo.coef <= 0.5


@pytest.mark.parametrize("group", ["set_loo", "grpo_div"])
def test_coef_may_be_a_number_a_schedule_or_auto_on_the_command_line(group):
    key = "algorithm.set_rl.coef"
    words = (f"+set_rl={group}",)
    assert check_config(compose_config(*words, f"{key}=5")).settings.coef == 5
    schedule = check_config(
        compose_config(*words, f"{key}={{schedule:linear,start:5,end:0.5,steps:200}}")
    ).settings.coef
    assert (schedule.at(1), schedule.at(200)) == (5, 0.5)
    auto = check_config(compose_config(*words, f"{key}=auto", "algorithm.set_rl.target_share=0.3")).settings
    assert (auto.coef, auto.target_share, auto.max_coef) == ("auto", 0.3, 100)


@pytest.mark.parametrize("group", ["poly_epo", "pass_at_n"])
def test_set_size_may_be_a_number_or_a_schedule_on_the_command_line(group):
    words = (f"+set_rl={group}", "actor_rollout_ref.rollout.n=8")
    assert check_config(compose_config(*words, "algorithm.set_rl.set_size=3")).settings.set_size_at(7) == 3
    schedule = "algorithm.set_rl.set_size={schedule:cosine,start:6,end:2,steps:101}"
    settings = check_config(compose_config(*words, schedule)).settings
    assert [settings.set_size_at(step) for step in (1, 51, 101, 500)] == [6, 4, 2, 2]
    assert list(settings.set_sizes) == [2, 3, 4, 5, 6]


def test_the_examples_in_the_comments_are_forms_that_work():
    """Each `# key: {schedule: ...}` line of the files, put in place of the key."""
    examples = {
        (group, match[1]): match[2]
        for group in GROUPS
        for match in re.finditer(r"# +(\w+): (\{schedule: .*\})", yaml_of("set_rl", group))
    }
    assert set(examples) == {
        ("set_loo", "coef"),
        ("grpo_div", "coef"),
        ("poly_epo", "set_size"),
        ("pass_at_n", "set_size"),
    }
    for (group, key), value in examples.items():
        words = (f"+set_rl={group}", "actor_rollout_ref.rollout.n=8")
        check_config(compose_config(*words, f"algorithm.set_rl.{key}={value}"))


@pytest.mark.parametrize("group", ["poly_epo", "pass_at_n", "grpo_div"])
def test_equality_of_answers_is_set_as_the_comment_says(group):
    """Not a key of the files: it would be a wrong one as soon as signal.name is another signal."""
    word = re.search(r"# +(\+algorithm\.set_rl\.signal\.equal=\w+)", yaml_of("set_rl", group))[1]
    words = (f"+set_rl={group}", "actor_rollout_ref.rollout.n=8")
    assert "equal" not in check_config(compose_config(*words)).settings.signal_keys
    settings = check_config(compose_config(*words, word, "+algorithm.set_rl.signal.budget_s=30")).settings
    signal = build_signal(settings.signal.name, settings.signal_keys)
    assert (signal.equal, signal._math.timeout_s, signal._math.budget_s) == ("math", 5, 30)


@each_group
def test_the_callback_that_checks_the_config_is_in_every_group(group):
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[f"+set_rl={group}"], return_hydra_config=True)
    target = "verl_setpo.trainer.start_check.StartCheck"
    assert target in [callback._target_ for callback in config.hydra.callbacks.values()]


@each_group
def test_every_key_is_a_setting_and_has_a_comment_line_above_it(group):
    lines = yaml_of("set_rl", group).splitlines()
    start = lines.index("  set_rl:") + 1
    keys = []
    for number, line in enumerate(lines[start:], start):
        if line and not line.startswith("    "):
            break
        if match := re.fullmatch(r"    (\w+):.*", line):
            keys.append(match[1])
            assert lines[number - 1].startswith("    # "), f"{group}.yaml: {match[1]} has no comment above it"
    assert keys == list(OmegaConf.create(yaml_of("set_rl", group)).algorithm.set_rl)
    assert set(keys) <= set(SetRLSettings.model_fields)


def test_every_setting_is_in_some_group():
    in_files = set().union(*(OmegaConf.create(yaml_of("set_rl", group)).algorithm.set_rl for group in GROUPS))
    assert in_files == set(SetRLSettings.model_fields) - {"run"}  # which the trainer writes


# Where verl takes keys that its own files do not list: what it hands on to FSDP, transformers, vLLM, Ray or a sampler.
OPEN = (
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision.",
    "algorithm.set_rl.",
    "hydra.callbacks.",
    "actor_rollout_ref.model.override_config.",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.",
    "actor_rollout_ref.rollout.enable_sleep_mode",
    "reward.reward_model.rollout.enable_sleep_mode",
    "ray_kwargs.ray_init.",
    "trainer.v1.sampler.sampler_kwargs.",
)


@pytest.mark.parametrize(("group", "option"), [*(("set_rl", group) for group in GROUPS), ("platform", "cpu")])
def test_every_other_key_is_one_that_verl_has(group, option):
    """Hydra adds what it does not know without a word, so a typo would do nothing."""
    known = set(leaves(compose_config())) | {"algorithm.norm_adv_by_std_in_grpo"}
    ours = {key for key in leaves(OmegaConf.create(yaml_of(group, option))) if not key.startswith(OPEN)}
    assert ours
    unknown = {key for key in ours if not any(key == k or key.startswith(f"{k}.") for k in known)}
    assert unknown == set()


@pytest.mark.parametrize(
    "words", [("+set_rl=set_loo", "+platform=cpu"), ("+platform=cpu", "+set_rl=poly_epo"), ("+platform=cpu",)]
)
def test_the_cpu_platform_composes_with_and_without_a_method(words):
    config = compose_config(*words, "trainer.n_gpus_per_node=2", "actor_rollout_ref.rollout.n=8")
    assert config.trainer.device == "cpu"
    assert config.actor_rollout_ref.actor.strategy == config.actor_rollout_ref.ref.strategy == "fsdp2"
    assert config.actor_rollout_ref.model.override_config.attn_implementation == "sdpa"
    assert config.actor_rollout_ref.rollout.free_cache_engine is False
    assert config.ray_kwargs.ray_init.num_gpus == 2
    OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("group", ["set_rl", "platform"])
def test_an_option_that_does_not_exist_is_an_error_that_lists_those_that_do(group):
    with pytest.raises(MissingConfigException, match=rf"(?s){group}/nonsense.*Available options"):
        compose_config(f"+{group}=nonsense")


def test_without_the_plus_hydra_says_how_to_add_the_group():
    with pytest.raises(ConfigCompositionException, match=r"(?s)set_rl.*\+set_rl=set_loo"):
        compose_config("set_rl=set_loo")
