"""The keys under `algorithm.set_rl`: their types and bounds, each by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator

from verl_setpo.trainer.schedule import Schedule

ESTIMATORS = ("set_loo", "poly_epo", "grpo_div", "set_rl")
WITH_COEF = ("set_loo", "grpo_div")
"""Estimators that weigh diversity by `coef`; the others have a `set_size`."""

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
            known = ", ".join(Schedule.model_fields if _SCHEDULE in first["loc"] else known_keys())
            raise ValueError(f"{key} is not a key of verl_setpo; the keys are {known}.") from None
        message = first["msg"].removeprefix("Value error, ")
        # What people write under `signal` may be a URL with a key in it.
        found = "" if first["loc"][0] == "signal" else f" (found {first['input']!r})"
        raise ValueError(f"{key}: {message}{found}.") from None


def known_keys() -> list[str]:
    """The keys that a user may set."""
    return [name for name in SetRLSettings.model_fields if name != "run"]


def objective_of(estimator: str, settings: SetRLSettings) -> str:
    """The set objective in force: poly_epo is the polychromic one by name."""
    return "polychromic" if estimator == "poly_epo" else settings.objective
