"""Faults of an embedder while a real training runs, one after the other with clean steps between.

Each test looks at the record of one fault.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.faulty_run import (
    BROKEN,
    FOR_EVER,
    PROMPTS,
    ROLLOUTS,
    TOLERANCE_S,
    Record,
    check_goes_on,
    check_key_is_nowhere,
    planned,
    signal_keys,
    step_of,
    train,
)
from tests.signals.embedding.models import minilm
from tests.signals.embedding.server import MODEL, embedding_server, packed, unpacked
from tests.signals.fake_server import half_a_body

pytestmark = pytest.mark.slow

WAIT_S, TIMEOUT_S = 7.0, 3.0


class PlannedEmbedder:
    """What the server of embeddings makes of its right answers: `plan` has (answer, requests of the step it is for)."""

    def __init__(self, folder: Path, plan: dict[int, Any]) -> None:
        self.folder, self.plan = folder, plan
        self.lock = threading.Lock()
        self.first: dict[int, np.ndarray] = {}
        self.asked: dict[int, int] = defaultdict(int)

    def __call__(self, right: dict[str, Any]) -> Any:
        step = step_of(self.folder)
        with self.lock:
            self.asked[step] += 1
            first = self.first.setdefault(step, unpacked(right["data"][0]["embedding"]))
            wrong, requests = self.plan.get(step, (None, 0))
            if self.asked[step] > requests:
                return right
        return wrong(right, first)


def nan_for_one_text(right: dict[str, Any], first: np.ndarray) -> dict[str, Any]:
    for item in right["data"]:
        vector = unpacked(item["embedding"])
        if vector @ first > 0.9999:
            vector[7] = math.nan
            item["embedding"] = packed(vector)
    return right


def fewer_dimensions(right: dict[str, Any], first: np.ndarray) -> dict[str, Any]:
    for item in right["data"]:
        item["embedding"] = packed(unpacked(item["embedding"])[:100])
    return right


@pytest.fixture(scope="module")
def embedded(inputs, tmp_path_factory) -> Record:
    folder = tmp_path_factory.mktemp("embedded")
    minilm()  # loaded before the first request, which is given TIMEOUT_S
    always = math.inf
    plan, steps, last = planned(
        [
            ("NaN", 2, (nan_for_one_text, always)),
            ("dimension", 1, (fewer_dimensions, always)),
            ("500", 1, (lambda right, first: BROKEN(right), always)),
            ("one 500", 1, (lambda right, first: BROKEN(right), 1)),
            ("half a body", 1, (lambda right, first: half_a_body(right), always)),
            ("hang", 1, (lambda right, first: FOR_EVER(right), always)),
        ]
    )
    # No request is made again but by the store, and none is answered from the cache.
    keys = {
        "timeout_s": TIMEOUT_S,
        "deadline_s": 20,
        "max_retries": 0,
        "wait_s": WAIT_S,
        "cache_size": 0,
    }
    with embedding_server() as server:
        server.fault = PlannedEmbedder(folder, plan)
        overrides = [*signal_keys("embedding", server.url, MODEL, **keys), "algorithm.set_rl.max_failed_fraction=1"]
        run = train(inputs, folder, "set_loo", last, *overrides)
    return Record(run, "embedding", steps, last)


def test_no_step_is_missing_where_the_embedder_fails(embedded):
    assert embedded.run.status == 0, embedded.run.log[-6000:]
    assert list(embedded.run.metrics) == list(range(1, embedded.last + 1))
    faulty = {step for steps in embedded.steps.values() for step in steps}
    assert all(embedded.is_clean(step) for step in embedded.run.metrics if step not in faulty)


def check_not_embedded(record: Record, fault: str, kind: str, lost: int | None = None) -> None:
    """`lost` groups of each step, by default some of them, failed for this reason and trained on verl's advantage."""
    check_goes_on(record, fault)
    for step, figures in zip(record.steps[fault], record.of(fault), strict=True):
        failed = record.failed(step)
        assert 0 < failed < PROMPTS if lost is None else failed == lost
        assert figures["groups"] == PROMPTS - failed
        assert {n: v for n, v in figures.items() if n.startswith("failed_groups")} == {f"failed_groups/{kind}": failed}
        assert figures["collect_wait_s"] <= WAIT_S + TOLERANCE_S
        groups = record.run.groups(step)
        assert [len(group) for group in groups] == [ROLLOUTS] * PROMPTS
        without = [group for group in groups if not group[0]["has_signal"]]
        assert len(without) == failed
        assert record.warned(step, kind) == failed
        for row in itertools.chain(*without):
            assert not row["has_signal"]
            assert row["advantage"] == row["base_advantage"]
        for group in groups:
            if group not in without:
                check_embedded(group)


def check_embedded(group: list[dict[str, Any]]) -> None:
    """The credit is there: coef (5) times it is what the advantage has beyond verl's."""
    assert all(row["has_signal"] for row in group)
    assert any(row["credit"] > 0 for row in group) or len({row["answer"] for row in group}) == 1
    assert all(row["advantage"] - row["base_advantage"] == pytest.approx(row["credit"], abs=2e-5) for row in group)


def test_a_text_whose_vector_has_nan_fails_its_group_and_none_that_shared_the_request(embedded):
    check_not_embedded(embedded, "NaN", "bad_answer")
    for step, figures in zip(embedded.steps["NaN"], embedded.of("NaN"), strict=True):
        assert figures["failed_calls/bad_answer"] >= 1
        failed = [group for group in embedded.run.groups(step) if not group[0]["has_signal"]]
        assert set.intersection(*({row["answer"] for row in group} for group in failed))


def test_vectors_of_another_dimension_are_not_mixed_with_the_first(embedded):
    check_not_embedded(embedded, "dimension", "bad_answer", PROMPTS)
    assert "gave vectors of 100 dimensions after 384: is it one model?" in embedded.run.log


def test_an_embedder_that_answers_500_leaves_the_base_advantage(embedded):
    check_not_embedded(embedded, "500", "server", PROMPTS)
    assert all(figures["failed_calls/server"] >= 1 for figures in embedded.of("500"))
    assert "no answer for Bearer ***" in embedded.run.log


def test_a_step_tries_again_what_failed_before_it_looked(embedded):
    check_goes_on(embedded, "one 500")
    for step, figures in zip(embedded.steps["one 500"], embedded.of("one 500"), strict=True):
        assert embedded.is_clean(step)
        assert figures["failed_calls/server"] == 1
        assert figures["ready"] < 1
        for group in embedded.run.groups(step):
            check_embedded(group)


def test_half_a_body_of_vectors_leaves_the_base_advantage(embedded):
    check_not_embedded(embedded, "half a body", "connection", PROMPTS)
    assert all(figures["failed_calls/connection"] >= 1 for figures in embedded.of("half a body"))


def test_an_embedder_that_hangs_holds_a_step_up_no_longer_than_wait_s(embedded):
    check_not_embedded(embedded, "hang", "timeout", PROMPTS)
    (figures,) = embedded.of("hang")
    assert figures["failed_calls/timeout"] >= 1
    assert figures["collect_wait_s"] >= TIMEOUT_S


def test_the_key_is_nowhere_in_what_a_run_writes(embedded):
    check_key_is_nowhere(embedded.run)
