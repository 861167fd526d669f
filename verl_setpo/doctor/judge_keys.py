"""A judge's settings from arguments as they stand on verl's command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_setpo.signals.judge import JudgeSettings
from verl_setpo.signals.store.settings import PREFIX, StoreSettings

OTHER_KEYS = {"name", "kind"} | StoreSettings.model_fields.keys()
"""Of the signal and its store, not of the judge: left out, so that a recipe's lines can be pasted."""


def parse_settings(arguments: Sequence[str]) -> JudgeSettings:
    """The settings of arguments KEY=VALUE, `PREFIX` and a + before it stripped.

    ValueError is one sentence that names the first wrong key. It shows no value: that may be an API key.
    """
    config = OmegaConf.create()
    for number, argument in enumerate(arguments, 1):
        _add(config, number, argument)
    try:
        keys = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:
        raise ValueError("A value with ${...} cannot be resolved here: write out what it stands for.") from None
    return JudgeSettings.from_keys(cast(dict[str, Any], keys))


def _add(config: DictConfig, number: int, argument: str) -> None:
    """Read as Hydra reads it, since a recipe's lines are written for that."""
    key, separator, _ = argument.partition("=")
    if not separator:
        raise ValueError(f"Argument {number} is not KEY=VALUE, such as model=NAME.")
    try:
        override = OverridesParser.create().parse_override(argument)
        _check(override, key)
        key = override.key_or_group.removeprefix(PREFIX)
        if key.startswith("extra_body."):
            OmegaConf.update(config, key, override.value())
        elif key not in OTHER_KEYS:
            config[key] = override.value()  # one with dots stays whole, to be refused by its full name
    except (HydraException, OmegaConfBaseException):
        raise ValueError(
            f"{key}: its value cannot be read; quote it as on verl's command line, such as '{key}=\"a value\"'."
        ) from None


def _check(override: Override, key: str) -> None:
    if not override.key_or_group or override.package is not None or override.is_delete():
        raise ValueError(f"{key} is no key: write KEY=VALUE, such as model=NAME.")
    if override.is_sweep_override():
        raise ValueError(f"{key} has several values: give one, or a list in brackets for base_url.")
