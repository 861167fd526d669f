"""Groups of training rollouts to look at: the same prompt in each run, with credit and advantage where they are known.

A run logs all its rollouts; a few groups of its first, middle and last step are shown. Files are read a row at a time,
the texts of chosen groups only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_setpo.evaluation.generations import problem_digest, split_uid
from verl_setpo.evaluation.report.rollout_files import Lines, json_rows
from verl_setpo.evaluation.report.show import NO_ANSWER, Cut, Rollout, answer_in, cut
from verl_setpo.evaluation.runs import Run, finite

MOST_GROUPS = 24  # prompts of a step

Prompt = tuple[int, str]  # step, and what names the prompt in all runs


@dataclass
class TrainingGroups:
    """Chosen prompts and, for each, the rollouts of each run that had it, by the index of the run."""

    chosen: list[Prompt]
    rollouts: dict[Prompt, dict[int, list[Rollout]]]
    prompts: dict[Prompt, Cut] = field(default_factory=dict)  # where a run has texts
    with_credit: bool = False  # whether any rollout has one
    lines: dict[tuple[int, Path], Lines] = field(default_factory=dict)  # of each file of each run that was read


def training_groups(runs: Sequence[Run]) -> TrainingGroups:
    """Choose by how many runs have the prompt, then by how unlike the credit, or else the reward, of its rollouts is.

    Raises:
        OSError: a file cannot be read.
    """
    found: dict[Prompt, dict[int, _Group]] = {}
    lines: dict[tuple[int, Path], Lines] = {}
    for r, step in _steps(runs):
        files = [kind[step] for kind in (runs[r].rollouts.log, runs[r].rollouts.texts) if step in kind]
        lines |= {(r, path): Lines() for path in files}
        for name, group in _groups(runs[r], step, {path: lines[r, path] for path in files}).items():
            found.setdefault((step, name), {})[r] = group
    found = _joined(found)
    by_step: dict[int, list[Prompt]] = {}
    for prompt in sorted(found, key=lambda prompt: (-len(found[prompt]), -_spread(found[prompt]), prompt)):
        by_step.setdefault(prompt[0], []).append(prompt)
    chosen = [prompt for step in sorted(by_step, reverse=True) for prompt in by_step[step][:MOST_GROUPS]]

    groups = TrainingGroups(chosen, {prompt: {} for prompt in chosen}, lines=lines)
    groups.with_credit = any(
        finite(row.get("credit")) is not None
        for prompt in chosen
        for group in found[prompt].values()
        for row in group.rows.values()
    )
    for r, step in _steps(runs):
        mine = {prompt: found[prompt][r] for prompt in chosen if prompt[0] == step and r in found[prompt]}
        texts = _texts(runs[r].rollouts.texts.get(step), {group.uid for group in mine.values()})
        for prompt, group in mine.items():
            groups.rollouts[prompt][r] = _rollouts(group, texts)
            question = next((texts[key][0] for key in group.rows if key in texts), None)
            if question is not None:
                groups.prompts.setdefault(prompt, question)
    return groups


@dataclass
class _Group:
    """The rollouts of one prompt in one step of one run."""

    uid: str
    rows: dict[str, dict[str, Any]]  # of the log, or the score of a text; by key
    index: str | None = None  # of the prompt in the data set


def _steps(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """(run, step): first, middle and last of the steps that all runs with rollouts have, else of each run's own."""
    having = [r for r, run in enumerate(runs) if run.rollouts.steps]
    if not having:
        return []
    common = set.intersection(*(runs[r].rollouts.steps for r in having))
    pairs = []
    for r in having:
        steps = sorted(common or runs[r].rollouts.steps)
        pairs += [(r, step) for step in sorted({steps[0], steps[len(steps) // 2], steps[-1]})]
    return pairs


def _groups(run: Run, step: int, lines: Mapping[Path, Lines]) -> dict[str, _Group]:
    """The groups of a step by what names their prompt: its digest where texts are known, else its index.

    Args:
        lines: of each file, counted here.
    """
    groups: dict[str, _Group] = {}
    names: dict[str, str] = {}
    if step in run.rollouts.log:
        for row in json_rows(run.rollouts.log[step], lines[run.rollouts.log[step]]):
            uid = split_uid(row.get("key"))
            if uid is not None:
                group = groups.setdefault(uid[0], _Group(uid[0], {}, _index(row.get("prompt_index"))))
                group.rows[str(row["key"])] = row
    if step in run.rollouts.texts:
        for row in json_rows(run.rollouts.texts[step], lines[run.rollouts.texts[step]]):
            uid = split_uid(row.get("uid"))
            if uid is not None:
                names.setdefault(uid[0], problem_digest(row))
                group = groups.setdefault(uid[0], _Group(uid[0], {}))
                group.rows.setdefault(str(row["uid"]), {"reward": row.get("score"), "session": uid[1]})
    named: dict[str, _Group] = {}
    for uid_, group in groups.items():
        # A prompt that the batch holds twice stays two; where nothing names it, it is nobody else's.
        name = names.get(uid_) or (f"prompt {group.index}" if group.index is not None else uid_)
        named.setdefault(name if name not in named else f"{name} {uid_}", group)
    return named


def _joined(found: dict[Prompt, dict[int, _Group]]) -> dict[Prompt, dict[int, _Group]]:
    """Runs without texts know a prompt by its index only: put them beside the run that has its text."""
    digest_of = {
        (step, f"prompt {group.index}"): (step, name)
        for (step, name), groups in found.items()
        for group in groups.values()
        if group.index is not None and name != f"prompt {group.index}"
    }
    joined: dict[Prompt, dict[int, _Group]] = {}
    for prompt, groups in found.items():
        into = joined.setdefault(digest_of.get(prompt, prompt), {})
        for r, group in groups.items():
            into.setdefault(r, group)
    return joined


def _spread(groups: Mapping[int, _Group]) -> float:
    """The largest difference of credit within a group, else of reward, which counts less."""
    sizes = [0.0]
    for group in groups.values():
        for name, weight in (("credit", 1.0), ("reward", 1e-3)):
            values = [value for row in group.rows.values() if (value := finite(row.get(name))) is not None]
            if values:
                sizes.append(weight * (max(values) - min(values)))
    return max(sizes)


def _texts(path: Path | None, uids: set[str]) -> dict[str, tuple[Cut, Cut, str]]:
    """By key: prompt and response, cut, and the answer found in the response."""
    texts: dict[str, tuple[Cut, Cut, str]] = {}
    for row in json_rows(path) if path is not None else ():
        uid = split_uid(row.get("uid"))
        if uid is not None and uid[0] in uids:
            question, response = str(row.get("input") or ""), str(row.get("output") or "")
            texts[str(row["uid"])] = cut(question), cut(response), answer_in(response)
    return texts


def _rollouts(group: _Group, texts: Mapping[str, tuple[Cut, Cut, str]]) -> list[Rollout]:
    rollouts = []
    for key, row in group.rows.items():
        _, response, found = texts.get(key, (None, None, ""))
        answer = row.get("answer") if isinstance(row.get("answer"), str) else found
        cluster, strategy = row.get("cluster"), row.get("strategy")
        reward = finite(row.get("reward"))
        session = row.get("session")
        rollouts.append(
            Rollout(
                session=session if isinstance(session, int) else 0,
                # -1: degenerate, and so no cluster with the others; null: the signal failed.
                cluster=cluster if isinstance(cluster, int) and cluster >= 0 else (answer, reward),
                label=str(strategy or answer or NO_ANSWER),
                correct=reward is not None and reward >= 1,
                reward=reward,
                text=response,
                credit=finite(row.get("credit")),
                base=finite(row.get("base_advantage")),
                advantage=finite(row.get("advantage")),
                truncated=row.get("truncated") is True,
            )
        )
    return rollouts


def _index(value: Any) -> str | None:
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None
