"""The checks that a run makes of its config before it starts anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from verl_setpo.doctor.check import Check, sentence
from verl_setpo.doctor.command_line import ENTRYPOINT, compose_run
from verl_setpo.preflight import find_mistake
from verl_setpo.trainer.config_check import TRAINER_MODES, Method, check_config, wrong_mode_message
from verl_setpo.trainer.inputs_check import check_inputs
from verl_setpo.trainer.settings import ESTIMATORS, WITH_COEF

GROUPS = ("set_loo", "poly_epo", "pass_at_n", "grpo_div")
EXAMPLE = ("actor_rollout_ref.rollout.n=8", "data.train_batch_size=64", "data.max_response_length=128")
"""The shape that our groups are tried with where no run is given."""
_STOPS = "A run stops here: change that key."
_COUNTS = (
    "trainer.total_epochs",
    "trainer.total_training_steps",
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
)
"""Whole numbers of at least one, where they are given; with fewer verl trains nothing, or fails in a worker."""


def example_configs() -> dict[str, DictConfig]:
    """Each of our groups, composed."""
    return {group: compose_run([f"+set_rl={group}", *EXAMPLE]) for group in GROUPS}


def group_checks(configs: dict[str, DictConfig]) -> Iterator[Check]:
    """Without a run: whether our own groups hold to our own checks."""
    for group, config in configs.items():
        try:
            check_config(config)
        except ValueError as error:
            yield Check("keys", "fail", f"+set_rl={group}: {error}", "Reinstall verl-setpo: its groups were changed.")
            return
    yield Check("keys", "ok", f"{', '.join(f'+set_rl={group}' for group in configs)} compose and hold to all checks")


def is_ours(config: DictConfig) -> bool:
    """Whether a run trains with one of our methods, as its config reads."""
    named, grouped = _estimators(config)
    return named in ESTIMATORS or grouped in ESTIMATORS or config.trainer.v1.trainer_mode in TRAINER_MODES


def _estimators(config: DictConfig) -> tuple[str, str | None]:
    subtree = config.algorithm.get("set_rl")
    return str(config.algorithm.adv_estimator), subtree.get("estimator") if subtree is not None else None


def key_checks(config: DictConfig, words: Sequence[str]) -> Iterator[Check]:
    """Mode and estimator, every key of ours, verl's own validation, then the inputs that the config names."""
    mode = mode_check(config, words)
    yield mode
    if mode.status == "fail":
        yield Check("keys", "not done", "the trainer mode comes first")
    else:
        yield method_check(config)
    yield number_check(config, words)
    yield _of("verl's keys", "verl's own validation passes", _verls_validation, config)
    yield _of("inputs", "data, models and devices are there", check_inputs, config)


def mode_check(config: DictConfig, words: Sequence[str]) -> Check:
    """Whether the trainer mode is one for the estimator."""
    mode = config.trainer.v1.trainer_mode
    named, grouped = _estimators(config)
    estimator = named if named in ESTIMATORS else grouped if grouped in ESTIMATORS else None
    mistake = find_mistake([ENTRYPOINT, *words])
    if mistake is None and estimator is not None and mode not in TRAINER_MODES:
        mistake = wrong_mode_message(estimator, mode)
    if mistake is None and estimator is None and mode in TRAINER_MODES:
        mistake = f"trainer.v1.trainer_mode={mode} needs one of our estimators, and algorithm.adv_estimator={named}."
    if mistake is not None:
        return Check("trainer mode", "fail", mistake, "Add +set_rl=METHOD, or take the mode and the estimator back.")
    return Check("trainer mode", "ok", f"{mode} with {estimator or f'{named}, an estimator of verl'}")


def method_check(config: DictConfig) -> Check:
    """What a run trains with, after all checks of our keys."""
    if not is_ours(config):
        return Check("keys", "ok", "none of ours: the run is verl's own")
    try:
        method = check_config(config)
    except ValueError as error:
        return Check("keys", "fail", str(error), _STOPS)
    return Check("keys", "ok", describe(method))


def number_check(config: DictConfig, words: Sequence[str]) -> Check:
    """Whether what must be a number is one. Hydra takes any text, over which a worker then fails, its model loaded."""
    for key in _COUNTS:
        given = OmegaConf.select(config, key)
        if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
            return Check("numbers", "fail", f"{key}={given}", "Give a whole number, 1 or more.")
    verls = compose_run(())
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    for key in (key for key in keys if key and "@" not in key and "/" not in key):
        given, number = OmegaConf.select(config, key), OmegaConf.select(verls, key)
        if isinstance(number, int | float) and not isinstance(number, bool) and isinstance(given, str | bool):
            return Check("numbers", "fail", f"{key}={given} is no number", f"Give one, as verl's own {number}.")
    return Check("numbers", "ok", "what must be a number is one")


def describe(method: Method) -> str:
    """A method in a line."""
    settings = method.settings
    weight = f"coef {settings.coef_text}" if method.estimator in WITH_COEF else f"set_size {settings.set_size}"
    return f"{method.estimator} on {method.base_estimator}, signal {settings.signal.name}, {weight}"


def _verls_validation(config: DictConfig) -> None:
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.trainer.ppo.v1 import get_trainer_cls
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    validate_config(config, need_reference_policy(config), need_critic(config))
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    get_trainer_cls(config.trainer.v1.trainer_mode)


def _of(name: str, found: str, check: object, config: DictConfig) -> Check:
    assert callable(check)
    try:
        check(config)
    except Exception as error:  # verl asserts, and its dataclasses raise what they like
        return Check(name, "fail", sentence(error), _STOPS)
    return Check(name, "ok", found)
