"""Reading verl's validation files, whole and broken."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_setpo.evaluation.generations import (
    NoGenerationsError,
    Problem,
    parse_sample,
    read_validation,
    validation_files,
)
from verl_setpo.evaluation.jsonl import BrokenLineError, read_json_lines


def row(**changes: Any) -> dict[str, Any]:
    """A line of verl's file; a change to None removes nothing, it writes null."""
    return {
        "input": "p",
        "output": "o",
        "gts": "4",
        "score": 0.0,
        "step": 1,
        "reward": 0.0,
        "acc": False,
        "pred": "4",
        "uid": "a_0_0",
    } | changes


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return path


def test_samples_are_grouped_by_prompt(tmp_path: Path, write_validation: Callable[..., Path]) -> None:
    samples = {"x": [(True, "1"), (True, "2"), (True, "1"), (False, "9")], "y": [(True, ""), (False, "")]}
    validation = read_validation(write_validation(tmp_path, 30, samples))
    assert (validation.step, validation.has_answers, validation.skipped) == (30, True, ())
    assert list(validation.problems.values()) == [Problem(4, 3, (2, 1)), Problem(2, 1, ())]


def test_problems_have_one_key_in_all_files_though_verl_renews_the_uids(
    tmp_path: Path, write_validation: Callable[..., Path]
) -> None:
    first = read_validation(write_validation(tmp_path, 0, {"x": [(True, "1")], "y": [(False, "")]}))
    later = read_validation(write_validation(tmp_path, 5, {"y": [(True, "1")], "x": [(False, "")]}))
    assert set(first.problems) == set(later.problems)
    assert [later.problems[key].num_correct for key in first.problems] == [0, 1]  # matched, not in file order


def test_ground_truth_tells_equal_prompts_apart(tmp_path: Path) -> None:
    four = read_validation(write_rows(tmp_path / "1.jsonl", [row(gts="4")]))
    five = read_validation(write_rows(tmp_path / "2.jsonl", [row(gts="5")]))
    assert not set(four.problems) & set(five.problems)


def test_a_problem_that_the_data_set_holds_twice_stays_two(tmp_path: Path) -> None:
    rows = [row(uid="a_0_0"), row(uid="c_0_0"), row(uid="c_1_0")]
    problems = read_validation(write_rows(tmp_path / "1.jsonl", rows)).problems
    assert [problem.num_samples for problem in problems.values()] == [1, 2]


def test_of_a_session_with_many_outputs_only_the_last_counts(tmp_path: Path, verl_write: Callable[..., None]) -> None:
    # Index 10 must beat index 9: an order by text would not do.
    uids = [f"p_q_0_{i}" for i in range(11)] + ["p_q_1_0"]
    verl_write(
        inputs=["question"] + [f"question and turn {i}" for i in range(1, 11)] + ["question"],
        outputs=["o"] * 12,
        gts=["4"] * 12,
        scores=np.zeros(12).tolist(),
        reward_extra_infos_dict={
            "acc": [np.bool_(False)] * 10 + [np.bool_(True)] * 2,
            "pred": [f"turn {i}" for i in range(10)] + ["last", "other"],
            "uid": uids,
        },
        dump_path=str(tmp_path),
        global_steps=2,
    )
    multi = read_validation(tmp_path / "2.jsonl")
    assert list(multi.problems.values()) == [Problem(2, 2, (1, 1))]
    # The prompt is the one that the data set holds, not one with earlier turns in it.
    single = read_validation(write_rows(tmp_path / "1.jsonl", [row(input="question", uid="z_0_0")]))
    assert list(single.problems) == list(multi.problems)


@pytest.mark.parametrize(
    ("fields", "correct"),
    [
        ({"acc": True, "score": -1.0}, True),
        ({"acc": False, "score": 1.2}, False),
        ({"acc": 1.0}, True),
        ({"acc": 0.1, "score": 0.1}, False),  # naive manager: acc is the score, here that for the format
        ({"acc": None, "score": 1.0}, True),  # verl writes null for a sample that lacks the field
        ({"acc": None, "score": 0.9}, False),
        ({"acc": None, "score": None, "reward": 1.0}, True),
        ({"acc": float("nan")}, False),
    ],
)
def test_correct_is_acc_else_score_of_at_least_one(fields: dict[str, Any], correct: bool) -> None:
    assert parse_sample(row(**fields)).correct is correct


@pytest.mark.parametrize(("pred", "answer"), [(" 4 ", "4"), (None, ""), ("", ""), (4, "4"), (["b", 1], '["b", 1]')])
def test_the_answer_is_pred(pred: object, answer: str) -> None:
    assert parse_sample(row(pred=pred)).answer == answer


