"""What must hold between the keys of a run before any of its processes starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.reward import resolve_reward_manager_cls

from verl_setpo.set_rl import ENUMERATION_LIMIT, SHAPINGS, get_objective
from verl_setpo.signals import build_signal, signal_class
from verl_setpo.trainer.schedule import Schedule
from verl_setpo.trainer.settings import (
    ESTIMATORS,
    MIN_GROUP_SET_LOO,
    WITH_COEF,
    SetRLSettings,
    known_keys,
    objective_of,
    read_settings,
)

TRAINER_MODES = {
    "set_sync": "sync",
    "set_colocate_async": "colocate_async",
    "set_separate_async": "separate_async",
}
"""Our trainer modes, and verl's mode that each extends."""

_OF_SETS = ("set_size", "num_sets", "zero_single_cluster", "reduction")
_OF_COEF = ("coef", "target_share", "max_coef")
_FOREIGN_KEYS = {
    "set_loo": (*_OF_SETS, "objective", "reward_range", "seed"),
    "grpo_div": (*_OF_SETS, "objective", "shaping", "center", "seed"),
    "poly_epo": (*_OF_COEF, "objective", "shaping", "center"),
    "set_rl": (*_OF_COEF, "shaping", "center"),
}
"""Keys that a method does not read. Given all the same, they would change nothing, and nobody would see."""

_NOT_IN_V1 = ("gdpo", "remax", "optimal_token_baseline", "tir_optimal_token_baseline")
"""verl's estimators that ask for columns which its v1 trainer does not hand to any estimator."""


@dataclass(frozen=True)
class Method:
    """What a run trains with: the set estimator, verl's estimator that it builds on, and the settings."""

    estimator: str
    base_estimator: str
    settings: SetRLSettings


def check_config(config: DictConfig) -> Method:
    """What must hold before any process starts; returns the method in force.

    A recipe often names verl's estimator on its command line, which wins over `+set_rl=...`: that estimator is then
    the base, and the method is the group's `algorithm.set_rl.estimator`.

    Raises ValueError with one sentence that names the key to set.
    """
    mode = config.trainer.v1.trainer_mode
    named = str(config.algorithm.adv_estimator)
    subtree = config.algorithm.get("set_rl")
    grouped = subtree.get("estimator") if subtree is not None else None
    if named in ESTIMATORS and grouped in ESTIMATORS and named != grouped:
        raise ValueError(
            f"algorithm.adv_estimator={named} and algorithm.set_rl.estimator={grouped} are two methods: leave "
            f"algorithm.adv_estimator to the group +set_rl=..., or choose the group of {named}."
        )
    estimator = named if named in ESTIMATORS else grouped
    if estimator is None:
        raise ValueError(
            f"trainer.v1.trainer_mode={mode} needs one of our estimators, not algorithm.adv_estimator={named}: "
            f"set algorithm.adv_estimator to one of {', '.join(ESTIMATORS)} (with +set_rl=...), "
            f"or trainer.v1.trainer_mode={TRAINER_MODES.get(mode, 'sync')}."
        )
    if mode not in TRAINER_MODES:
        raise ValueError(wrong_mode_message(estimator, mode))
    if not config.trainer.get("use_v1", True):
        raise ValueError("trainer.use_v1=False is verl's old trainer, which this package does not extend: set it True.")

    settings = read_settings(config.algorithm)
    if not isinstance(config.actor_rollout_ref.rollout.n, int):
        raise ValueError(
            f"actor_rollout_ref.rollout.n={config.actor_rollout_ref.rollout.n} must be the number of rollouts a prompt."
        )
    base = settings.base_estimator or (named if named not in ESTIMATORS else "grpo")
    _check_base(base, config)
    for key in _FOREIGN_KEYS[estimator]:
        if key in settings.model_fields_set:
            has = [name for name in known_keys() if name not in _FOREIGN_KEYS[estimator]]
            raise ValueError(
                f"algorithm.set_rl.{key} is not a key of {estimator}, which would not read it: remove it, or choose "
                f"another method; the keys of {estimator} are {', '.join(has)}."
            )
    _check_coef(settings)
    _check_objective(estimator, settings, config.actor_rollout_ref.rollout.n)
    _check_signal(estimator, settings, config)
    _check_group(estimator, settings, config.actor_rollout_ref.rollout.n)
    inner_manager_class(settings.reward_manager)
    if estimator != "set_loo" and config.algorithm.get("use_kl_in_reward", False):
        raise ValueError(
            f"algorithm.use_kl_in_reward=True makes rewards unbounded, and {estimator} multiplies or compares them "
            "within a set: set it False and actor_rollout_ref.actor.use_kl_loss=True for a KL term."
        )
    return Method(estimator, base, settings)


