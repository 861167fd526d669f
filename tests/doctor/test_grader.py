"""`verl-setpo doctor grader`: the shipped cases, the second grader, and the ground truths of a data file."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from verl_setpo.cli import app
from verl_setpo.doctor import grader
from verl_setpo.doctor.grader import Case, grade_cases, load_cases
from verl_setpo.equivalence.process import StartError
from verl_setpo.tasks.data import write_dataset

CASES = load_cases()


def doctor(*arguments):
    result = CliRunner().invoke(app, ["doctor", "grader", *map(str, arguments)], env={"COLUMNS": "250"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def graded():
    return grade_cases(CASES)


def test_the_cases_are_many_of_many_kinds_right_and_wrong_and_all_different():
    kinds = Counter((case.kind, case.equal) for case in CASES)
    assert len(CASES) >= 150
    assert len({case.kind for case in CASES}) >= 25
    assert len({(case.gold, case.response) for case in CASES}) == len(CASES)
    assert sum(number for (_, equal), number in kinds.items() if not equal) > 90


def test_the_reward_is_right_but_for_what_is_known(graded):
    assert [one.case for one in graded if one.bad] == []
    assert sum(one.wrong for one in graded) == sum(bool(case.known) for case in CASES) <= 0.05 * len(CASES)


def test_nearly_all_it_gets_wrong_is_too_strict(graded):
    assert sum(one.wrong and one.ours for one in graded) <= 1


def test_the_second_grader_is_another_one_and_answers(graded):
    assert sum(one.second is None for one in graded) <= 0.02 * len(graded)
    right = sum(one.second == one.case.equal for one in graded)
    assert len(graded) / 2 < right < sum(not one.wrong for one in graded)
    assert any(one.second != one.ours for one in graded)


def test_a_wrong_verdict_and_one_that_is_no_longer_wrong_are_shown_and_end_with_1(monkeypatch):
    cases = [
        Case("new", "2", r"\boxed{3}", True),
        Case("stale", "2", r"\boxed{2}", True, known="it was once"),
        Case("right", "2", r"\boxed{2.0}", True),
    ]
    monkeypatch.setattr(grader, "load_cases", lambda: cases)
    result = doctor()
    assert result.exit_code == 1
    assert "the reward is wrong" in result.stdout
    assert "no longer a known weakness" in result.stdout
    assert "2 (67%)" in result.stdout
    monkeypatch.setattr(grader, "load_cases", lambda: cases[2:])
    assert doctor().exit_code == 0


def write(path, rows):
    columns = {"data_source": [source for source, _ in rows], "reward_model": [{"ground_truth": g} for _, g in rows]}
    pq.write_table(pa.table(columns), path)
    return path


def test_ground_truths_that_can_be_graded_pass(tmp_path):
    golds = ["72", r"\frac{1}{2}", "2, 3", r"\text{Friday}", r"x^2+1", "(0,1]", r"\begin{pmatrix}1\\2\end{pmatrix}"]
    result = doctor("--data", write(tmp_path / "a.parquet", [("math500", gold) for gold in golds]))
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{len(golds)} of {len(golds)} ground truths get the reward 1" in result.stdout
    assert "0 of them only in their own words" in result.stdout


def test_ground_truths_that_math_verify_does_not_read_are_told_apart(tmp_path):
    golds = ["72", r"n\equiv 3\pmod 7", "9^{9^{9^{9}}}"]
    result = doctor("--data", write(tmp_path / "a.parquet", [("math500", gold) for gold in golds]))
    assert result.exit_code == 0
    assert "3 of 3 ground truths get the reward 1" in result.stdout
    assert "2 of them only in their own words" in result.stdout
    assert r"n\equiv 3\pmod 7" in result.stdout


def test_rows_that_cannot_be_graded_are_shown_with_their_number_and_cause(tmp_path):
    rows = [("math500", "7"), ("minerva", ""), ("math500", "{8"), ("chess", "e4"), ("gsm8k", None)]
    result = doctor("--data", write(tmp_path / "a.parquet", rows))
    assert result.exit_code == 1
    assert "1 of 5 ground truths get the reward 1" in result.stdout
    text = " ".join(result.stdout.replace("│", " ").split())
    assert "data_source 'minerva' has the ground truth ''" in text
    assert "unknown data_source 'chess'" in text
    assert "2 math500 {8 as an answer it is not equal to itself" in text


@pytest.mark.parametrize("style", ["tiny", "instruct"])
@pytest.mark.parametrize("task", ["polynomial", "countdown", "multiplication"])
def test_generated_problems_are_graded_by_a_solution_of_them(task, style, tmp_path):
    write_dataset(tmp_path / "data", task, train_size=40, test_size=1, seed=0, style=style)
    result = doctor("--data", tmp_path / "data" / "train.parquet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "40 of 40 ground truths get the reward 1" in result.stdout
    assert "not looked at" not in result.stdout


def test_generated_problems_that_are_broken_or_have_no_solution_are_shown(tmp_path):
    rows = [
        ("polynomial", '{"a": 1, "b": 2}'),
        ("multiplication", "22981"),
        ("countdown", json.dumps({"numbers": [1, 1, 1], "target": 50})),
        ("countdown", json.dumps({"numbers": [1, 2, 3], "target": 6})),
        ("polynomial", None),
    ]
    result = doctor("--data", write(tmp_path / "a.parquet", rows))
    assert result.exit_code == 1
    assert "1 of 5 ground truths get the reward 1" in result.stdout
    text = " ".join(result.stdout.replace("│", " ").split())
    assert "ground truth has c=None, which must be an integer" in text
    assert "ground truth '22981' is not a JSON object" in text
    assert '2 countdown {"numbers": [1, 1, 1], "target": 50} it has no solution' in text
    assert "it has no reward_model.ground_truth" in text


def test_countdown_with_many_numbers_is_counted_apart_and_no_failure(tmp_path):
    options = {"num_numbers": 7, "numbers": (1, 20), "target": (1, 99), "min_solutions": 1}
    write_dataset(tmp_path / "data", "countdown", train_size=9, test_size=1, seed=0, style="instruct", **options)
    result = doctor("--data", tmp_path / "data" / "train.parquet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "0 of 0 ground truths get the reward 1" in result.stdout
    assert "9 more are not looked at: countdown with more than 5 numbers" in result.stdout


CURE = "name a parquet file that `verl-setpo data` wrote, such as train.parquet."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", None, "is not there"),
        ("x.parquet", b"no parquet", "is not a parquet file, or a broken one"),
        ("x.parquet", b"PAR1" + bytes(40) + b"\x24\0\0\0PAR1", "cannot be read (it is broken)"),
        ("x.jsonl", b'{"data_source": "math500"}\n', "is not a parquet file, or a broken one"),
        ("x.txt", b"", "is not a parquet file, or a broken one"),
        (".", None, "is a folder"),
        ("x.parquet", {"answer": ["7"]}, "has no column data_source or reward_model"),
        (
            "x.parquet",
            {"data_source": ["gsm8k"], "reward_model": ["7"]},
            "has no ground_truth in its column",
        ),
        (
            "x.parquet",
            {"data_source": ["gsm8k"], "reward_model": [{"style": "rule"}]},
            "has no ground_truth in its col",
        ),
    ],
)
def test_what_is_no_data_is_one_sentence_and_no_verdict_on_a_row(name, content, message, tmp_path):
    path = tmp_path / name
    if isinstance(content, dict):
        pq.write_table(pa.table(content), path)
    elif content is not None:
        path.write_bytes(content)
    result = doctor("--data", path)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: --data {path} {message}")
    assert line.endswith(f": {CURE}")
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_grader_that_does_not_start_is_no_verdict_either(monkeypatch):
    def fail(*_):
        raise StartError("no worker")

    monkeypatch.setattr(grader, "grade_cases", fail)
    result = doctor()
    assert (result.exit_code, result.stderr) == (1, "Error: no worker\n")
