"""Mistakes that the command line of a verl run shows, found before verl starts anything.

A set estimator under one of verl's own trainer modes runs none of our code before the first advantage, and `+set_rl=`
without our Hydra search path becomes a plain key that nobody reads. What the command line does not show (keys in a
config file), the trainer and the estimators find themselves.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

ESTIMATORS = ("set_loo", "poly_epo", "grpo_div", "set_rl")
GROUPS = ("set_rl", "platform")


def check_command_line(argv: Sequence[str]) -> None:
    """Raise SystemExit with one sentence where the overrides in `argv` cannot work together."""
    message = find_mistake(argv)
    if message:
        raise SystemExit(f"verl_setpo: {message}")


def find_mistake(argv: Sequence[str]) -> str | None:
    """The sentence for the first mistake, or None. Says nothing of command lines that read a config file."""
    overrides = dict(word.lstrip("+").split("=", 1) for word in argv if "=" in word and not word.startswith("-"))
    for group in GROUPS:
        if group in overrides and "verl.trainer" in " ".join(argv) and not _search_path_installed():
            return (
                f"+{group}={overrides[group]} would be ignored, because Hydra cannot see this package's search path: "
                "reinstall verl-setpo (pip install verl-setpo, or pip install -e . in its repository)."
            )
    if "set_rl" in overrides or any(word.startswith(("--config-", "-cn", "-cp")) for word in argv):
        return None
    estimator = overrides.get("algorithm.adv_estimator")
    mode = overrides.get("trainer.v1.trainer_mode", "sync")
    ours = mode.startswith("set_")
    if estimator in ESTIMATORS and not ours:
        return (
            f"algorithm.adv_estimator={estimator} needs trainer.v1.trainer_mode=set_sync (or set_colocate_async, "
            f"set_separate_async): add +set_rl={'pass_at_n' if estimator == 'set_rl' else estimator}, "
            "which sets all that is needed."
        )
    if ours and estimator not in ESTIMATORS:
        return (
            f"trainer.v1.trainer_mode={mode} needs algorithm.adv_estimator to be one of {', '.join(ESTIMATORS)}: "
            "set it, or add +set_rl=set_loo, poly_epo, pass_at_n or grpo_div, which sets all that is needed."
        )
    return None


def _search_path_installed() -> bool:
    return importlib.util.find_spec("hydra_plugins.verl_setpo_search_path") is not None