def wrong_mode_message(estimator: str, mode: str | None = None) -> str:
    """The sentence for an estimator of ours under a trainer mode that is not."""
    has = f" (it is {mode})" if mode else ""
    return (
        f"algorithm.adv_estimator={estimator} needs a trainer mode that brings it the group's diversity signal{has}: "
        "set trainer.v1.trainer_mode=set_sync (or set_colocate_async, set_separate_async), "
        f"or add +set_rl={'pass_at_n' if estimator == 'set_rl' else estimator}, which sets all that is needed."
    )


def _check_base(base: str, config: DictConfig) -> None:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    has = ", ".join(name for name in ADV_ESTIMATOR_REGISTRY if name not in (*ESTIMATORS, *_NOT_IN_V1))
    if base not in ADV_ESTIMATOR_REGISTRY:
        raise ValueError(f"algorithm.set_rl.base_estimator={base} is unknown to verl; it has {has}.")
    if base in _NOT_IN_V1:
        raise ValueError(
            f"algorithm.set_rl.base_estimator={base} needs more than verl's v1 trainer hands to an estimator: "
            f"choose one of {has}."
        )
    if base == "gae" and config.algorithm.get("use_pf_ppo", False):
        raise ValueError(
            "algorithm.use_pf_ppo=True draws the rows of a batch anew, by which verl's v1 trainer gives a rollout the "
            "advantage of another: set it False."
        )


def _check_objective(estimator: str, settings: SetRLSettings, rollouts: int) -> None:
    if estimator == "set_loo" and settings.shaping not in SHAPINGS:
        raise ValueError(
            f"algorithm.set_rl.shaping={settings.shaping} is unknown; the shapings are {', '.join(SHAPINGS)}."
        )
    if estimator not in WITH_COEF:
        try:
            objective = get_objective(objective_of(estimator, settings))
        except ValueError as error:
            raise ValueError(f"algorithm.set_rl.objective: {error}") from None
        set_size = max(settings.set_sizes, key=lambda n: math.comb(rollouts, n))
        possible = math.comb(rollouts, set_size)
        if objective.closed_form is None and settings.num_sets is None and possible > ENUMERATION_LIMIT:
            raise ValueError(
                f"algorithm.set_rl.num_sets=null would list {possible} sets of {set_size} among {rollouts} "
                f"rollouts for the objective {objective.name}, which has no closed form: set num_sets, such as 1000."
            )


def _check_coef(settings: SetRLSettings) -> None:
    if settings.coef == "auto" and settings.target_share is None:
        raise ValueError(
            "algorithm.set_rl.coef=auto needs algorithm.set_rl.target_share, the part of the advantage's size that "
            "diversity is to hold: set it, such as 0.3."
        )
    if settings.coef != "auto" and settings.target_share is not None:
        raise ValueError(
            f"algorithm.set_rl.target_share={settings.target_share} has no effect with algorithm.set_rl.coef="
            f"{settings.coef_text}: set coef=auto, or target_share=null."
        )


def inner_manager_class(inner: str | dict[str, Any]) -> type[RewardManagerBase]:
    """The class of the wrapped reward manager: a registered name, or the whole of a recipe's `reward.reward_manager`.

    Raises ValueError for an unknown one.
    """
    spec = {"source": "register", **({"name": inner} if isinstance(inner, str) else inner)}
    if spec["source"] == "register" and spec.get("name") == "set_rl":
        raise ValueError("algorithm.set_rl.reward_manager=set_rl wraps itself: name the inner one, such as naive.")
    try:
        return resolve_reward_manager_cls(OmegaConf.create({"reward": {"reward_manager": spec}}))
    except Exception as error:
        # A file of the user's may raise anything when it is loaded.
        raise ValueError(
            f"algorithm.set_rl.reward_manager={spec.get('name')} cannot be had ({type(error).__name__}: {error}): "
            "name one that verl registers, such as naive or dapo."
        ) from None


