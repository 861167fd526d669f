"""A small experiment and lines of raw results of it."""

from __future__ import annotations

from reproduction.experiment import load

POLYNOMIAL = load("polynomial")
SMALL = POLYNOMIAL.model_copy(
    update={
        "search_seeds": [101],
        "slack": 0.05,
        "evaluation": POLYNOMIAL.evaluation.model_copy(update={"every": 5, "steps": [5, 10]}),
        "methods": {
            "grpo": POLYNOMIAL.methods["grpo"].model_copy(update={"trials": [{"LR": 1}, {"LR": 2}]}),
            "other": POLYNOMIAL.methods["grpo"].model_copy(update={"trials": [{"C": 1}, {"C": 2}]}),
        },
    }
)


def counts(method, settings, correct, distinct, seed=101, **other):
    of = SMALL.identity(SMALL.settings_of(method, settings)) if method in SMALL.methods else SMALL.identity()
    line = {"kind": "counts", "method": method, "settings": settings, "of": of, "seed": seed, "set": "validation"}
    return {**line, "n": 10, "temperature": 1.0, "step": 10, "correct": correct, "distinct": distinct, **other}
