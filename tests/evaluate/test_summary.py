"""The figures of a file, checked by hand on a few samples."""

from __future__ import annotations

import io
import json
from itertools import combinations

import pytest
from rich.console import Console

from verl_setpo.evaluate.notes import notes
from verl_setpo.evaluate.summary import Figures, compared, read_graded
from verl_setpo.evaluate.summary import figures as figures_of
from verl_setpo.evaluate.tables import as_json, caption, cells, markdown_table, rich_tables


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


def figures(path, run, step, set_name, ks=None) -> Figures:
    return figures_of(read_graded(path, run, step, set_name), ks)


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


def test_where_the_reward_names_strategies_they_are_what_is_distinct(tmp_path):
    problems = [[("42", True), ("42", True), ("42", True), ("41", False)], [("6", True)] * 4]
    strategies = [["40+2", "21*2", "40+2", "50-8"], ["", "5+1", "5+1", "5+1"]]
    found = figures(write(tmp_path, problems, strategy=strategies), "run", 7, "set")
    assert found.distinct is not None
    assert found.distinct.mean == (2 + 1) / 2
    assert found.majority is not None
    assert found.majority[4][0].mean == 1.0  # answers vote, strategies do not


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
    assert notes([found]) == ["run 7 on set: 1 sample could not be graded, which counts as wrong."]


def test_without_parsed_answers_majority_is_unknown_and_said_to_be(tmp_path):
    path = write(tmp_path, PROBLEMS)
    rows = [json.loads(line) for line in path.open()]
    for row in rows:
        del row["pred"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = figures(path, "run", 7, "set")
    assert found.majority is None
    assert found.distinct is None
    assert as_json([found], [])["results"][0]["majority_at_k"] is None
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
    (average,) = as_json([big, small], [])["averages"]
    assert average["pass_at_k"]["1"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert average["majority_at_k"]["4"]["accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert [cell.text for cell in cells([big, small])[1][2][:4]] == ["run 7", "mean of 2 sets", "62.5", "100"]
    assert as_json([big], [])["averages"] == []


def test_names_are_literal_in_markdown(tmp_path):
    found = figures(write(tmp_path, PROBLEMS), "a|<b>_*", 7, "set\x1b[31m")
    text = markdown_table([found], None, notes([found]))
    assert "\x1b" not in text
    assert "| a\\|\\<b\\>\\_\\* 7 | set" in text
    headers, rows = cells([found])
    assert [len(row) for row in rows] == [len(headers)]


def test_an_incomplete_problem_is_left_out_and_costs_the_others_no_sample(tmp_path):
    found = figures(write(tmp_path, [*PROBLEMS * 5, PROBLEMS[0][:1]]), "run", 7, "set")
    assert (found.num_problems, found.num_samples, found.incomplete) == (10, 4, 1)
    assert found.pass_at_k[4].mean == 1.0
    assert notes([found]) == ["run 7 on set: 1 problem with fewer than 4 samples is left out."]


def compare(tmp_path, samples: dict[str, list], ks=None) -> list[Figures]:
    """The rows of one set, each run with its problems."""
    for run in samples:
        (tmp_path / run).mkdir()
    return compared([read_graded(write(tmp_path / run, of), run, 0, "set") for run, of in samples.items()], ks)


def test_models_with_more_samples_have_their_distinct_answers_counted_in_as_many_as_the_others(tmp_path):
    more = [[("1", True), ("2", True), ("3", True), ("4", False)]]
    few, many = compare(tmp_path, {"few": [more[0][:2]], "many": more})
    # Of 4 samples 3 are right, each with an answer of its own: 3 in 4, and on average 1.5 in 2.
    assert many.distinct is not None
    assert many.distinct.mean == pytest.approx(1.5)
    assert few.distinct is not None
    assert few.distinct.mean == 2
    assert [row["distinct_in_samples"] for row in as_json([few, many], [])["results"]] == [2, 2]
    assert "set 1 x 2 (few), 1 x 4 (many)" in caption([few, many])
    (note,) = notes([few, many])
    assert note.startswith("set: distinct correct answers are what 2 samples of a problem show on average, as of few")


def test_rows_of_other_problems_are_told_apart(tmp_path):
    rows = compare(tmp_path, {"one": PROBLEMS[:1], "two": PROBLEMS})
    assert "set 1 x 4 (one), 2 x 4 (two)" in caption(rows)
    assert "set: not all rows are of the same problems" in notes(rows)[0]


def test_the_table_has_the_ks_that_were_asked_for_and_a_note_has_the_others(tmp_path):
    (row,) = compare(tmp_path, {"run": PROBLEMS}, ks=[2, 3, 64])
    headers, _ = cells([row], [2, 3, 64])
    assert headers[2:8] == [
        *("pass@1 (%)", "pass@2 (%)", "pass@3 (%)"),
        *("majority@2 (%)", "majority@3 (%)", "vote share@3 (%)"),
    ]
    assert "pass@3 (%)" in markdown_table([row], [2, 3, 64], [])
    assert notes([row], [2, 3, 64]) == ["k = 64 is left out, as run on set has only 4 samples a problem."]
    assert [header for header in cells([row])[0] if "pass@" in header] == ["pass@1 (%)", "pass@4 (%)"]


def test_step_0_of_a_run_keeps_its_step(tmp_path):
    file = write(tmp_path, PROBLEMS)
    rows = compared([read_graded(file, *key, "set") for key in (("grpo", 0), ("grpo", 30), ("base", 0))])
    assert [row[0].text for row in cells(rows)[1]] == ["grpo 0", "grpo 30", "base"]


def test_no_reward_that_finds_no_answer_goes_without_a_word(tmp_path):
    silent = [[("", False)] * 2] * 2
    (note,) = notes([figures(write(tmp_path, silent), "run", 7, "set")])
    assert note.startswith("run 7 on set: the reward finds an answer in no response")


@pytest.mark.parametrize("width", [60, 80])
def test_no_name_is_broken_and_no_figure_is_cut_in_a_narrow_terminal(tmp_path, width):
    samples = {"mathematics-7b": PROBLEMS, "mathematics-1.5b": PROBLEMS}
    rows = compare(tmp_path, samples, ks=[1, 2, 3, 4])
    out = io.StringIO()
    for table in rich_tables(rows, [1, 2, 3, 4], width):
        Console(file=out, width=width).print(table)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    whole = " ".join(lines)
    assert "…" not in whole
    for run in samples:
        assert run in whole
    for cell in (cell for row in cells(rows, [1, 2, 3, 4])[1] for cell in row[2:] if cell.low):
        assert f" {cell.text} " in f"{whole} "
        assert f"{cell.low}-{cell.high}" in whole
