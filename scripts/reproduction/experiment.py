"""An experiment as its YAML file in scripts/experiments/ gives it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FOLDER = Path(__file__).resolve().parent.parent / "experiments"
INPUTS = {"task", "data", "validation", "warm_starts"}
RECIPE = Path(__file__).resolve().parent.parent.parent / "recipes" / "cpu" / "run_tiny_fsdp.sh"
_ITS_OWN = {"TASK", "DATA_DIR", "REWARD_PATH", "MODEL_PATH", "RUN_DIR", "STEPS", "SEED", "TEST_FREQ", "VAL_N", "PYTHON"}
RECIPES_VARIABLES = dict(re.findall(r"^([A-Z_]+)=\$\{\1:-([^}]*)\}", RECIPE.read_text(), re.MULTILINE))
"""Variables of the recipe and their defaults."""
VARIABLES = [name for name in RECIPES_VARIABLES if name not in _ITS_OWN]
"""Those that settings may have; the others are given by the experiment."""
RESPONSE = "MAX_RESPONSE_LENGTH"
Settings = dict[str, Any]
"""Variables of recipes/cpu/run_tiny_fsdp.sh (in capitals) and overrides of verl (dotted keys)."""


def recipes_own(key: str) -> int:
    """The number that the recipe gives one of verl's keys."""
    found = re.search(rf"^ +{re.escape(key)}=(\d+)", RECIPE.read_text(), re.MULTILINE)
    assert found is not None, key
    return int(found[1])


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WarmStarts(_Strict):
    """Starting models. seeds: one model each. options: of `verl-setpo data tiny-model`."""

    seeds: list[int] = Field(min_length=1)
    options: dict[str, Any] = {}


class Evaluation(_Strict):
    """How checkpoints are looked at. steps: which (a multiple of `every`; 0 is the starting model).

    n: samples a prompt. temperatures: the last is that of every step; with the others only start and end are looked at.
    train_prompts: so many training prompts are looked at too.
    """

    every: int = Field(default=5, ge=1)
    steps: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    n: int = Field(default=64, ge=2)
    temperatures: list[Annotated[float, Field(gt=0)]] = Field(default=[1.0], min_length=1)
    max_tokens: int = Field(ge=1)
    train_prompts: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _on_the_grid(self) -> Evaluation:
        wrong = [step for step in self.steps if step % self.every]
        if wrong:
            raise ValueError(f"steps has {wrong[0]}, which is no multiple of every, {self.every}")
        if not any(self.steps):
            raise ValueError("steps has no step but 0: there is nothing to train")
        return self

    def looked_at(self, temperature: float) -> list[int]:
        """The steps of a run at a temperature, without the starting model."""
        steps = sorted({step for step in self.steps if step})
        return steps if temperature == self.temperatures[-1] else steps[-1:]


class Method(_Strict):
    """One method. trials: settings to choose from on validation prompts; each is added to `settings`.

    A trial that two methods have is run once. label: in tables and plots.
    """

    label: str
    settings: Settings
    trials: list[Settings] = Field(default=[{}], min_length=1)


