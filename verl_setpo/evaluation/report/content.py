"""All that the page shows, from the runs and their comparison: the only place that reads files a second time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from verl_setpo.evaluation.comparison import Comparison, Estimate
from verl_setpo.evaluation.formats import estimate_json
from verl_setpo.evaluation.report.curves import (
    EstimateCurve,
    branching_curve,
    curve_keys,
    curve_lines,
    majority_curve,
    positions_for,
)
from verl_setpo.evaluation.report.notes import notes_on_rollouts
from verl_setpo.evaluation.report.pairs import (
    Model,
    PairedRow,
    ProblemFigures,
    model_pairs,
    most_changed,
    paired_rows,
    problem_figures,
    validated_models,
)
from verl_setpo.evaluation.report.show import Rollout, cut_json, group_json, short
from verl_setpo.evaluation.report.texts import Texts, read_texts, shown_chars
from verl_setpo.evaluation.report.training_groups import Prompt, TrainingGroups, training_groups
from verl_setpo.evaluation.runs import Run

Json = dict[str, Any]

MOST_PROBLEMS = 300  # with their rollouts in the page
PROBLEM_BYTES, TRAINING_BYTES = 4_000_000, 2_000_000  # of their texts, so that the page opens at once
MOST_PREVIEW_BYTES = 4_000_000


@dataclass(frozen=True)
class Content:
    """What was found. A part that the runs have no files for is empty or None."""

    paired: list[PairedRow] = field(default_factory=list)
    majority: list[EstimateCurve] = field(default_factory=list)
    branching: list[EstimateCurve] = field(default_factory=list)
    problems: Json | None = None  # held-out problems for the page's script: see `_problems_json`
    training: Json | None = None  # training prompts in the same form
    notes: list[str] = field(default_factory=list)  # on files of rollouts


def build_content(runs: Sequence[Run], comparison: Comparison | None) -> Content:
    """Read the texts of chosen problems and prompts, and measure what needs more than counts.

    Raises:
        OSError: a file cannot be read.
    """
    groups = training_groups(runs)
    training, notes = _training_json(runs, groups), notes_on_rollouts(runs, groups)
    models = validated_models(runs) if comparison is not None else []
    if comparison is None or not models:
        return Content(training=training, notes=notes)
    keys, num_samples = comparison.keys, comparison.num_samples
    figures = [problem_figures(model, keys, num_samples) for model in models]
    pairs = model_pairs(models)
    # Every trained model differs from the start: where there are runs to compare, their differences are read first.
    between_runs = [pair for pair in pairs if not models[pair[0]].is_start]
    order = most_changed(figures, between_runs or pairs)
    chosen = _affordable([keys[p] for p in order], models)
    texts: list[Texts] = []
    vocabulary: dict[str, int] = {}
    for i, model in enumerate(models):
        previews = keys if i == 0 else ()
        texts.append(read_texts(model.validation, chosen, curve_keys(keys), previews, num_samples, vocabulary))
    longest = max((len(ids) for text in texts for group in text.piece_ids.values() for ids in group), default=0)
    lines = curve_lines(models, comparison.starts)
    majority = [majority_curve(line, models, curve_keys(keys), num_samples) for line in lines]
    piece_ids = [[text.piece_ids[key] for key in curve_keys(keys)] for text in texts]
    return Content(
        paired=paired_rows(models, figures, pairs, num_samples, comparison.ways),
        majority=[curve for curve in majority if curve is not None],
        branching=[branching_curve(line, piece_ids, positions_for(longest)) for line in lines],
        problems=_problems_json(models, keys, order, figures, pairs, chosen, texts),
        training=training,
        notes=notes,
    )


def _affordable(ordered: Sequence[str], models: Sequence[Model]) -> list[str]:
    """The first problems whose responses fit into the page, at least one."""
    chosen: list[str] = []
    chars = 0
    for key in ordered[:MOST_PROBLEMS]:
        for model in models:
            chars += shown_chars(model.validation.problems[key], model.validation.has_answers)
        if chosen and chars > PROBLEM_BYTES:
            break
        chosen.append(key)
    return chosen


def _problems_json(
    models: Sequence[Model],
    keys: Sequence[str],
    order: Sequence[int],
    figures: Sequence[ProblemFigures],
    pairs: Sequence[tuple[int, int]],
    chosen: Sequence[str],
    texts: Sequence[Texts],
) -> Json:
    """`problems` has a line of each problem, `figures` for each problem and model share correct, samples and distinct
    correct answers, `texts` the rollouts of some, by their place in `problems`."""
    previews = texts[0].previews
    preview_chars = min(160, max(20, MOST_PREVIEW_BYTES // max(len(keys), 1)))
    rows = []
    for p in order:
        row = []
        for model, figure in zip(models, figures, strict=True):
            distinct = None if figure.distinct_P is None else round(float(figure.distinct_P[p]), 2)
            n = model.validation.problems[keys[p]].num_samples
            row.append([round(float(figure.share_correct_P[p]), 4), n, distinct])
        rows.append(row)
    entries = []
    for key in chosen:  # the first of `order`
        groups: list[list[Rollout] | None] = [text.rollouts[key] for text in texts]
        first = texts[0]
        entries.append(_entry(first.truths.get(key, ""), first.prompts.get(key), groups))
    return {
        "models": [{"name": short(model.label, 60), "run": model.run, "start": model.is_start} for model in models],
        "problems": [short(previews.get(keys[p], ""), preview_chars) for p in order],
        "figures": rows,
        "pairs": [list(pair) for pair in pairs],
        "texts": _within(entries, PROBLEM_BYTES),
        "percent": True,
        "by_change": True,
        "distinct": "distinct",
    }


def _training_json(runs: Sequence[Run], groups: TrainingGroups) -> Json | None:
    """Training prompts in the form of `_problems_json`, with mean reward and clusters for figures."""
    if not groups.chosen:
        return None
    having = sorted({r for found in groups.rollouts.values() for r in found})
    entries, figures = [], []
    for prompt in groups.chosen:
        found = [groups.rollouts[prompt].get(r) for r in having]
        figures.append([None if rollouts is None else _training_figures(rollouts) for rollouts in found])
        entries.append(_entry("", groups.prompts.get(prompt), found))
    return {
        "models": [{"name": short(runs[r].label, 60), "run": r, "start": False} for r in having],
        "problems": [_training_title(prompt, groups) for prompt in groups.chosen],
        "figures": figures,
        "pairs": [[0, i] for i in range(1, len(having))],
        "by_change": False,  # but by step and credit: see `training_groups`
        "with_credit": groups.with_credit,
        "texts": _within(entries, TRAINING_BYTES),
        "percent": False,
        "distinct": "clusters",
    }


def _training_figures(rollouts: Sequence[Rollout]) -> list[float | None]:
    rewards = [rollout.reward for rollout in rollouts if rollout.reward is not None]
    mean = round(sum(rewards) / len(rewards), 4) if rewards else None
    return [mean, len(rollouts), len({rollout.cluster for rollout in rollouts})]


def _training_title(prompt: Prompt, groups: TrainingGroups) -> str:
    step, name = prompt
    question = groups.prompts.get(prompt)
    return short(f"step {step}: {name if question is None else question.head}")


def _entry(truth: str, prompt: Any, groups: Sequence[Sequence[Rollout] | None]) -> Json:
    return {
        "truth": truth,
        "prompt": None if prompt is None else cut_json(prompt),
        "groups": [None if rollouts is None else group_json(rollouts) for rollouts in groups],
    }


def _within(entries: Sequence[Json], most_bytes: int) -> list[Json]:
    """The first entries that fit, at least one: characters that do not print take up to ten bytes each."""
    kept: list[Json] = []
    size = 0
    for entry in entries:
        size += len(json.dumps(entry))
        if kept and size > most_bytes:
            break
        kept.append(entry)
    return kept


def content_json(content: Content) -> Json:
    """The figures, without any text of a rollout, as plain JSON values."""
    return {
        "paired": [
            {
                "from": row.first,
                "to": row.second,
                "figure": row.figure,
                "difference": Estimate(row.result.difference, *row.result.interval)._asdict(),
                "gained": row.result.gained,
                "lost": row.result.lost,
                "tied": row.result.tied,
                "p_value": row.result.p_value,
            }
            for row in content.paired
        ],
        "majority_at_k": [_curve_json(curve) for curve in content.majority],
        "branches_by_words": [_curve_json(curve) for curve in content.branching],
    }


def _curve_json(curve: EstimateCurve) -> Json:
    points = {str(x): estimate_json(y) for x, y in zip(curve.x, curve.y, strict=True)}
    return {"label": curve.line.label, "points": points}