def _check_signal(estimator: str, settings: SetRLSettings, config: DictConfig) -> None:
    name = settings.signal.name
    provides = signal_class(name).provides
    build_signal(name, settings.signal_keys)
    by_kernel = estimator == "set_loo" or (estimator == "set_rl" and get_objective(settings.objective).needs_kernel)
    if not by_kernel and provides != "clusters":
        raise ValueError(
            f"algorithm.set_rl.signal.name={name} gives a {provides}, and {estimator} needs clusters: "
            "set algorithm.set_rl.signal.name=answer or judge."
        )
    if settings.signal_keys.get("kind") == "reward_model":
        _check_reward_model(name, settings.signal_keys, config)


def _check_reward_model(signal: str, keys: Mapping[str, Any], config: DictConfig) -> None:
    """What verl's own reward-model server needs, to serve a judge or an embedder instead of a reward model."""
    reward = config.reward
    if not reward.reward_model.enable:
        raise ValueError(
            f"algorithm.set_rl.signal.kind=reward_model needs the server that serves the {signal}: set "
            "reward.reward_model.enable=True and reward.reward_model.model_path."
        )
    rollout = reward.reward_model.rollout
    if reward.reward_model.enable_resource_pool and rollout.get("free_cache_engine", True):
        raise ValueError(
            "reward.reward_model.rollout.free_cache_engine=True lets verl put the server to sleep at its start, and "
            "with reward.reward_model.enable_resource_pool=True nothing wakes it up: set it False."
        )
    tokens = keys.get("max_prompt_tokens") or keys.get("max_tokens")
    if tokens and rollout.get("max_model_len") and tokens > rollout.max_model_len:
        raise ValueError(
            f"reward.reward_model.rollout.max_model_len={rollout.max_model_len} is less than the {tokens} tokens that "
            f"algorithm.set_rl.signal allows the {signal}: raise it, or lower signal.max_prompt_tokens or .max_tokens."
        )
    if reward.custom_reward_function.path is None:
        raise ValueError(
            "reward.custom_reward_function.path=null makes verl take the reward from the model that is to serve the "
            f"{signal} (algorithm.set_rl.signal.kind=reward_model): set it to your reward function, or to verl's own, "
            "with .path=pkg://verl.utils.reward_score and .name=default_compute_score."
        )


def _check_group(estimator: str, settings: SetRLSettings, rollouts: int) -> None:
    if estimator == "set_loo" and rollouts < MIN_GROUP_SET_LOO:
        raise ValueError(
            f"actor_rollout_ref.rollout.n={rollouts} is too few for set_loo, whose leave-one-out credit needs groups "
            f"of at least {MIN_GROUP_SET_LOO}: raise rollout.n."
        )
    if estimator == "grpo_div" and rollouts < 2:
        raise ValueError("actor_rollout_ref.rollout.n=1 leaves grpo_div nothing to compare: set it to at least 2.")
    if estimator not in WITH_COEF:
        _check_set_sizes(objective_of(estimator, settings), settings, rollouts)


def _check_set_sizes(objective: str, settings: SetRLSettings, rollouts: int) -> None:
    """Each bound is checked at the one size of a schedule that breaks it first."""
    smallest, largest = settings.set_sizes[0], settings.set_sizes[-1]
    within = f" (in the schedule {settings.set_size})" if isinstance(settings.set_size, Schedule) else ""
    if largest >= rollouts:
        raise ValueError(
            f"algorithm.set_rl.set_size={largest}{within} must be smaller than "
            f"actor_rollout_ref.rollout.n={rollouts}: with one set a group every advantage is 0."
        )
    if objective == "polychromic" and smallest == 1 and settings.zero_single_cluster:
        cure = "raise set_size"
        if isinstance(settings.set_size, Schedule):
            start, end = settings.set_size.ends
            cure = f"let the schedule {'end' if end <= start and settings.set_size.end is not None else 'start'} at 2"
        raise ValueError(
            f"algorithm.set_rl.set_size=1{within} with algorithm.set_rl.zero_single_cluster=True makes every set "
            f"worth 0: {cure}, or set zero_single_cluster=False."
        )
    if settings.num_sets is not None:
        set_size = min(settings.set_sizes, key=lambda n: math.comb(rollouts, n))
        possible = math.comb(rollouts, set_size)
        if settings.num_sets > possible:
            raise ValueError(
                f"algorithm.set_rl.num_sets={settings.num_sets} is more than the {possible} sets of "
                f"{set_size}{within} among {rollouts} rollouts: lower it, or set it to null for all sets."
            )