def test_without_pred_answers_are_unknown_not_empty(tmp_path: Path, write_validation: Callable[..., Path]) -> None:
    validation = read_validation(write_validation(tmp_path, 1, {"x": [(True, "1")]}, drop=("pred", "acc")))
    assert not validation.has_answers
    assert list(validation.problems.values()) == [Problem(1, 1, ())]


def test_a_file_cut_by_a_kill_loses_one_line(
    tmp_path: Path, write_validation: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = write_validation(tmp_path, 7, {"x": [(True, "1")] * 3})
    path.write_bytes(path.read_bytes()[:-40])
    validation = read_validation(path)
    assert [(item.line, item.reason) for item in validation.skipped] == [(3, "cut off")]
    assert [problem.num_samples for problem in validation.problems.values()] == [2]
    assert caplog.messages == [f"{path}: skipped 1 line (line 3: cut off)"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{nonsense\n", "not valid JSON"),
        (b'{"input": "\xff"}\n', "not valid JSON"),
        (b'{"score": ' + b"9" * 5000 + b"}\n", "not valid JSON"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
        (b'["a", "list"]\n', "not a JSON object"),
        (b"{}\n", "no input, gts, uid"),
        (json.dumps(row(uid="a_0")).encode() + b"\n", "uid is not {prompt}_{session}_{index}"),
        (json.dumps(row(uid=None)).encode() + b"\n", "uid is not {prompt}_{session}_{index}"),
        (json.dumps(row(acc="yes")).encode() + b"\n", "acc is not a number"),
        (json.dumps(row(acc=None, score=None, reward=None)).encode() + b"\n", "no acc and no score"),
    ],
)
def test_a_broken_line_is_skipped_and_named(
    line: bytes, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = json.dumps(row()).encode() + b"\n"
    path = tmp_path / "1.jsonl"
    path.write_bytes(good + b"\n" + line + good.replace(b"a_0_0", b"a_1_0"))
    validation = read_validation(path)
    assert [(item.line, item.reason) for item in validation.skipped] == [(3, reason)]
    assert [problem.num_samples for problem in validation.problems.values()] == [2]
    assert f"{path}: skipped 1 line (line 3: {reason})" in caplog.text


def test_many_broken_lines_give_one_short_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "1.jsonl"
    path.write_text("\x1b[2J broken\n" * 1000)
    assert len(read_validation(path).skipped) == 1000
    assert len(caplog.messages) == 1
    assert "1000 lines" in caplog.text
    assert "and 995 more" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_hostile_file_name_is_escaped_in_the_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a\x1b[31m\u202e" / "1.jsonl"
    path.parent.mkdir()
    path.write_text("broken\n")
    read_validation(path)
    assert r"a\x1b[31m\u202e" in caplog.messages[0]


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_content_crashes_the_reader(content: bytes) -> None:
    import tempfile

    logging.getLogger("verl_setpo.evaluation.jsonl").setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "1.jsonl"
            path.write_bytes(content)
            assert read_validation(path).problems == {}
    finally:
        logging.getLogger("verl_setpo.evaluation.jsonl").setLevel(logging.NOTSET)


texts = st.text("ab_0 \n\x1b\ud800\u2028", max_size=5)  # with half a surrogate pair, which UTF-8 cannot hold
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(row(), json_values)))
@settings(max_examples=200, deadline=None)
def test_any_value_in_any_field_is_read_or_named_as_broken(changes: dict[str, Any]) -> None:
    line = json.loads(json.dumps(row() | changes))
    try:
        sample = parse_sample(line)
    except BrokenLineError:
        return
    assert isinstance(sample.correct, bool)
    assert isinstance(sample.answer, str)


def test_steps_are_in_order_and_other_files_are_ignored(tmp_path: Path) -> None:
    for name in ("10.jsonl", "9.jsonl", "0.jsonl", "007.jsonl", "best.jsonl", "-1.jsonl", "5.json"):
        (tmp_path / name).touch()
    (tmp_path / "3.jsonl").mkdir()
    assert list(validation_files(tmp_path)) == [0, 9, 10]


def test_no_files_is_one_sentence(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NoGenerationsError, match=r"No validation samples in .*validation_data_dir names") as error:
            validation_files(directory)
        assert "\n" not in str(error.value)


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": "x\u2028y\u0085z"}\r\n{"a": 2}'.encode())
    assert read_json_lines(path, lambda item: item["a"]) == (["x\u2028y\u0085z", 2], [])


def test_importing_the_package_imports_neither_verl_nor_ray_nor_matplotlib() -> None:
    code = (
        "import sys, verl_setpo.evaluation, verl_setpo.evaluation.commands as c\n"
        "print(sorted({'verl', 'ray', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
