"""`verl-setpo doctor grader`: the shipped cases, the second grader, and the ground truths of a data file."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from verl_setpo.cli import app
from verl_setpo.doctor import grader
from verl_setpo.doctor.grader import Case, grade_cases, load_cases

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


def test_a_file_that_is_no_data_is_one_sentence(tmp_path):
    path = tmp_path / "x.parquet"
    for content in (None, b"no parquet"):
        if content is not None:
            path.write_bytes(content)
        result = doctor("--data", path)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"Error: --data {path} cannot be read as parquet with the columns data_source")
    pq.write_table(pa.table({"answer": ["7"]}), path)
    assert "Error: --data" in doctor("--data", path).stderr
