"""Which starting model each run of `verl-setpo report` is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.report_files import validation_row, write_lines
from tests.evaluation.test_report import invoke, read

SAMPLES = 4


def write(run: Path, step: int, right: list[int]) -> Path:
    """Problem i is answered right by right[i] of four samples: "yes" each time, the wrong ones "no"."""
    rows = [
        validation_row(f"p{i}", session, session < count, "yes" if session < count else "no", f"{session < count} text")
        for i, count in enumerate(right)
        for session in range(SAMPLES)
    ]
    write_lines(run / "validation" / f"{step}.jsonl", rows)
    return run


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """One model, whose samples came out differently in the two runs."""
    one = write(write(tmp_path / "one", 0, [1, 2, 3, 0]), 5, [4, 4, 4, 4])
    other = write(write(tmp_path / "other", 0, [3, 2, 0, 2]), 5, [4, 4, 4, 0])
    return one, other


def report(out: Path, *runs: Path) -> dict[str, Any]:
    result = invoke(*runs, "--out", out)
    assert result.exit_code == 0, result.output
    return read(out)


def against_start(content: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["from"], row["figure"]): row for row in content["paired"] if row["from"].endswith(("step 0", "model"))}


def test_each_run_is_compared_with_its_own_step_0(two: tuple[Path, Path], tmp_path: Path) -> None:
    content = report(tmp_path / "out", *two)
    rows = {name: row for (name, figure), row in against_start(content).items() if figure == "pass@1"}
    assert {name: row["to"] for name, row in rows.items()} == {"one, step 0": "one", "other, step 0": "other"}
    assert rows["one, step 0"]["difference"]["mean"] == pytest.approx(1 - 6 / 16)
    assert rows["other, step 0"]["difference"]["mean"] == pytest.approx(12 / 16 - 7 / 16)
    assert (rows["other, step 0"]["gained"], rows["other, step 0"]["lost"]) == (3, 1)


def test_the_order_of_the_runs_changes_no_comparison_with_the_start(two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = report(tmp_path / "a", *two), report(tmp_path / "b", *reversed(two))
    assert first["starts"] == second["starts"]
    assert against_start(first) == against_start(second)
    for curves in ("majority_at_k", "branches_by_words"):
        assert first[curves][0] == second[curves][0]
        assert first[curves][0]["label"] == "starting model (mean of 2 runs)"


def test_row_and_curves_of_a_common_start_are_means_over_the_runs(two: tuple[Path, Path], tmp_path: Path) -> None:
    content = report(tmp_path / "out", *two)
    (start,) = content["starts"]
    assert start["label"] == "starting model (mean of 2 runs)"
    assert start["pass_at_k"]["1"]["mean"] == pytest.approx((6 + 7) / 32)
    (majority,) = [curve for curve in content["majority_at_k"] if curve["label"] == start["label"]]
    assert majority["points"]["1"]["mean"] == pytest.approx((6 + 7) / 32)
    # Votes of four: right, a tie, wrong and wrong with a tie, of one and the other run.
    assert majority["points"]["4"]["mean"] == pytest.approx(((0 + 0.5 + 1 + 0) + (1 + 0.5 + 0 + 0.5)) / 8)
    (branching,) = [curve for curve in content["branches_by_words"] if curve["label"] == start["label"]]
    assert branching["points"]["1"]["mean"] == pytest.approx(((2 + 2 + 2 + 1) + (2 + 2 + 1 + 2)) / 8)
    assert "| starting model (mean of 2 runs) | 0 | 40.6 (" in (tmp_path / "out" / "report.md").read_text()


def test_different_starting_models_are_pointed_out_and_shown_one_by_one(tmp_path: Path) -> None:
    low = write(write(tmp_path / "low", 0, [1] * 8), 5, [2] * 8)
    high = write(write(tmp_path / "high", 0, [2] * 8), 5, [4] * 8)
    for runs in ((low, high), (high, low)):
        content = report(tmp_path / "out", *runs)
        (note,) = [note for note in content["notes"] if "step 0" in note]
        assert note.startswith("Pass@1 at step 0 is 0.250 in low and 0.500 in high")
        own = {row["label"]: row["pass_at_k"]["1"]["mean"] for row in content["starts"]}
        assert own == {"low, step 0": 0.25, "high, step 0": 0.5}
        curves = {curve["label"]: curve["points"]["1"]["mean"] for curve in content["majority_at_k"]}
        assert curves == {"low, step 0": 0.25, "high, step 0": 0.5, "low": 0.5, "high": 1.0}
        paired = against_start(content)
        changes = {name: paired[name, "pass@1"]["difference"]["mean"] for name in own}
        assert changes == {"low, step 0": 0.25, "high, step 0": 0.5}


def test_the_only_step_0_counts_for_all_runs_and_one_of_several_for_its_own(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    bare = write(tmp_path / "bare", 5, [2, 2, 2, 2])
    content = report(tmp_path / "out", two[0], bare)
    assert [row["label"] for row in content["starts"]] == ["starting model"]
    changes = {row["to"]: row["difference"]["mean"] for row in content["paired"] if row["from"] == "starting model"}
    assert set(changes) == {"one", "bare"}
    content = report(tmp_path / "out", *two, bare)
    assert "bare" not in {row["to"] for row in against_start(content).values()}
    assert any(
        "No validation of step 0 in bare, so no comparison with the starting model" in note for note in content["notes"]
    )