class Experiment(_Strict):
    """One table and its plots.

    Args:
        task: one of the package's, or a file beside this one, for `verl-setpo data own`.
        data: options of `verl-setpo data TASK`; its held-out prompts are parted into validation and test.
        validation: held-out prompts for choices; the others are for the report.
        settings: of all methods.
        seeds: of training; the k-th goes with the k-th warm start, round and round.
        search_seeds: of the trials; disjoint from `seeds`.
        baseline: the method that others are compared with.
        controls: methods that the others are compared with at equal accuracy, beside the baseline.
        slack: a trial whose validation pass@1 is within this of the baseline's best comes before others; see `choose`.
        extends: another experiment, which gives all that is not given here; prompts and starting models are its own.
        search_of: another experiment of the same methods, whose choices count here too.
    """

    name: str
    title: str
    task: str
    data: dict[str, Any]
    validation: int = Field(ge=2)
    warm_starts: WarmStarts
    settings: Settings
    evaluation: Evaluation
    methods: dict[str, Method]
    seeds: list[int] = Field(min_length=1)
    search_seeds: list[int] = []
    baseline: str = "grpo"
    controls: list[str] = []
    slack: float = 0.05
    extends: str | None = None
    search_of: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Experiment:
        if self.baseline not in self.methods:
            raise ValueError(f"baseline is {self.baseline}, which is none of the methods: {', '.join(self.methods)}")
        for name in self.controls:
            if name not in self.methods:
                raise ValueError(f"controls has {name}, which is none of the methods: {', '.join(self.methods)}")
        if "start" in self.methods:
            raise ValueError("methods has start, which is the name of the starting models in the results")
        held_out = self.data.get("test-size")
        if not isinstance(held_out, int) or self.validation >= held_out:
            raise ValueError(
                f"data.test-size must be a number above validation, {self.validation}: the rest is reported"
            )
        of_methods = [settings for method in self.methods.values() for settings in (method.settings, *method.trials)]
        for settings in (self.settings, *of_methods):
            _check_settings(settings)
        for name in ("TRAIN_BATCH_SIZE", "ROLLOUT_N"):
            if name not in self.settings:
                raise ValueError(f"settings must have {name}")
        longest = int(self.settings.get(RESPONSE, RECIPES_VARIABLES[RESPONSE]))
        if self.evaluation.max_tokens != longest:
            raise ValueError(
                f"evaluation.max_tokens is {self.evaluation.max_tokens}, but {RESPONSE} {longest}: what is trained and "
                "what is looked at must be as long"
            )
        if self.searched and not self.search_seeds:
            raise ValueError("search_seeds has none, and there are methods with several trials")
        both = set(self.seeds) & set(self.search_seeds)
        if both:
            raise ValueError(f"seeds and search_seeds share {min(both)}: the report must not use what was chosen by")
        return self

    @property
    def searched(self) -> bool:
        """Whether a search of its own comes first."""
        return self.search_of is None and any(len(method.trials) > 1 for method in self.methods.values())

    @property
    def own_task(self) -> Path | None:
        """The file of a task that is not the package's."""
        return FOLDER / self.task if self.task.endswith(".py") else None

    def inputs(self) -> str:
        """What prompts and starting models are of, as a short hash."""
        return _short(self._of_inputs())

    def _of_inputs(self) -> dict[str, Any]:
        of = self.model_dump(include=INPUTS)
        if self.own_task:
            of["task"] = self.own_task.read_text()
        return of

    def identity(self, settings: Settings | None = None) -> str:
        """What a result is of, as a short hash: a training with a method's settings, or the starting models (None).

        A result of another identity is not this experiment's as its file is now.
        """
        of = self._of_inputs()
        of["evaluation"] = {"n": self.evaluation.n, "max_tokens": self.evaluation.max_tokens}
        if settings is not None:
            of["settings"], of["steps"] = {**self.settings, **settings}, max(self.evaluation.steps)
        return _short(of)

    def settings_of(self, method: str, trial: Settings) -> Settings:
        """What a method adds to the settings of all methods, in one of its trials."""
        return {**self.methods[method].settings, **trial}

    def warm_start_of(self, seed: int) -> int:
        """The warm start that a seed goes with."""
        seeds = self.seeds if seed in self.seeds else self.search_seeds
        return self.warm_starts.seeds[seeds.index(seed) % len(self.warm_starts.seeds)]


def _short(of: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:12]


def _check_settings(settings: Settings) -> None:
    for name, value in settings.items():
        if name not in VARIABLES and not {".", "/"} & set(name):
            raise ValueError(f"settings have {name}, which is none of the recipe's {', '.join(VARIABLES)}")
        if value is None:
            raise ValueError(f"settings have {name} without a value: leave it out, or write 'null' in quotes")


def load(name: str) -> Experiment:
    """Raises ValueError, one sentence, for a name without a file or a file that does not hold."""
    path = FOLDER / f"{name}.yaml"
    content = _read(path)
    if base := content.get("extends"):
        inputs = INPUTS & set(content)
        if inputs:
            raise ValueError(f"{path}: {min(inputs)} is that of {base}, which this experiment extends: leave it out")
        of_base = _read(FOLDER / f"{base}.yaml")
        if further := of_base.get("extends"):
            raise ValueError(f"{path}: extends {base}, which extends {further} itself: extend {further}")
        whole = OmegaConf.merge(of_base, content)
        content = OmegaConf.to_container(whole)
        content["methods"] = {name: method for name, method in content["methods"].items() if method is not None}
    try:
        experiment = Experiment(**content)
    except ValidationError as error:
        # A key that is not known says more than one that is missing, for which it may stand.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path}: {where}{': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from None
    if experiment.name != name:
        raise ValueError(f"{path}: name is {experiment.name}, but the file is {path.name}: both must be the same")
    if experiment.own_task and not experiment.own_task.is_file():
        raise ValueError(f"{path}: task is {experiment.task}, and there is no {experiment.own_task}")
    if other := experiment.search_of:
        searched = _read(FOLDER / f"{other}.yaml").get("methods", {})
        for method in (method for method, of in experiment.methods.items() if len(of.trials) > 1):
            if method not in searched:
                raise ValueError(f"{path}: {method} has trials to choose from, and the search of {other} is not of it")
    return experiment


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise ValueError(f"There is no experiment {path.stem!r}: choose one of {there}.")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no keys: an experiment has {', '.join(Experiment.model_fields)}")
    return content
