"""The directories that `verl-setpo report` takes, and what it says of those it cannot use."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.evaluation.report_files import (
    validation_row,
    write_lines,
    write_metrics,
    write_rollouts,
    write_validation,
)
from tests.evaluation.test_report import invoke, read


def write_evaluation(folder: Path, models: dict[str, list[int]], sets: tuple[str, ...]) -> Path:
    """A folder as `verl-setpo evaluate` leaves it: of each model its steps."""
    for name, steps in models.items():
        for set_name in sets:
            for step in steps:
                rng = random.Random(f"{name} {set_name} {step}")
                rows = [
                    validation_row(f"{set_name} {p}", i, right := rng.random() < 0.5, "a" if right else "b", "text")
                    for p in range(10)
                    for i in range(4)
                ]
                write_lines(folder / name / set_name / "validation" / f"{step}.jsonl", rows)
    record = {"models": {name: {str(step): {} for step in steps} for name, steps in models.items()}}
    (folder / "evaluation.json").write_text(json.dumps(record))
    return folder


def labels(out: Path) -> list[str]:
    return [run["label"] for run in read(out)["runs"]]


def said(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    return write_evaluation(tmp_path / "ev", {"tuned": [15, 30], "base": [0]}, ("points",))


def test_a_folder_of_evaluate_is_all_its_runs_in_the_order_of_its_models(evaluation: Path, tmp_path: Path) -> None:
    output = said(evaluation, "--out", tmp_path / "out")
    assert labels(tmp_path / "out") == ["tuned", "base"]
    content = read(tmp_path / "out")
    # A model of step 0 beside others is a model of its own, not what they started from.
    assert content["starts"] == []
    assert {(row["from"], row["to"]) for row in content["paired"]} == {("tuned", "base")}
    assert content["notes"] == []
    for inapplicable in ("val_before_train", "VERL_FILE_LOGGER_PATH", "no validation after step 0", "rollouts"):
        assert inapplicable not in output


@pytest.mark.parametrize(("below", "expected"), [("tuned", "tuned"), ("tuned/points", "tuned"), ("base", "base")])
def test_one_model_of_an_evaluation_is_labelled_by_its_name(
    evaluation: Path, tmp_path: Path, below: str, expected: str
) -> None:
    said(evaluation / below, "--out", tmp_path / "out")
    assert labels(tmp_path / "out") == [expected]
    assert read(tmp_path / "out")["notes"] == []


def test_several_sets_which_share_no_problem_get_a_page_each(tmp_path: Path) -> None:
    evaluation = write_evaluation(tmp_path / "ev", {"b": [1], "a": [1]}, ("train", "test"))
    said(evaluation, "--out", tmp_path / "out")
    assert labels(tmp_path / "out" / "test") == ["b test", "a test"]
    assert labels(tmp_path / "out" / "train") == ["b train", "a train"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test", "train"]
    said(evaluation / "a", "--out", tmp_path / "one")
    assert labels(tmp_path / "one" / "test") == ["a test"]
    # The folders of one set are named as before, beside any other run.
    said(evaluation / "a" / "test", evaluation / "b" / "test", "--out", tmp_path / "two")
    assert labels(tmp_path / "two") == ["a", "b"]
    write_validation(tmp_path / "run", 5, lambda i: 0.5)
    refused = invoke(evaluation, tmp_path / "run", "--out", tmp_path / "no")
    assert refused.exit_code == 2
    assert "cannot stand beside several test sets" in " ".join(refused.output.replace("│", " ").split())


def test_files_of_one_run_graded_anew_have_their_start(tmp_path: Path) -> None:
    graded = write_evaluation(tmp_path / "graded", {"grpo": [0, 30]}, ("points",))
    said(graded, "--out", tmp_path / "out")
    assert [row["label"] for row in read(tmp_path / "out")["starts"]] == ["starting model"]


def test_a_run_that_is_given_twice_is_said_to_be(tmp_path: Path) -> None:
    write_validation(tmp_path / "run", 5, lambda i: 0.5)
    result = invoke(tmp_path / "run", tmp_path / "run" / ".." / "run", "--out", tmp_path / "out")
    assert result.exit_code == 2
    output = "".join(result.output.replace("│", " ").split())
    assert "isgiventwice" in output
    assert "--labels" not in output


def test_options_that_find_nothing_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_validation(run, 0, lambda i: 0.5)
    write_validation(run, 5, lambda i: 0.5)
    write_metrics(run, 5, ours=False)
    write_rollouts(run, 1)
    output = said(run, "--metrics", "nope.jsonl", "--rollouts", "nope", "--out", tmp_path / "out")
    assert "run: no seconds a step, because there is no nope.jsonl (name another --metrics)." in output
    assert "metrics.jsonl" not in output
    assert "nope has no <step>.jsonl of them: name another --rollouts." in output
    assert said(run, "--out", tmp_path / "out").count("Note:") == 0


def test_what_a_cut_file_of_rollouts_lacks_is_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (1, 2, 3):
        write_rollouts(run, step, log=None)
    first, second, last = (run / "texts" / f"{step}.jsonl" for step in (1, 2, 3))
    first.write_bytes(first.read_bytes()[:50])  # within its first line: the folder is found by the others
    second.write_bytes(b"")
    last.write_bytes(last.read_bytes()[:-50])
    output = said(run, "--out", tmp_path / "out")
    assert "run: 1 broken line was skipped in texts/1.jsonl, so rollouts of that step are missing." in output
    assert "run: no training rollouts in texts/2.jsonl, because the file is empty." in output
    assert "run: 1 broken line was skipped in texts/3.jsonl" in output
