"""The prompts that show best what the estimators do: where signs go against rewards, vanish, or diversity is strong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from verl_setpo.credit.chunks import Chunk
from verl_setpo.credit.figures import correct_of, signs_of
from verl_setpo.credit.methods import Choice
from verl_setpo.credit.trainer import Credited
from verl_setpo.signals import SignalBatch

CANDIDATES = 500
"""Prompts of each chunk that are looked at for being different from one another."""


@dataclass(frozen=True)
class Shown:
    """One prompt. advantages, credits: by estimator, one a rollout. labels: what each rollout is compared by.

    against: by estimator, whether the sign goes against the reward beside rollouts of the other kind.
    """

    number: int
    uid: str
    question: str
    rewards: list[float]
    correct: list[bool]
    labels: list[str]
    texts: list[str]
    advantages: dict[str, list[float]]
    credits: dict[str, list[float]]
    against: dict[str, list[bool]]

    @property
    def pattern(self) -> tuple[object, ...]:
        """The same for prompts that differ in names and order only."""
        rows = zip(self.rewards, *self.advantages.values(), strict=True)
        return tuple(sorted(tuple(round(value, 6) for value in row) for row in rows))


class Prompts:
    """All prompts of a file with what each estimator gives them."""

    def __init__(
        self,
        chunks: Sequence[Chunk],
        signals: Sequence[SignalBatch],
        results: Sequence[tuple[Choice, Sequence[Credited]]],
        reward_range: tuple[float, float],
        own_clusters: bool,
    ) -> None:
        """own_clusters: whether the clusters are the file's, whose names are then shown."""
        self._own_clusters = own_clusters
        self._chunks, self._signals, self._results = chunks, signals, results
        self._correct = [correct_of(chunk, reward_range) for chunk in chunks]
        self._places = {
            group.number: (place, p) for place, chunk in enumerate(chunks) for p, group in enumerate(chunk.groups)
        }
        self._signs = {
            choice.name: [
                signs_of(chunk, given.advantage_PN, correct_PN)
                for chunk, given, correct_PN in zip(chunks, credited, self._correct, strict=True)
            ]
            for choice, credited in results
        }

    @property
    def by_kernel(self) -> bool:
        """Whether rollouts are compared by similarities, and not by clusters."""
        return any(batch.clusters_PN is None for batch in self._signals)

    @property
    def numbers(self) -> list[int]:
        return sorted(self._places)

    def most_telling(self, count: int) -> list[int]:
        """Numbers of up to `count` prompts, the most telling first, no two of one pattern."""
        found: list[tuple[float, int]] = []
        for place, chunk in enumerate(self._chunks):
            score_P = self._scores(place)
            top = score_P.topk(min(CANDIDATES, len(score_P)))
            found += [
                (-score, chunk.groups[p].number)
                for score, p in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            ]
        chosen: dict[tuple[object, ...], int] = {}
        for _, number in sorted(found):
            if len(chosen) == count:
                break
            chosen.setdefault(self.shown(number).pattern, number)
        return list(chosen.values())

    def _scores(self, place: int) -> torch.Tensor:
        """(P,) over the estimators: 3 for inverted, 2 for vanished, up to 1 each for signs against rewards and for how
        large the credit is against the estimator's usual advantage."""
        score_P = torch.zeros(len(self._chunks[place].groups), dtype=torch.float64)
        for choice, credited in self._results:
            signs, given = self._signs[choice.name][place], credited[place]
            usual = sum(one.advantage_PN.abs().sum().item() for one in credited)
            usual /= sum(one.advantage_PN.numel() for one in credited)
            credit_P = given.credit_PN.abs().mean(-1).double() / (usual or 1.0)
            score_P += 3.0 * signs.inverted_P + 2.0 * signs.vanished_P + credit_P.clamp(max=1.0)
            score_P += signs.against_PN.double().mean(-1) * signs.mixed_P
        return score_P

    def shown(self, number: int) -> Shown:
        """The prompt of that number in the file."""
        place, p = self._places[number]
        group = self._chunks[place].groups[p]
        names = [choice.name for choice, _ in self._results]
        given = [credited[place] for _, credited in self._results]
        signs = [self._signs[name][place] for name in names]
        return Shown(
            number=number,
            uid=group.uid,
            question=group.question,
            rewards=[rollout.reward for rollout in group.rollouts],
            correct=self._correct[place][p].tolist(),
            labels=self._labels(place, p),
            texts=[rollout.text for rollout in group.rollouts],
            advantages={name: one.advantage_PN[p].tolist() for name, one in zip(names, given, strict=True)},
            credits={name: one.credit_PN[p].tolist() for name, one in zip(names, given, strict=True)},
            against={
                name: (one.against_PN[p] & one.mixed_P[p]).tolist() for name, one in zip(names, signs, strict=True)
            },
        )

    def _labels(self, place: int, p: int) -> list[str]:
        """A cluster with its name, or under a kernel the mean similarity to the others."""
        batch, rollouts = self._signals[place], self._chunks[place].groups[p].rollouts
        if batch.failures[p] is not None:
            return ["no signal"] * len(rollouts)
        if batch.clusters_PN is None:
            assert batch.kernel_PNN is not None
            kernel_NN = batch.kernel_PNN[p].double()
            mass_N = (kernel_NN.sum(-1) - kernel_NN.diagonal()) / max(len(rollouts) - 1, 1)
            return [f"alike {mass:.2f}" for mass in mass_N.tolist()]
        notes = None if batch.notes is None else batch.notes[p]
        labels = []
        for i, (cluster, rollout) in enumerate(zip(batch.clusters_PN[p].tolist(), rollouts, strict=True)):
            own = rollout.cluster if self._own_clusters and rollout.cluster is not None else str(cluster)
            name = (notes[i] if notes else "") or rollout.answer or ""
            labels.append("degenerate" if cluster < 0 else f"{own} {name}".rstrip())
        return labels
