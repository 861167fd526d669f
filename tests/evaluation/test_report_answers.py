"""What `verl-setpo report` counts as distinct, and how its figures stand to those that verl logs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluate.conftest import call
from tests.evaluation.report_files import validation_row, write_lines
from tests.evaluation.test_report import invoke, read
from verl_setpo.evaluation.comparison import estimate
from verl_setpo.tasks.rewards import compute_score

Rows = list[dict[str, Any]]


def write_run(run: Path, rows: Rows, step: int = 3) -> Path:
    write_lines(run / "validation" / f"{step}.jsonl", rows)
    return run


def without_pred(rows: Rows) -> Rows:
    return [{name: value for name, value in row.items() if name != "pred"} for row in rows]


def said(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


BOXED = [(r"so \boxed{1}", True), (r"\boxed{ 2 }", True), ("<answer>2</answer>", True), (r"\boxed{3}", False)]


def test_without_pred_answers_are_what_responses_mark_and_that_is_said(tmp_path: Path) -> None:
    rows = [validation_row("p", i, right, "", text) for i, (text, right) in enumerate(BOXED)]
    run = write_run(tmp_path / "run", without_pred(rows))
    output = said(run, "--out", tmp_path / "out")
    content = read(tmp_path / "out")
    assert content["runs"][0]["distinct_correct"]["mean"] == 2
    assert content["majority_at_k"][0]["points"]["4"]["mean"] == 1.0
    assert r"run: its reward function returns no pred, so answers are what responses mark last by \boxed{}" in output


def test_where_right_responses_mark_nothing_no_distinct_answers_are_made_up_and_the_cure_is_named(
    tmp_path: Path,
) -> None:
    rows = [validation_row("p", i, right, "", text) for i, (text, right) in enumerate(BOXED)]
    rows += [validation_row("p", 4 + i, True, "", f"it is {i}") for i in range(3)]
    run = write_run(tmp_path / "run", without_pred(rows))
    output = said(run, "--out", tmp_path / "out")
    content = read(tmp_path / "out")
    assert content["runs"][0]["distinct_correct"] is None
    assert content["majority_at_k"] == []
    assert "run: no distinct answers" in output
    assert "`verl-setpo grade FILE --data-source NAME`" in output
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "share of right samples. Responses are cut" in page  # promises no distinct answers


def test_an_empty_pred_is_no_answer_though_the_response_marks_one(tmp_path: Path) -> None:
    rows = [validation_row("p", i, right, "", text) for i, (text, right) in enumerate(BOXED)]
    invoke(write_run(tmp_path / "run", rows), "--out", tmp_path / "out")
    assert read(tmp_path / "out")["runs"][0]["distinct_correct"]["mean"] == 0


def test_where_the_reward_tells_strategies_these_are_what_is_distinct(tmp_path: Path) -> None:
    texts = ["34*21=(30+4)*21=630+84=714", "34*21=34*(20+1)=680+34=714", "34*21=34*(20+1)=34+680=714", "34*21=715"]
    rows = []
    for i, text in enumerate(texts):
        graded = compute_score("multiplication", text, json.dumps({"a": 34, "b": 21}))
        rows.append(validation_row("p", i, graded["acc"] == 1, "", text) | graded)
    output = said(write_run(tmp_path / "run", rows), "--out", tmp_path / "out")
    content = read(tmp_path / "out")
    assert content["runs"][0]["distinct_correct"]["mean"] == 2  # of one answer, 714
    assert content["majority_at_k"][0]["points"]["4"]["mean"] == 1.0  # they still vote by it
    assert "strategies" in output
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Distinct correct strategies over training" in page
    assert "distinct correct answers" not in page.lower()


def test_runs_whose_answers_are_told_apart_differently_are_said_not_to_compare(tmp_path: Path) -> None:
    rows = [validation_row("p", i, right, "x", text) for i, (text, right) in enumerate(BOXED)]
    runs = [write_run(tmp_path / "a", rows), write_run(tmp_path / "b", without_pred(rows))]
    output = said(*runs, "--out", tmp_path / "out")
    assert "told apart in a by its pred, in b by what responses mark" in output


# verl's own figures.


def test_verl_draws_with_replacement_and_lets_empty_answers_vote(
    tmp_path: Path, write_validation: Callable[..., Path]
) -> None:
    from verl.trainer.ppo.metric_utils import process_validation_metrics

    n, num_problems = 8, 40
    rng = random.Random(0)
    outcome = {
        f"p{p}": [(ok, "right" if ok else "") for ok in (rng.random() < 0.25 for _ in range(n))]
        for p in range(num_problems)
    }
    path = write_validation(tmp_path / "run" / "validation", 1, outcome)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    uids = [row["uid"].rsplit("_", 2)[0] for row in rows]
    infos = {"acc": [float(row["acc"]) for row in rows], "pred": [row["pred"] for row in rows]}
    theirs = process_validation_metrics(["x"] * len(rows), uids, infos)["x"]["acc"]
    invoke(tmp_path / "run", "--ks", "1,2,4,8", "--out", tmp_path / "out")
    content = read(tmp_path / "out")
    ours = {int(k): value["mean"] for k, value in content["runs"][0]["pass_at_k"].items()}
    votes = {int(k): value["mean"] for k, value in content["majority_at_k"][0]["points"].items()}

    right_P = np.array([sum(ok for ok, _ in samples) for samples in outcome.values()])
    assert theirs[f"mean@{n}"] == pytest.approx(ours[1])
    for k in (2, 4, 8):
        without = np.mean([1 - comb(n - c, k) / comb(n, k) for c in right_P])
        replaced_P = 1 - (1 - right_P / n) ** k
        assert ours[k] == pytest.approx(without)
        # 1,000 draws a problem, all problems by one seed.
        noise = 4 * np.sqrt((replaced_P * (1 - replaced_P)).mean() / 1000)
        assert theirs[f"best@{k}/mean"] == pytest.approx(replaced_P.mean(), abs=noise)
        assert abs(theirs[f"best@{k}/mean"] - replaced_P.mean()) < abs(theirs[f"best@{k}/mean"] - without) / 2
        # Here any right answer wins its vote, as no other sample votes.
        assert votes[k] == pytest.approx(ours[k])
        assert theirs[f"maj@{k}/mean"] < votes[k] - 0.1


def test_report_and_evaluate_give_one_file_the_same_intervals(tmp_path: Path) -> None:
    rng = random.Random(1)
    truth = json.dumps({"a": 1, "b": 0, "c": 1})
    rows = [
        validation_row(f"p{p}", i, False, "", f"({(x := rng.randrange(3))},{x * x + (rng.random() < p / 20)})")
        | {"gts": truth}
        for p in range(20)
        for i in range(8)
    ]
    run = write_run(tmp_path / "run", rows)
    graded = call("grade", run / "validation" / "3.jsonl", "--data-source", "polynomial", "--out", tmp_path / "graded")
    assert graded.exit_code == 0, graded.output
    (summary,) = json.loads((tmp_path / "graded" / "summary.json").read_text())["results"]
    said(tmp_path / "graded", "--out", tmp_path / "out")
    (shown,) = read(tmp_path / "out")["runs"]
    for k in ("1", "4", "8"):
        assert shown["pass_at_k"][k] == pytest.approx(summary["pass_at_k"][k], abs=1e-12)
    assert 0 < summary["pass_at_k"]["1"]["mean"] < 1
    assert shown["distinct_correct"] == pytest.approx(summary["distinct_correct"], abs=1e-12)


def test_an_interval_does_not_depend_on_the_order_of_the_problems() -> None:
    values_P = np.random.default_rng(0).random(30)
    assert estimate(values_P) == estimate(values_P[::-1])
