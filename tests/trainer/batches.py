"""Batches as they reach a trainer (shuffled, ragged, padded, several outputs a session), and signals to judge them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict

from tests.trainer.conftest import Computed, Row, put_rows
from verl_setpo.signals import Rollout, Signal, SignalBatch, register_signal
from verl_setpo.signals.answer import cluster_answers

SIXTEENTHS = [f"{k}/16" for k in range(17)]


@register_signal("test_line")
class Line(Signal):
    """Answers are fractions in [0, 1]; the similarity of two is 1 - their distance, exact in binary."""

    provides = "kernel"

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        width = max(map(len, groups))
        kernel_PNN = torch.eye(width).repeat(len(groups), 1, 1)
        for p, group in enumerate(groups):
            for i, row in enumerate(line_kernel([rollout.answer for rollout in group])):
                kernel_PNN[p, i, : len(group)] = torch.tensor([float(k) for k in row])
        return SignalBatch(kernel_PNN=kernel_PNN)


def line_kernel(answers: Sequence[str]) -> list[list[Fraction]]:
    return [[1 - abs(Fraction(a) - Fraction(b)) for b in answers] for a in answers]


def equality_kernel(answers: Sequence[str]) -> list[list[Fraction]]:
    return [[Fraction(a == b) for b in answers] for a in answers]


@register_signal("test_failing_line")
class FailingLine(Line):
    """Has nothing to say of the prompts in `failing`, and gives NaN for them."""

    def __init__(self, failing: str, cause: str = "the judge is away") -> None:
        self.failing, self.cause = failing.split(), cause

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        failures = tuple(self.cause if group[0].uid in self.failing else None for group in groups)
        kernel_PNN = super().collect(groups).kernel_PNN
        kernel_PNN[[cause is not None for cause in failures]] = torch.nan
        return SignalBatch(kernel_PNN=kernel_PNN, failures=failures)


@register_signal("test_failing_answers")
class FailingAnswers(Signal):
    """Has nothing to say of the prompts in `failing`, and puts each of their rollouts into a cluster of its own."""

    provides = "clusters"

    def __init__(self, failing: str, cause: str = "the judge is away") -> None:
        self.failing, self.cause = failing.split(), cause

    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        failures = tuple(self.cause if group[0].uid in self.failing else None for group in groups)
        clusters_PN = cluster_answers(groups)
        failed_P = torch.tensor([cause is not None for cause in failures])
        clusters_PN[failed_P] = torch.arange(clusters_PN.shape[1])
        return SignalBatch(clusters_PN=clusters_PN, failures=failures)


def random_rows(
    seed: int,
    sizes: Sequence[int] = (5, 4, 3, 2, 1),
    preds: Sequence[str] = SIXTEENTHS,
    rewards: Sequence[float] = (0.0, 1.0, 0.25, 0.75),
    outputs: Sequence[int] = (1,),
) -> list[Row]:
    """Prompts of the given sizes in shuffled order. Sessions have gaps, where one failed; uids hold underscores."""
    rng = random.Random(seed)
    rows = []
    for p, size in enumerate(sizes):
        for session in rng.sample(range(size + 2), size):
            reward, pred = rng.choice(rewards), rng.choice(preds)
            rows += [
                Row(f"uid_{p}_x", session, output, reward, "".join(rng.choices("abcd", k=rng.randint(1, 5))), pred)
                for output in range(rng.choice(outputs))
            ]
    rng.shuffle(rows)
    return rows


def groups_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """uid -> the last output of each session, in order of sessions."""
    last: dict[tuple[str, int], Row] = {}
    for row in rows:
        held = last.get((row.uid, row.session))
        if held is None or held.output < row.output:
            last[row.uid, row.session] = row
    groups: dict[str, list[Row]] = {row.uid: [] for row in rows}
    for _, row in sorted(last.items(), key=lambda item: item[0]):
        groups[row.uid].append(row)
    return groups


def rewards_of(group: Sequence[Row]) -> list[Fraction]:
    return [Fraction(row.reward) for row in group]


def bits(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The float32 bit patterns, which tell -0.0 from 0.0."""
    return [tensor.view(torch.int32) for tensor in tensors]


def assert_same_bits(expected: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> None:
    for one, other in zip(bits(expected), bits(got), strict=True):
        assert torch.equal(one, other)


def by_key(result: Computed) -> dict[tuple[str, int, int], torch.Tensor]:
    """(uid, session, output) -> advantages of the row, without padding rows."""
    return {
        (row.uid, row.session, row.output): advantage
        for row, advantage in zip(result.rows, result.advantages, strict=True)
        if row is not None
    }


def set_rl_metrics(result: Computed) -> dict[str, float]:
    return {name: value for name, value in result.metrics.items() if name.startswith("set_rl/")}


def compute_with(
    trainer: Any, rows: list[Row], columns: dict[str, Callable[[int], torch.Tensor]], pad_to: int = 1
) -> Computed:
    """As conftest's `compute`, with further columns in the queue: name -> function of a row's number of tokens."""
    batch, padded = put_rows(rows, pad_to)
    lengths = [1 if row is None else len(row.text) + row.eos for row in padded]
    fields = {
        name: torch.nested.as_nested_tensor([column(length) for length in lengths], layout=torch.jagged)
        for name, column in columns.items()
    }
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(fields, len(batch)))
    metrics: dict[str, Any] = {}
    trainer._compute_advantage(batch, metrics)
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["advantages", "returns"])
    tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
    return Computed(batch, padded, list(data["advantages"].unbind()), list(data["returns"].unbind()), metrics)
