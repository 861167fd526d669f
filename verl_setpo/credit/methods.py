"""The estimators that can be asked for, each with the keys that a run would have, checked as a run checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_setpo.credit.options import in_options, option
from verl_setpo.signals.store.settings import PREFIX
from verl_setpo.trainer.config_check import Method, check_config
from verl_setpo.trainer.settings import MIN_GROUP_SET_LOO, SetRLSettings

BASES = {"grpo": True, "grpo_no_std": False}
"""verl's GRPO, and whether it divides by the standard deviation (`algorithm.norm_adv_by_std_in_grpo`)."""
GROUPS = ("set_loo", "poly_epo", "pass_at_n", "grpo_div")
NAMES = (*GROUPS, *BASES)
DEFAULTS = ("set_loo", "poly_epo", "grpo_div", "grpo")
NEED_CLUSTERS = ("poly_epo", "grpo_div")
"""Of the defaults: those that a signal of similarities is not enough for."""
OF_COEF = ("set_loo", "grpo_div")
SET_SIZE: int = SetRLSettings.model_fields["set_size"].default

_OF_SETS = ("set_size", "num_sets", "reward_range", "seed")
_KEYS = {
    "set_loo": ("coef", "shaping"),
    "grpo_div": ("coef", "reward_range"),
    "poly_epo": (*_OF_SETS, "zero_single_cluster"),
    "pass_at_n": _OF_SETS,
}
"""The keys of `algorithm.set_rl` that can be asked for here, and who reads them."""


@dataclass(frozen=True)
class Choice:
    """An estimator with its keys. name: as in the tables. group: its `+set_rl=`, None for verl's own.

    keys: those of `algorithm.set_rl` that differ from the group's.
    """

    name: str
    group: str | None
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_coef(self) -> bool:
        return self.group in OF_COEF

    @property
    def by_set_size(self) -> bool:
        return self.group is not None and not self.by_coef

    def overrides(self, signal: str, signal_keys: Mapping[str, Any]) -> str:
        """What a run's command line says. The file's own clusters need no word: where they come from is not known."""
        if self.group is None:
            return f"algorithm.adv_estimator=grpo algorithm.norm_adv_by_std_in_grpo={BASES[self.name]}"
        words = [f"+set_rl={self.group}"]
        if signal in ("judge", "embedding"):
            words.append(f"+set_rl/signal={signal}{'_local' if signal_keys.get('kind') == 'local' else ''}")
        elif signal not in ("clusters", "ngram" if self.group == "set_loo" else "answer"):
            words.append(f"algorithm.set_rl.signal.name={signal}")
        words += [f"algorithm.set_rl.{key}={_word(value)}" for key, value in self.keys.items()]
        # Not an address, which may hold a key.
        words += [f"+{PREFIX}{key}={_word(signal_keys[key])}" for key in ("equal", "field", "n") if key in signal_keys]
        return " ".join(words)

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys that can be asked for and that it reads."""
        polychromic = self.group == "pass_at_n" and self.keys.get("objective") == "polychromic"
        return _KEYS["poly_epo" if polychromic else self.group] if self.group else ()

    @property
    def smallest_set(self) -> int:
        """The smallest set size that the trainer takes."""
        return 2 if "zero_single_cluster" in self.reads and self.keys.get("zero_single_cluster", True) else 1

    def having(self, **keys: Any) -> Choice:
        return Choice(self.name, self.group, {**self.keys, **keys})


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(f'{v:g}' for v in value)}]"
    return f"{value:g}" if isinstance(value, float) else f"'{value}'" if ":" in str(value) else str(value)


def choices_of(names: Sequence[str], objectives: Sequence[str], keys: Mapping[str, Any]) -> list[Choice]:
    """One choice for each name and each set objective, with those of `keys` that it reads.

    Raises:
        ValueError: an unknown or repeated name, or a key that no choice reads.
    """
    found = []
    for name in names:
        if name not in NAMES:
            raise ValueError(
                f"--estimator {name} is unknown: use {', '.join(NAMES)}, or --objective for a set objective."
            )
        found.append(Choice(name, None if name in BASES else name))
    found += [Choice(objective, "pass_at_n", {"objective": objective}) for objective in objectives]
    twice = {choice.name for choice in found if sum(other.name == choice.name for other in found) > 1}
    if twice:
        raise ValueError(f"{sorted(twice)[0]} is asked for twice: name each estimator and objective once.")
    for key in keys:
        if not any(key in choice.reads for choice in found):
            names_read = [group for group in GROUPS if key in _KEYS[group]]
            raise ValueError(
                f"{option(key)} changes none of {', '.join(choice.name for choice in found)}: leave it out, or add "
                f"--estimator {' or '.join(names_read)}, which reads it."
            )
    return [choice.having(**{key: value for key, value in keys.items() if key in choice.reads}) for choice in found]


def fitting(names: Sequence[str], rollouts: int) -> tuple[list[str], list[str]]:
    """Those of the estimators that groups of so many rollouts are enough for, and a note of each other."""
    needed = {"set_loo": MIN_GROUP_SET_LOO, "grpo_div": 2, "poly_epo": 3}
    kept = [name for name in names if rollouts >= needed.get(name, 1)]
    return kept, [
        f"{name}, which needs {needed[name]} rollouts of a prompt, is left out: none has more than {rollouts}"
        for name in names
        if name not in kept
    ]


def with_set_size(choices: Sequence[Choice], rollouts: int) -> tuple[list[Choice], list[str]]:
    """The choices with a set size that groups of so many rollouts allow where none was asked for, and a note of it."""
    size = min(SET_SIZE, rollouts - 1)
    changed = [
        choice.by_set_size and "set_size" not in choice.keys and choice.smallest_set <= size < SET_SIZE
        for choice in choices
    ]
    found = [
        choice.having(set_size=size) if change else choice for choice, change in zip(choices, changed, strict=True)
    ]
    note = f"--set-size is {size} in place of {SET_SIZE}, as no prompt has more than {rollouts} rollouts"
    return found, [note] if any(changed) else []


def config_of(choice: Choice, rollouts: int, signal: Mapping[str, Any]) -> DictConfig:
    """The part of a run's config that the trainer's step of advantages reads, from the group's own file."""
    assert choice.group is not None
    path = files("verl_setpo.config") / "set_rl" / f"{choice.group}.yaml"
    algorithm = OmegaConf.create(path.read_text(encoding="utf-8")).algorithm
    # A signal that failed for many groups is told as a finding here; it would end a run.
    algorithm.set_rl = {**algorithm.set_rl, **choice.keys, "signal": dict(signal), "max_failed_fraction": 1.0}
    return OmegaConf.create(
        {
            "algorithm": algorithm,
            "trainer": {"v1": {"trainer_mode": "set_sync"}},
            "actor_rollout_ref": {"rollout": {"n": rollouts}},
        }
    )


def check(choice: Choice, rollouts: int, signal: Mapping[str, Any]) -> tuple[DictConfig, Method]:
    """The config of a choice and the method in it, checked as at the start of a run.

    Raises:
        ValueError: one sentence, in the options of this command.
    """
    config = config_of(choice, rollouts, signal)
    try:
        return config, check_config(config)
    except ValueError as error:
        raise ValueError(in_options(str(error))) from None
