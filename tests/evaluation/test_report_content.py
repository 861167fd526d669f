"""What the page of `verl-setpo report` shows, and what it leaves out: choices, cuts, and files read twice."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.report_files import (
    HOSTILE_TEXTS,
    validation_row,
    write_lines,
    write_metrics,
    write_rollouts,
    write_three_runs,
    write_validation,
)
from tests.evaluation.test_report import invoke, read
from verl_setpo.evaluation.comparison import compare
from verl_setpo.evaluation.report.content import build_content
from verl_setpo.evaluation.report.page import embedded_json
from verl_setpo.evaluation.report.show import HEAD_CHARS, TAIL_CHARS, Cut, Rollout, answer_in, cut, group_json, visible
from verl_setpo.evaluation.report.texts import preview_lines
from verl_setpo.evaluation.report.training_figures import MOST_POINTS, training_curve
from verl_setpo.evaluation.report.training_groups import training_groups
from verl_setpo.evaluation.runs import Layout, read_run


def rollout(session: int, answer: str, correct: bool, **more: Any) -> Rollout:
    return Rollout(session, (answer, correct), answer, correct, float(correct), Cut(f"text {session}"), **more)


def outcomes(run: Path, step: int, right: dict[str, int], num_samples: int = 4) -> None:
    """A validation in which so many of the samples of each problem are right, all with one answer."""
    write_lines(
        run / "validation" / f"{step}.jsonl",
        [
            validation_row(problem, session, session < count, "yes" if session < count else "no", "text")
            for problem, count in right.items()
            for session in range(num_samples)
        ],
    )


# Paired changes.


def test_gained_lost_and_same_are_counted_problem_by_problem(tmp_path: Path) -> None:
    outcomes(tmp_path / "a", 5, {"w": 0, "x": 1, "y": 4, "z": 2})
    outcomes(tmp_path / "b", 5, {"w": 3, "x": 2, "y": 0, "z": 2})
    assert invoke(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out").exit_code == 0
    rows = {row["figure"]: row for row in read(tmp_path / "out")["paired"]}
    assert {(row["from"], row["to"]) for row in rows.values()} == {("a", "b")}

    def counts(figure: str) -> tuple[int, int, int]:
        return tuple(rows[figure][name] for name in ("gained", "lost", "tied"))

    assert counts("pass@1") == (2, 1, 1)
    assert rows["pass@1"]["difference"]["mean"] == pytest.approx((3 + 1 - 4 + 0) / 16)
    assert rows["pass@1"]["p_value"] == 1.0  # 2 of 3
    assert counts("solved at all") == (1, 1, 2)
    # The vote of four: w from no to yes, x from no to a tie, y from yes to no.
    assert counts("majority@4") == (2, 1, 1)
    assert rows["majority@4"]["difference"]["mean"] == pytest.approx((1 + 0.5 - 1 + 0) / 4)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| a | b | pass@1 (%) | +0.0 (" in text


def test_curves_of_majority_and_branching_by_hand(tmp_path: Path) -> None:
    outputs = ["let x be 1", "let x be 2", "let y", "we"]
    rows = [validation_row("p", i, i < 3, "yes" if i < 3 else "no", text) for i, text in enumerate(outputs)]
    write_lines(tmp_path / "run" / "validation" / "3.jsonl", rows)
    invoke(tmp_path / "run", "--out", tmp_path / "out")
    content = read(tmp_path / "out")
    (majority,), (branching,) = content["majority_at_k"], content["branches_by_words"]
    # Of two samples both are right, or one is and the lot decides: 3 of 6 pairs, and half of 3 of 6.
    assert {k: point["mean"] for k, point in majority["points"].items()} == {"1": 0.75, "2": 0.75, "4": 1.0}
    # let|we, let x|let y|we, the same three, and then 1|2.
    assert {t: point["mean"] for t, point in branching["points"].items()} == {"1": 2, "2": 3, "3": 3, "4": 4}


def test_problems_that_changed_most_come_first_gains_and_losses_by_turns(tmp_path: Path) -> None:
    outcomes(tmp_path / "a", 5, {"same": 2, "up 1": 1, "up 3": 0, "down 4": 4, "down 1": 3})
    outcomes(tmp_path / "b", 5, {"same": 2, "up 1": 2, "up 3": 3, "down 4": 0, "down 1": 2})
    problems = content_of(tmp_path / "a", tmp_path / "b").problems
    assert problems is not None
    assert problems["problems"] == ["up 3", "down 4", "up 1", "down 1", "same"]
    assert problems["figures"][0] == [[0.0, 4, 0.0], [0.75, 4, 1.0]]
    assert len(problems["texts"]) == 5


def content_of(*paths: Path) -> Any:
    runs = [read_run(path, path.name) for path in paths]
    return build_content(runs, compare(runs, [1]))


def test_texts_are_bounded_in_bytes_and_the_most_changed_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_validation(tmp_path / name, 5, lambda i: 0.5, num_problems=50, seed=seed)
    everything = content_of(tmp_path / "a", tmp_path / "b").problems
    size = len(json.dumps(everything["texts"]))
    assert len(everything["texts"]) == 50
    monkeypatch.setattr("verl_setpo.evaluation.report.content.PROBLEM_BYTES", size // 4)
    some = content_of(tmp_path / "a", tmp_path / "b").problems
    assert some["texts"] == everything["texts"][: len(some["texts"])]
    assert 5 <= len(some["texts"]) < 20
    assert some["problems"] == everything["problems"]  # all are in the table


def test_long_generations_are_never_in_memory_together(tmp_path: Path) -> None:
    rng = range(60)
    for step in (0, 1):
        rows = (
            validation_row(f"p{i}", session, (i + step) % 2 == 0, "a", f"{i} {step} " + "long " * 40_000)
            for i in rng
            for session in range(4)
        )
        path = write_lines(tmp_path / "run" / "validation" / f"{step}.jsonl", rows)
    assert path.stat().st_size > 45_000_000
    read_run(tmp_path / "run", "run")  # modules and caches
    tracemalloc.start()
    content_of(tmp_path / "run")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


# Texts.


def test_a_cut_text_keeps_both_ends_and_says_what_is_gone() -> None:
    text = "".join(chr(97 + i % 26) for i in range(10_000))
    assert cut(text) == Cut(text[:HEAD_CHARS], text[-TAIL_CHARS:], 10_000 - HEAD_CHARS - TAIL_CHARS)
    assert cut(text[: HEAD_CHARS + TAIL_CHARS]).left_out == 0


@given(st.text() | st.sampled_from(HOSTILE_TEXTS))
@settings(max_examples=200, deadline=None)
def test_nothing_that_is_shown_hides_reverses_or_cannot_be_encoded(text: str) -> None:
    shown = visible(text)
    assert all(c == "\n" or c.isprintable() for c in shown)
    shown.encode("utf-8")
    assert shown.count("\n") == text.replace("\r\n", "\n").count("\n")


def test_visible_text_keeps_what_people_write() -> None:
    assert visible("Let x² ≤ ∑é 漢字 😀\r\n\tso\u00a0\u202e\ud800\x1b[31m") == (
        "Let x² ≤ ∑é 漢字 😀\n    so\\xa0\\u202e\\ud800\\x1b[31m"
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values | st.sampled_from(HOSTILE_TEXTS))
@settings(max_examples=200, deadline=None)
def test_embedded_json_is_the_same_data_and_cannot_end_its_script(value: Any) -> None:
    text = embedded_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set(text) & set("<>&\u2028\u2029")


def test_figures_that_are_no_numbers_do_not_get_into_the_page() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        embedded_json({"x": math.nan})


def test_prompts_are_told_apart_by_what_they_do_not_share() -> None:
    template = "system\nThink.\nuser\n{}\nPlease reason step by step.\nassistant\n"
    lines = preview_lines({key: template.format(key) for key in ("What is 1+1?", "What is 2+1?")})
    assert lines == {"What is 1+1?": "What is 1+1?", "What is 2+1?": "What is 2+1?"}
    assert preview_lines({"k": "the\nonly one"}) == {"k": "the only one"}
    assert preview_lines({"a": "same", "b": "same"}) == {"a": "same", "b": "same"}
    assert preview_lines({"a": "x\ny", "b": "x\n"}) == {"a": "y", "b": "x"}
    assert preview_lines({}) == {}


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{\frac{1}{2}} or \boxed{3}.", "3"),
        ("<answer> (1, 2) </answer> done", "(1, 2)"),
        ("first\n\n(0,4)\n", "(0,4)"),
        ("", ""),
    ],
)
def test_without_parsed_answers_responses_are_grouped_by_what_they_end_with(response: str, answer: str) -> None:
    assert answer_in(response) == answer


def test_clusters_are_right_ones_first_then_by_size_and_carry_few_texts() -> None:
    rollouts = [rollout(i, "wrong", False) for i in range(10)]
    rollouts += [rollout(20, "b", True), *(rollout(i, "a", True, credit=0.5) for i in range(30, 37))]
    group = group_json(rollouts)
    assert [(c["label"], c["correct"], len(c["rollouts"])) for c in group["clusters"]] == [
        *(("a", 7, 7), ("b", 1, 1), ("wrong", 0, 10))
    ]
    a = group["clusters"][0]["rollouts"]
    assert a[0] == {"session": 30, "reward": 1.0, "credit": 0.5, "text": ["text 30"]}
    assert ["text" in one for one in a] == [True] * 4 + [False] * 3
    many = group_json([rollout(i, str(i), False) for i in range(30)])
    assert (len(many["clusters"]), many["more"]) == (24, 6)


def test_of_a_session_with_many_outputs_the_last_is_shown_under_the_first_prompt(tmp_path: Path) -> None:
    rows = [
        validation_row("question and turn", 0, True, "4", "second") | {"uid": "p_0_1"},
        validation_row("question", 0, True, "3", "first") | {"uid": "p_0_0"},
    ]
    write_lines(tmp_path / "run" / "validation" / "2.jsonl", rows)
    (entry,) = content_of(tmp_path / "run").problems["texts"]
    assert entry["prompt"] == ["system\nAnswer.\nuser\nquestion\nassistant\n"]
    (cluster,) = entry["groups"][0]["clusters"]
    assert (cluster["label"], cluster["rollouts"][0]["text"]) == ("4", ["second"])


# Training.


def test_rollout_folders_are_found_by_their_content(tmp_path: Path) -> None:
    (run, _, _) = write_three_runs(tmp_path)
    write_rollouts(run, 2, texts="zzz", log="some log")
    (run / "empty").mkdir()
    (run / "1.jsonl").mkdir()
    files = read_run(run, "run").rollouts
    assert {step: path.parent.name for step, path in files.texts.items()} == {
        **dict.fromkeys((1, 5, 10), "texts"),
        2: "zzz",
    }
    assert {step: path.parent.name for step, path in files.log.items()} == {2: "some log"}
    named = read_run(run, "run", Layout(rollouts="zzz")).rollouts
    assert (set(named.texts), set(named.log)) == ({2}, set())


def test_a_run_that_logs_no_texts_stands_beside_one_that_does_by_the_index_of_the_prompt(tmp_path: Path) -> None:
    full, log_only = tmp_path / "full", tmp_path / "log_only"
    write_rollouts(full, 3)
    write_rollouts(log_only, 3, texts=None)
    runs = [read_run(path, path.name) for path in (full, log_only)]
    groups = training_groups(runs)
    assert len(groups.chosen) == 4
    assert all(set(groups.rollouts[prompt]) == {0, 1} for prompt in groups.chosen)
    first = groups.chosen[0]  # the prompt with the most unlike credit
    assert [r.credit for r in groups.rollouts[first][1]] == [-0.5, 0.0, 0.5, 1.0]
    assert all(r.text is None for r in groups.rollouts[first][1])
    assert groups.prompts[first].head == "user\ntraining prompt 3 of step 3\nassistant\n"


def test_first_middle_and_last_common_step_are_shown(tmp_path: Path) -> None:
    for name, steps in (("a", range(1, 9)), ("b", range(2, 7))):
        for step in steps:
            write_rollouts(tmp_path / name, step)
    groups = training_groups([read_run(tmp_path / name, name) for name in "ab"])
    assert [step for step, _ in groups.chosen[::4]] == [6, 4, 2]


def test_missing_parts_are_notes_and_a_folder_of_validations_is_a_run(tmp_path: Path) -> None:
    grpo, setpo, _ = write_three_runs(tmp_path)
    write_rollouts(tmp_path / "logged", 1, texts=None)
    result = invoke(setpo, tmp_path / "logged", grpo / "validation", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "logged: no validation samples, so no pass@k (set trainer.validation_data_dir)." in output
    assert "logged: its training rollouts have no texts (set trainer.rollout_data_dir)." in output
    assert [run["label"] for run in read(tmp_path / "out")["runs"]] == ["setpo", "validation"]


def test_other_places_can_be_named(tmp_path: Path) -> None:
    write_validation(tmp_path / "run", 3, lambda i: 0.5)
    (tmp_path / "run" / "validation").rename(tmp_path / "run" / "val")
    write_metrics(tmp_path / "elsewhere", 5, ours=False)
    named = ("--validation", "val", "--metrics", tmp_path / "elsewhere" / "metrics.jsonl")
    result = invoke(tmp_path / "run", *named, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert read(tmp_path / "out")["runs"][0]["seconds_per_step"] == 1.5


@given(st.dictionaries(st.integers(0, 10**6), st.floats(-1e6, 1e6), min_size=1, max_size=2000))
@settings(max_examples=50, deadline=None)
def test_a_training_curve_is_short_and_stays_within_what_was_logged(values: dict[int, float]) -> None:
    curve = training_curve(values)
    assert len(curve.step_S) == len(curve.value_S) == len(curve.smooth_S) == min(len(values), MOST_POINTS)
    assert curve.step_S == sorted(curve.step_S)
    slack = 1e-9 * (1 + max(map(abs, values.values()))) * len(values)
    for line in (curve.value_S, curve.smooth_S):
        assert min(values.values()) - slack <= min(line) <= max(line) <= max(values.values()) + slack


def test_a_straight_training_curve_stays_straight() -> None:
    curve = training_curve({step: 2.0 * step for step in range(3 * MOST_POINTS)})
    assert curve.smooth_S == pytest.approx([2 * step for step in curve.step_S])
