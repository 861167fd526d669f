"""What the command is asked for, and which estimators, keys and sweeps that makes on a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_setpo.credit.methods import DEFAULTS, NEED_CLUSTERS, Choice, check, choices_of, fitting, with_set_size
from verl_setpo.credit.options import option
from verl_setpo.credit.sweep import choices_over, parse_values


@dataclass(frozen=True)
class Asked:
    """The command's options. keys: those of `algorithm.set_rl` that were given. signal: None to go by the file."""

    path: Path
    estimators: list[str] | None = None
    objectives: list[str] = field(default_factory=list)
    keys: Mapping[str, Any] = field(default_factory=dict)
    signal: str | None = None
    signal_arguments: list[str] = field(default_factory=list)
    tokenizer: str | None = None
    step: int | None = None
    limit: int | None = None
    sweep_set_size: str | None = None
    sweep_coef: str | None = None


def chosen(asked: Asked, signal: str, provides: str, rollouts: int) -> tuple[list[Choice], list[str]]:
    """The estimators asked for, or those of the defaults that signal and groups are enough for; and notes."""
    names, notes = asked.estimators, []
    if names is None:
        names = list(DEFAULTS)
        if provides == "kernel":
            names = [name for name in DEFAULTS if name not in NEED_CLUSTERS]
            notes.append(f"{signal} gives no clusters, so {' and '.join(NEED_CLUSTERS)}, which need them, are left out")
        names, small = fitting(names, rollouts)
        notes += small
    choices, fitted = with_set_size(choices_of(names, asked.objectives, asked.keys), rollouts)
    return choices, notes + fitted


def sweeps_of(asked: Asked, choices: Sequence[Choice], signal: str, provides: str) -> list[tuple[list[Choice], str]]:
    """For each sweep asked for and each estimator that it is of, the estimator with each value, and the key."""
    rows = []
    for key, text in (("set_size", asked.sweep_set_size), ("coef", asked.sweep_coef)):
        if text is None:
            continue
        values = parse_values(text, name := f"--sweep-{option(key)[2:]}", whole=key == "set_size")
        if key == "set_size" and provides == "kernel" and not any(choice.by_set_size for choice in choices):
            raise ValueError(
                f"{name} is for estimators by sets of clusters, and {signal} gives none: choose --signal answer or "
                "judge, or add --objective vendi, which goes by similarities."
            )
        rows += [(row, key) for row in choices_over(choices, key, values)]
    return rows


def check_keys(
    rollouts: int,
    choices: Sequence[Choice],
    rows: Sequence[tuple[list[Choice], str]],
    signal_keys: dict[str, Any],
) -> None:
    """Raise ValueError for what would stop a run at its start. rollouts: the most of a prompt."""
    for row, swept in [(choices, ""), *rows]:
        for choice in row:
            try:
                if choice.group is not None:
                    check(choice, rollouts, signal_keys)
            except ValueError as error:
                given = option(swept) if swept else ""
                raise ValueError(str(error).replace(given, f"--sweep-{given[2:]}") if given else str(error)) from None
