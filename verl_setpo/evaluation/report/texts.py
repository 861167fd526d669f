"""Second reading of a validation file: the texts of chosen problems, and a line of each other.

The first reading keeps no texts, so which ones are shown is known before any is held.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_setpo.evaluation.generations import (
    STRATEGY,
    Problem,
    Sample,
    Validation,
    parse_sample,
    split_uid,
    way_of,
)
from verl_setpo.evaluation.jsonl import BrokenLineError
from verl_setpo.evaluation.report.curves import pieces
from verl_setpo.evaluation.report.rollout_files import json_rows
from verl_setpo.evaluation.report.show import (
    HEAD_CHARS,
    MOST_TEXTS,
    NO_ANSWER,
    NO_STRATEGY,
    TAIL_CHARS,
    Cut,
    Rollout,
    answer_in,
    cut,
    short,
)
from verl_setpo.evaluation.runs import finite

_PREVIEW_CHARS = 3000  # of a prompt, held to find what all prompts begin and end with


@dataclass(frozen=True)
class Texts:
    """What was read of one validation, by the keys of problems."""

    prompts: dict[str, Cut]  # of the chosen problems
    truths: dict[str, str]
    rollouts: dict[str, list[Rollout]]
    piece_ids: dict[str, list[list[int]]]  # for the branching curve, by session
    previews: dict[str, str]  # of all problems, one line each


def read_texts(
    validation: Validation,
    chosen: Collection[str],
    branching: Collection[str],
    previews: Collection[str],
    num_samples: int,
    vocabulary: dict[str, int],
) -> Texts:
    """Read the validation's file again.

    Args:
        chosen: problems whose texts are wanted; branching: those whose first pieces are; previews: those whose first
            line is.
        num_samples: sessions of a problem that count for branching.
        vocabulary: ids of pieces, which grows; one for all files makes them comparable.

    Raises:
        OSError: the file cannot be read.
    """
    wanted = set(chosen) | set(branching) | set(previews)
    key_of = {problem.prompt: key for key, problem in validation.problems.items() if key in wanted}
    chosen, branching, previews = set(chosen), set(branching), set(previews)
    outputs: dict[str, dict[int, tuple[int, Rollout]]] = {key: {} for key in chosen}
    beginnings: dict[str, dict[int, tuple[int, list[int]]]] = {key: {} for key in branching}
    questions: dict[str, tuple[tuple[int, int], str]] = {}
    prompts, truths = {}, {}
    for row in json_rows(validation.path):
        uid = split_uid(row.get("uid"))
        key = None if uid is None else key_of.get(uid[0])
        sample = None if key is None else _sample(row)
        if key is None or sample is None:
            continue
        session, index = sample.session, sample.index
        text, question = _text(row.get("output")), _text(row.get("input"))
        # The prompt as the data set has it; of a session with many outputs the last one counts.
        if key not in questions or (index, session) < questions[key][0]:
            questions[key] = ((index, session), question[:_PREVIEW_CHARS] if key in previews else "")
            if key in chosen:
                prompts[key], truths[key] = cut(question), short(_text(row.get("gts")))
        if key in chosen and index >= outputs[key].get(session, (-1,))[0]:
            outputs[key][session] = index, _rollout(row, sample, text, validation.told_apart_by)
        if key in branching and index >= beginnings[key].get(session, (-1,))[0]:
            ids = [vocabulary.setdefault(piece, len(vocabulary)) for piece in pieces(text)]
            beginnings[key][session] = index, ids
    return Texts(
        prompts=prompts,
        truths=truths,
        rollouts={key: [rollout for _, rollout in found.values()] for key, found in outputs.items()},
        piece_ids={key: [found[s][1] for s in sorted(found)[:num_samples]] for key, found in beginnings.items()},
        previews=preview_lines({key: text for key, (_, text) in questions.items() if key in previews}),
    )


def preview_lines(questions: Mapping[str, str]) -> dict[str, str]:
    """One line of each prompt: what tells it from the others, without the template that all begin and end with."""
    texts = list(questions.values())
    head = tail = 0
    if len(set(texts)) > 1:
        head = _shared_beginning(texts).rfind("\n") + 1  # whole lines of it
        shared = _shared_beginning([text[:head:-1] for text in texts])
        tail = next((i + 1 for i in reversed(range(len(shared))) if shared[i].isspace()), 0)  # whole words
    return {key: short(text[head : len(text) - tail]) or short(text) for key, text in questions.items()}


def _shared_beginning(texts: Sequence[str]) -> str:
    least, most = min(texts), max(texts)  # what these two share, all between them do
    return next((least[:i] for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), least)


def _sample(row: dict[str, Any]) -> Sample | None:
    """None for a line that the first reading did not take."""
    try:
        return parse_sample(row)
    except (BrokenLineError, RecursionError):
        return None


def _rollout(row: dict[str, Any], sample: Sample, text: str, told_apart_by: str | None) -> Rollout:
    # What is counted as distinct is a cluster here; where nothing is counted, what responses end with.
    label = answer_in(text) if told_apart_by is None else way_of(sample, told_apart_by)
    score = finite(row.get("score"))
    return Rollout(
        session=sample.session,
        cluster=(label, sample.correct),
        label=label or (NO_STRATEGY if told_apart_by == STRATEGY else NO_ANSWER),
        correct=sample.correct,
        reward=finite(row.get("acc")) if score is None else score,
        text=cut(text),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, sort_keys=True)


def shown_chars(problem: Problem, has_answers: bool) -> int:
    """About how many characters of a problem's responses the page would hold."""
    lengths: dict[tuple[str, bool], list[int]] = {}
    for answer, correct, length in zip(problem.answers_n, problem.correct_n, problem.length_n, strict=True):
        lengths.setdefault((answer, correct), []).append(min(length, HEAD_CHARS + TAIL_CHARS))
    return sum(sum(cluster[:MOST_TEXTS] if has_answers else cluster) for cluster in lengths.values())
