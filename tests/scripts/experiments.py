"""A small experiment and lines of raw results of it."""

from __future__ import annotations

from reproduction.experiment import load

POLYNOMIAL = load("polynomial")
SMALL = POLYNOMIAL.model_copy(
    update={
        "search_seeds": [101],
        "slack": 0.05,
        "evaluation": POLYNOMIAL.evaluation.model_copy(update={"every": 5, "steps": [5, 10], "train_prompts": 0}),
        "methods": {
            "grpo": POLYNOMIAL.methods["grpo"].model_copy(update={"trials": [{"LR": 1}, {"LR": 2}]}),
            "other": POLYNOMIAL.methods["grpo"].model_copy(update={"trials": [{"C": 1}, {"C": 2}]}),
        },
    }
)


def counts(method, settings, correct, distinct, seed=101, **other):
    of = SMALL.identity(SMALL.settings_of(method, settings)) if method in SMALL.methods else SMALL.identity()
    line = {"kind": "counts", "method": method, "settings": settings, "of": of, "seed": seed, "set": "validation"}
    line["warm_start"] = SMALL.warm_start_of(seed) if seed in (*SMALL.seeds, *SMALL.search_seeds) else 2
    return {**line, "n": 10, "temperature": 1.0, "step": 10, "correct": correct, "distinct": distinct, **other}


def whole_run(method, settings, seed, held_out):
    """All lines of a run: its checkpoints and its curves."""
    lines = [counts(method, settings, [9], [1], seed, set=held_out, step=step) for step in (5, 10)]
    return [*lines, {**lines[0], "kind": "curves", "set": None, "temperature": None, "step": None}]
