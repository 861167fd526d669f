"""The keys under `algorithm.set_rl`, and what must hold before a run starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.reward import resolve_reward_manager_cls

from verl_setpo.set_rl import ENUMERATION_LIMIT, SHAPINGS, get_objective
from verl_setpo.signals import build_signal, signal_class
from verl_setpo.trainer.schedule import Schedule

ESTIMATORS = ("set_loo", "poly_epo", "grpo_div", "set_rl")
WITH_COEF = ("set_loo", "grpo_div")
"""Estimators that weigh diversity by `coef`; the others have a `set_size`."""

_OF_SETS = ("set_size", "num_sets", "zero_single_cluster", "reduction")
_OF_COEF = ("coef", "target_share", "max_coef")
_FOREIGN_KEYS = {
    "set_loo": (*_OF_SETS, "objective", "reward_range", "seed"),
    "grpo_div": (*_OF_SETS, "objective", "shaping", "center", "seed"),
    "poly_epo": (*_OF_COEF, "objective", "shaping", "center"),
    "set_rl": (*_OF_COEF, "shaping", "center"),
}
"""Keys that a method does not read. Given all the same, they would change nothing, and nobody would see."""

TRAINER_MODES = {
    "set_sync": "sync",
    "set_colocate_async": "colocate_async",
    "set_separate_async": "separate_async",
}
"""Our trainer modes, and verl's mode that each extends."""

MIN_GROUP_SET_LOO = 3  # SetPO Eq. 4: a group without one of its rollouts must still hold a pair.


_NUMBER, _SCHEDULE, _AUTO = "<number>", "<schedule>", "<auto>"
_FORMS = (_NUMBER, _SCHEDULE, _AUTO)


def _form(value: Any) -> str | None:
    """Which form of a key the value is meant to be, so that an error is about that form only."""
    if isinstance(value, Mapping | Schedule):
        return _SCHEDULE
    if value == "auto":
        return _AUTO
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return _NUMBER


def _at_least(lowest: float) -> Callable[[Schedule], Schedule]:
    def check(schedule: Schedule) -> Schedule:
        if min(schedule.ends) < lowest:
            raise ValueError(f"its start and end should be greater than or equal to {lowest:g}")
        return schedule

    return check


Coef = Annotated[
    Annotated[float, Field(ge=0, allow_inf_nan=False), Tag(_NUMBER)]
    | Annotated[Schedule, AfterValidator(_at_least(0)), Tag(_SCHEDULE)]
    | Annotated[Literal["auto"], Tag(_AUTO)],
    Discriminator(
        _form,
        custom_error_type="coef_form",
        custom_error_message="Input should be a valid number, a schedule such as "
        "{schedule:linear,start:5,end:0.5,steps:200}, or auto with target_share",
    ),
]
SetSize = Annotated[
    Annotated[int, Field(ge=1), Tag(_NUMBER)] | Annotated[Schedule, AfterValidator(_at_least(1)), Tag(_SCHEDULE)],
    Discriminator(
        lambda value: None if _form(value) == _AUTO else _form(value),
        custom_error_type="set_size_form",
        custom_error_message="Input should be a valid integer, or a schedule such as "
        "{schedule:linear,start:4,end:2,steps:200}",
    ),
]


class SignalSettings(BaseModel):
    """`algorithm.set_rl.signal`: `name`, and the keys of that signal."""

    model_config = ConfigDict(extra="allow")
    name: str


class RunSettings(BaseModel):
    """Written by the trainer, for the reward workers: what the run is called, and how many nodes its cluster has."""

    name: str
    nodes: int


