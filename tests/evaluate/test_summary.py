"""The figures of a file, checked by hand on a few samples."""

from __future__ import annotations

import json
from itertools import combinations

import pytest

from verl_setpo.evaluate.summary import figures
from verl_setpo.evaluate.tables import as_json, cells, markdown_table, notes


def write(tmp_path, problems, **more):
    """problems: for each its samples (answer, correct)."""
    path = tmp_path / "7.jsonl"
    rows = []
    for p, samples in enumerate(problems):
        for s, (answer, correct) in enumerate(samples):
            row = {"input": f"p{p}", "output": "", "gts": p, "score": float(correct), "acc": float(correct)}
            rows.append({**row, "pred": answer, "uid": f"set-{p}_{s}_0", **{k: v[p][s] for k, v in more.items()}})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PROBLEMS = [
    [("1", True), ("1", True), ("2", True), ("9", False)],
    [("5", False), ("5", False), ("5", False), ("6", True)],
]


def test_pass_majority_and_distinct_answers_are_those_counted_by_hand(tmp_path):
    found = figures(write(tmp_path, PROBLEMS), "run", 7, "set")
    assert found.pass_at_k[1].mean == pytest.approx((3 / 4 + 1 / 4) / 2)
    # Of 6 pairs of the second problem 3 hold its right sample, of the first all.
    assert found.pass_at_k[2].mean == pytest.approx((1 + 3 / 6) / 2)
    assert found.pass_at_k[4].mean == 1.0
    assert found.majority is not None
    accuracy, share = found.majority[4]
    assert accuracy.mean == 0.5
    assert share.mean == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert found.distinct is not None
    assert found.distinct.mean == pytest.approx((2 + 1) / 2)
    assert found.mean_score.mean == found.pass_at_k[1].mean
    assert (found.num_problems, found.num_samples, found.answered) == (2, 4, 1.0)


def test_majority_of_two_is_the_mean_over_all_pairs_with_ties_by_lot(tmp_path):
    found = figures(write(tmp_path, PROBLEMS), "run", 7, "set", ks=[2])
    expected = []
    for samples in PROBLEMS:
        pairs = list(combinations(samples, 2))
        expected.append(sum(sum(correct for _, correct in pair) / 2 for pair in pairs) / len(pairs))
    assert found.majority is not None
    assert found.majority[2][0].mean == pytest.approx(sum(expected) / 2)


def test_cut_off_samples_tokens_and_failed_verdicts_are_counted(tmp_path):
    reasons = [["stop", "length", "stop", "length"], ["stop", "stop", "stop", "length"]]
    tokens = [[1, 8, 2, 8], [3, 4, 5, 8]]
    failed = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    found = figures(
        write(tmp_path, PROBLEMS, finish_reason=reasons, num_tokens=tokens, grader_failed=failed), "run", 7, "set"
    )
    assert found.truncated == 3 / 8
    assert found.mean_tokens == sum(map(sum, tokens)) / 8
    assert found.grader_failed == 1
    assert notes([found]) == ["run, step 7, set: 1 samples could not be graded and count as wrong."]


def test_without_parsed_answers_majority_is_unknown_and_said_to_be(tmp_path):
    path = write(tmp_path, PROBLEMS)
    rows = [json.loads(line) for line in path.open()]
    for row in rows:
        del row["pred"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = figures(path, "run", 7, "set")
    assert found.majority is None
    assert found.distinct is None
    assert as_json([found])["results"][0]["majority_at_k"] is None
    assert "no majority and no distinct answers" in notes([found])[0]


def test_of_a_session_with_many_outputs_the_last_one_counts(tmp_path):
    path = write(tmp_path, [[("1", True), ("2", False)]])
    rows = [json.loads(line) for line in path.open()]
    earlier = {**rows[0], "uid": "set-0_0_0", "acc": 0.0, "pred": "?"}
    last = {**rows[0], "uid": "set-0_0_1"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (last, earlier, rows[1])))
    found = figures(path, "run", 7, "set")
    assert found.num_samples == 2
    assert found.pass_at_k[1].mean == 0.5


def test_a_ragged_file_takes_the_ks_that_all_its_problems_have(tmp_path):
    found = figures(write(tmp_path, [PROBLEMS[0], PROBLEMS[1][:3]]), "run", 7, "set")
    assert found.num_samples == 3
    assert sorted(found.pass_at_k) == [1, 2, 3]


def test_the_mean_over_sets_counts_each_set_alike(tmp_path):
    (tmp_path / "b").mkdir()
    big = figures(write(tmp_path, PROBLEMS), "run", 7, "big")
    small = figures(write(tmp_path / "b", PROBLEMS[:1]), "run", 7, "small")
    (average,) = as_json([big, small])["averages"]
    assert average["pass_at_k"]["1"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert average["majority_at_k"]["4"]["accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert [cell.text for cell in cells([big, small])[1][2][:4]] == ["run 7", "mean of 2 sets", "62.5", "100"]
    assert as_json([big])["averages"] == []


def test_names_are_literal_in_markdown(tmp_path):
    found = figures(write(tmp_path, PROBLEMS), "a|<b>_*", 7, "set\x1b[31m")
    text = markdown_table([found])
    assert "\x1b" not in text
    assert "| a\\|\\<b\\>\\_\\* 7 | set" in text
    headers, rows = cells([found])
    assert [len(row) for row in rows] == [len(headers)]
