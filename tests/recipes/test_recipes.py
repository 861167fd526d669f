"""Every recipe composes, with the papers' numbers; what scripts/smoke_recipes.py would call a failure is one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from smoke import composition, training

from verl_setpo.trainer.config_check import check_config

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for path in (REPOSITORY / "recipes").glob("*/run_*.sh") if path.parent.name != "cpu")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """What the command lines name; nothing is loaded from it."""
    folder = tmp_path_factory.mktemp("inputs")
    for model in ("model", "judge"):
        (folder / model).mkdir()
        (folder / model / "config.json").write_text("{}")
        (folder / model / "tokenizer_config.json").write_text("{}")
    (folder / "polynomial").mkdir()
    for split in ("train", "test"):
        (folder / "polynomial" / f"{split}.parquet").touch()
    return folder


def config_of(inputs, script: str, **variables: str) -> DictConfig:
    words = composition.command_line(composition.Case(script, variables), inputs)
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=words)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_composes_and_passes_verls_checks_and_ours(inputs, script):
    name = f"{script.parent.name}/{script.name}"
    cases = [case for case in composition.all_cases() if case.script == name]
    composition.check_composition(cases[0], inputs)
    assert {case.variables["METHOD"] for case in cases} >= {"grpo", "gspo", "grpo_div"}


# model, method, and what the papers' tables say of the run (arXiv 2602.01062, table of settings; 2604.17654, appendix).
MATH = {
    "data.train_batch_size": 64,
    "actor_rollout_ref.actor.kl_loss_coef": 1e-4,
    "actor_rollout_ref.actor.use_kl_loss": True,
    "actor_rollout_ref.rollout.n": 6,
    "actor_rollout_ref.rollout.temperature": 0.9,
    "data.max_response_length": 756,
    "trainer.total_epochs": 2,
    "actor_rollout_ref.rollout.val_kwargs.temperature": 0.5,
    "actor_rollout_ref.rollout.val_kwargs.top_p": 0.9,
    "algorithm.set_rl.shaping": "neg_log1p",
}


def rates(lr: float, coef: float, low: float, high: float) -> dict[str, float]:
    actor = "actor_rollout_ref.actor"
    return {
        f"{actor}.optim.lr": lr,
        "algorithm.set_rl.coef": coef,
        f"{actor}.clip_ratio_low": low,
        f"{actor}.clip_ratio_high": high,
    }


HARD = {
    "data.train_batch_size": 1024,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 256,
    "actor_rollout_ref.actor.kl_loss_coef": 1e-3,
    "actor_rollout_ref.rollout.n": 6,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "data.max_response_length": 4096,
    "trainer.total_epochs": 15,
    **rates(1e-6, 0.1, 0.2, 0.2),
}
COUNTDOWN = {
    "data.train_batch_size": 128,
    "actor_rollout_ref.actor.kl_loss_coef": 1e-3,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "data.max_prompt_length": 512,
    "data.max_response_length": 2048,
    "trainer.total_epochs": 1,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "algorithm.set_rl.coef": 0.5,
}
POLY_EPO = {
    "actor_rollout_ref.rollout.n": 8,
    "algorithm.set_rl.set_size": 4,
    "algorithm.set_rl.num_sets": None,
    "algorithm.set_rl.zero_single_cluster": True,
    "algorithm.norm_adv_by_std_in_grpo": False,
    "data.train_batch_size": 128,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 64,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.use_kl_loss": False,
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.28,
    "actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-sum-norm",
    "actor_rollout_ref.actor.loss_scale_factor": 4096,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "data.max_prompt_length": 1024,
    "data.max_response_length": 4096,
    "trainer.total_epochs": 2,
}
GSPO = {
    "actor_rollout_ref.actor.policy_loss.loss_mode": "gspo",
    "actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-mean",
    "actor_rollout_ref.actor.ppo_mini_batch_size": 64,
}
DAPO = {
    "algorithm.filter_groups.enable": True,
    "actor_rollout_ref.actor.loss_agg_mode": "token-mean",
    "actor_rollout_ref.actor.ppo_mini_batch_size": 64,
}
TABLE = [
    ("set_loo/run_qwen2_5_math_1_5b_fsdp.sh", {"METHOD": "set_loo+grpo"}, MATH | rates(3e-6, 0.05, 0.2, 0.2)),
    ("set_loo/run_qwen2_5_math_1_5b_fsdp.sh", {"METHOD": "set_loo+gspo"}, MATH | GSPO | rates(1e-6, 0.1, 3e-4, 4e-4)),
    ("set_loo/run_qwen2_5_math_7b_fsdp.sh", {"METHOD": "set_loo+dapo"}, MATH | DAPO | rates(1e-6, 0.2, 0.2, 0.28)),
    ("set_loo/run_qwen2_5_32b_fsdp.sh", {}, HARD),
    ("set_loo/run_qwen2_5_32b_megatron.sh", {}, HARD | {"actor_rollout_ref.actor.strategy": "megatron"}),
    ("set_loo/run_qwen2_5_3b_countdown_fsdp.sh", {}, COUNTDOWN | {"actor_rollout_ref.rollout.n": 7}),
    ("set_loo/run_qwen2_5_3b_countdown_fsdp.sh", {"ROLLOUT_N": "3"}, COUNTDOWN | {"actor_rollout_ref.rollout.n": 3}),
    ("poly_epo/run_qwen3_4b_polaris_fsdp.sh", {}, POLY_EPO),
    ("poly_epo/run_qwen3_4b_polaris_megatron.sh", {"JUDGE": "endpoint"}, POLY_EPO),
]


@pytest.mark.parametrize(("script", "variables", "numbers"), TABLE)
def test_the_numbers_are_the_papers(inputs, script, variables, numbers):
    config = config_of(inputs, script, **variables)
    found = {key: OmegaConf.select(config, key, throw_on_missing=True) for key in numbers}
    assert found == numbers
    check_config(config)


def test_a_baseline_is_verls_own_and_keeps_the_rest(inputs):
    ours = config_of(inputs, "poly_epo/run_qwen3_4b_polaris_fsdp.sh")
    plain = config_of(inputs, "poly_epo/run_qwen3_4b_polaris_fsdp.sh", METHOD="grpo")
    assert plain.algorithm.adv_estimator == "grpo"
    assert "set_rl" not in plain.algorithm
    assert plain.trainer.v1.trainer_mode == "sync"
    assert not plain.reward.reward_model.enable
    for part in ("actor_rollout_ref", "data"):
        assert OmegaConf.to_container(plain[part]) == OmegaConf.to_container(ours[part])


@pytest.mark.parametrize(
    ("variables", "cure"),
    [
        ({"METHOD": "setpo"}, "METHOD=setpo is unknown: use set_loo+grpo,"),
        ({"EMBEDDER": "mine"}, "EMBEDDER=mine is unknown: use local, endpoint or reward_model."),
    ],
)
def test_a_wrong_variable_ends_the_script_with_the_names_that_it_knows(inputs, variables, cure):
    with pytest.raises(ValueError, match=re.escape(cure)):
        composition.command_line(composition.Case("set_loo/run_qwen2_5_math_7b_fsdp.sh", variables), inputs)


def test_the_smoke_test_sees_a_key_that_the_recipe_does_not_get(inputs):
    case = composition.Case("poly_epo/run_qwen3_1_7b_polynomial_fsdp.sh", {}, ("+algorithm.set_rl.signal.equals=math",))
    with pytest.raises(ValueError, match=r"algorithm\.set_rl\.signal\.equals is not a key of the signal answer"):
        composition.check_composition(case, inputs)
    config = OmegaConf.create({"a": {"b": 1}})
    with pytest.raises(ValueError, match=r"a\.b is 1 in the composed config, and the recipe asks for 2"):
        composition.check_values(["a.b=2"], config)


def test_the_smoke_test_sees_a_missing_step_a_failed_signal_and_a_missing_checkpoint(tmp_path):
    case = composition.Case("poly_epo/x.sh", {"METHOD": "poly_epo"})
    good = {"actor/grad_norm": 0.1, "set_rl/signal_failed_groups": 0.0, "set_rl/credit_share": 0.3}
    with pytest.raises(ValueError, match=r"no checkpoint of step 2"):
        training.judge_steps(case, {1: good, 2: good}, tmp_path)
    (tmp_path / "checkpoints" / "global_step_2").mkdir(parents=True)
    assert "grad norm 0.1" in training.judge_steps(case, {1: good, 2: good}, tmp_path)
    with pytest.raises(ValueError, match=r"a step was skipped"):
        training.judge_steps(case, {1: good}, tmp_path)
    with pytest.raises(ValueError, match=r"signal_failed_groups is 1"):
        training.judge_steps(case, {1: good, 2: good | {"set_rl/signal_failed_groups": 1.0}}, tmp_path)


def test_every_recipe_for_fsdp_is_among_those_that_are_trained():
    assert training.untrained_recipes() == []


def test_the_two_diffs_for_a_newcomer_compose():
    """The lines with + and without a sign, of the page that leads from a GRPO script to each method."""
    text = (REPOSITORY / "recipes" / "README.md").read_text()
    diffs = re.findall(r"```diff\n(.*?)```", text, flags=re.DOTALL)
    methods = []
    for diff in diffs:
        kept = [line[1:].strip(" \\") for line in diff.splitlines() if line[0] in "+ " and "=" in line]
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose("ppo_trainer", overrides=kept)
        methods.append(check_config(config).estimator)
        assert not config.actor_rollout_ref.actor.use_kl_loss
    assert methods == ["set_loo", "poly_epo"]


def test_shellcheck_is_clean():
    scripts = [*SCRIPTS, *(REPOSITORY / "scripts").glob("*.sh"), *(REPOSITORY / "recipes").glob("c*/*.sh")]
    run = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
