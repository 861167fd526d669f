"""One estimator over several values of one key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from verl_setpo.credit.figures import Figures, figures_of
from verl_setpo.credit.methods import Choice
from verl_setpo.credit.trainer import Bench

MOST_VALUES = 50


@dataclass(frozen=True)
class Sweep:
    """figures: one a value; their flips are against the first value."""

    choice: Choice
    key: str
    values: list[float]
    figures: list[Figures]


def parse_values(text: str, option: str, whole: bool) -> list[float]:
    """Numbers separated by commas; whole ones also as a range, "2-7".

    Raises:
        ValueError: something else, fewer than two, or one twice.
    """
    values: list[float] = []
    try:
        for part in text.split(","):
            low, dash, high = part.strip().partition("-")
            if whole and dash:
                values += range(int(low), min(int(high), int(low) + MOST_VALUES) + 1)
            else:
                values.append(int(part) if whole else float(part))
    except ValueError:
        values = []
    if not 2 <= len(values) <= MOST_VALUES or len(set(values)) < len(values) or not all(map(math.isfinite, values)):
        such = "2,4,6 or 2-6" if whole else "0.1,0.5,2"
        raise ValueError(f"{option} {text} cannot be read: give 2 to {MOST_VALUES} different numbers, such as {such}.")
    return values


def choices_over(choices: Sequence[Choice], key: str, values: Sequence[float]) -> list[list[Choice]]:
    """For each choice that reads the key, itself with each value.

    Raises:
        ValueError: none reads it.
    """
    able = [choice for choice in choices if (choice.by_coef if key == "coef" else choice.by_set_size)]
    if not able:
        needed = "set_loo or grpo_div" if key == "coef" else "poly_epo or pass_at_n, or an --objective"
        raise ValueError(f"--sweep-{key.replace('_', '-')} needs an estimator with a {key}: add {needed}.")
    return [[choice.having(**{key: value}) for value in values] for choice in able]


def sweep(bench: Bench, row: Sequence[Choice], key: str, reward_range: tuple[float, float]) -> Sweep:
    """The figures of each of a row's choices, which differ in `key`."""
    figures: list[Figures] = []
    first = bench.credit(row[0])
    for place, choice in enumerate(row):
        credited = bench.credit(choice) if place else first
        figures.append(figures_of(bench, credited, reward_range, first))
    return Sweep(row[0], key, [choice.keys[key] for choice in row], figures)