class SetRLSettings(BaseModel):
    """`algorithm.set_rl`. See `config/set_rl/*.yaml` for each key's meaning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    estimator: str | None = None
    coef: Coef = 0.0
    target_share: float | None = Field(default=None, gt=0, lt=1)
    max_coef: float = Field(default=100.0, gt=0, allow_inf_nan=False)
    base_estimator: str | None = None
    shaping: str = "neg_log1p"
    center: bool = False
    set_size: SetSize = 4
    num_sets: int | None = Field(default=None, ge=1)
    objective: str = "polychromic"
    zero_single_cluster: bool = True
    reduction: Literal["mean", "sum"] = "mean"
    reward_range: tuple[float, float] = (0.0, 1.0)
    correct_threshold: float = 0.5
    signal: SignalSettings
    reward_manager: str | dict[str, Any] = "naive"
    on_signal_failure: Literal["base_advantage", "error"] = "base_advantage"
    max_failed_fraction: float = Field(default=0.5, ge=0, le=1)
    rollout_log: str | None = None
    seed: int = 0
    run: RunSettings | None = None

    @field_validator("base_estimator")
    @classmethod
    def _not_one_of_ours(cls, name: str | None) -> str | None:
        if name in ESTIMATORS:
            raise ValueError(f"is {name!r}, but must be an estimator of verl's own, such as grpo or rloo")
        return name

    @field_validator("estimator")
    @classmethod
    def _one_of_ours(cls, name: str | None) -> str | None:
        if name is not None and name not in ESTIMATORS:
            raise ValueError(f"is {name!r}, but must be one of {', '.join(ESTIMATORS)}")
        return name

    @field_validator("reward_range")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError(f"is {list(bounds)}, but must be [lowest, highest], finite, with lowest < highest")
        return bounds

    def set_size_at(self, step: int) -> int:
        """The set size in force in a training step; a schedule is rounded to the nearest whole number."""
        return self.set_size if isinstance(self.set_size, int) else round(self.set_size.at(step))

    @property
    def set_sizes(self) -> range:
        """All set sizes that a run can come by."""
        ends = self.set_size.ends if isinstance(self.set_size, Schedule) else (self.set_size, self.set_size)
        return range(round(min(ends)), round(max(ends)) + 1)

    @property
    def coef_text(self) -> str:
        """`coef` in a word, for the log."""
        return f"auto (target_share {self.target_share})" if self.coef == "auto" else str(self.coef)

    @property
    def signal_keys(self) -> dict[str, Any]:
        """The keys of `signal` other than its name."""
        return dict(self.signal.model_extra or {})


def read_settings(algorithm: DictConfig) -> SetRLSettings:
    """Validate `algorithm.set_rl`.

    Raises ValueError with one sentence that names the key and the cure.
    """
    subtree = algorithm.get("set_rl")
    if subtree is None:
        raise ValueError(
            f"algorithm.adv_estimator={algorithm.get('adv_estimator')} has no algorithm.set_rl: "
            "add +set_rl=set_loo, poly_epo, pass_at_n or grpo_div to the command line."
        )
    try:
        return SetRLSettings.model_validate(OmegaConf.to_container(subtree, resolve=True))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["algorithm.set_rl", *(str(part) for part in first["loc"] if part not in _FORMS)])
        if first["type"] == "extra_forbidden":
            known = ", ".join(Schedule.model_fields if _SCHEDULE in first["loc"] else _keys())
            raise ValueError(f"{key} is not a key of verl_setpo; the keys are {known}.") from None
        message = first["msg"].removeprefix("Value error, ")
        # What people write under `signal` may be a URL with a key in it.
        found = "" if first["loc"][0] == "signal" else f" (found {first['input']!r})"
        raise ValueError(f"{key}: {message}{found}.") from None


def _keys() -> list[str]:
    """The keys that a user may set."""
    return [name for name in SetRLSettings.model_fields if name != "run"]


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
    _check_base(base)
    for key in _FOREIGN_KEYS[estimator]:
        if key in settings.model_fields_set:
            has = [name for name in _keys() if name not in _FOREIGN_KEYS[estimator]]
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


def objective_of(estimator: str, settings: SetRLSettings) -> str:
    """The set objective in force: poly_epo is the polychromic one by name."""
    return "polychromic" if estimator == "poly_epo" else settings.objective


def wrong_mode_message(estimator: str, mode: str | None = None) -> str:
    """The sentence for an estimator of ours under a trainer mode that is not."""
    has = f" (it is {mode})" if mode else ""
    return (
        f"algorithm.adv_estimator={estimator} needs a trainer mode that brings it the group's diversity signal{has}: "
        "set trainer.v1.trainer_mode=set_sync (or set_colocate_async, set_separate_async), "
        f"or add +set_rl={'pass_at_n' if estimator == 'set_rl' else estimator}, which sets all that is needed."
    )


def _check_base(base: str) -> None:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    if base not in ADV_ESTIMATOR_REGISTRY:
        known = ", ".join(name for name in ADV_ESTIMATOR_REGISTRY if name not in ESTIMATORS)
        raise ValueError(f"algorithm.set_rl.base_estimator={base} is unknown to verl; it has {known}.")


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
