"""`verl-setpo report` from end to end, on files that verl's own code wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from verl_setpo.evaluation.commands import report

PROBLEMS = [f"problem {i}" for i in range(20)]
WriteRun = Callable[..., Path]


def samples(correct: int, distinct: int, num_samples: int = 16) -> list[tuple[bool, str]]:
    """`correct` right samples that cycle through `distinct` answers; the rest is wrong."""
    return [(i < correct, str(i % distinct) if i < correct else "wrong") for i in range(num_samples)]


def invoke(*arguments: object) -> Result:
    app = typer.Typer()
    app.command("report")(report)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})


@pytest.fixture
def write_run(tmp_path: Path, write_validation: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> WriteRun:
    """A run with one validation for each entry of `steps`; metrics.jsonl by verl's FileLogger."""
    from verl.utils.tracking import FileLogger

    def write(
        name: str, steps: dict[int, list[tuple[bool, str]]], seconds: list[float] | None = None, **options: Any
    ) -> Path:
        run = tmp_path / name
        run.mkdir()
        problems = options.pop("problems", PROBLEMS)
        for step, outcome in steps.items():
            write_validation(run / "validation", step, dict.fromkeys(problems, outcome), **options)
        monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(run / "metrics.jsonl"))
        logger = FileLogger("project", name)
        logger.log({"val-core/x/acc/mean@16": 0.5}, step=0)
        for step, value in enumerate(seconds if seconds is not None else [90.0, 2.0, 3.0, 4.0], start=1):
            logger.log({"timing_s/step": value, "training/global_step": step, "nan": float("nan")}, step=step)
        logger.finish()
        return run

    return write


@pytest.fixture
def two_runs(write_run: WriteRun) -> tuple[Path, Path]:
    start = samples(8, 4)
    return (
        write_run("grpo", {0: start, 10: samples(12, 2), 20: samples(16, 1)}),
        write_run("setpo", {0: start, 10: samples(12, 4), 20: samples(12, 3)}, seconds=[50.0, 5.0, 6.0]),
    )


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def test_figures_of_the_last_validation_and_the_common_start(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(*two_runs, "--labels", "GRPO, SetPO", "--out", out, "--ks", "1,4,16")
    assert result.exit_code == 0, result.output
    content = read(out)
    grpo, setpo, start = *content["runs"], *content["starts"]
    assert [run["label"] for run in content["runs"]] == ["GRPO", "SetPO"]
    assert (grpo["step"], setpo["step"], start["step"]) == (20, 20, 0)
    assert (content["num_problems"], content["num_samples"]) == (20, 16)
    assert grpo["pass_at_k"]["1"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert setpo["pass_at_k"]["1"]["mean"] == pytest.approx(0.75)
    assert start["pass_at_k"]["4"]["mean"] == pytest.approx(1 - 70 / 1820)  # C(8, 4) / C(16, 4)
    assert [run["distinct_correct"]["mean"] for run in (start, grpo, setpo)] == [4.0, 1.0, 3.0]
    assert [run["share_with_two_or_more"]["mean"] for run in (start, grpo, setpo)] == [1.0, 0.0, 1.0]
    assert [run["average_mode"] for run in (start, grpo, setpo)] == [4.0, None, 3.0]
    assert [point["distinct_correct"]["mean"] for point in grpo["progress"]] == [4.0, 2.0, 1.0]
    assert [point["step"] for point in grpo["progress"]] == [0, 10, 20]
    # Median without the first step: of 2, 3, 4 and of 5, 6.
    assert (grpo["seconds_per_step"], setpo["seconds_per_step"]) == (3.0, 5.5)
    assert content["notes"] == []


def test_terminal_and_markdown_show_one_row_a_run_and_the_paths(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(*two_runs, "--out", out, "--ks", "1,4,8,16")
    lines = result.output.splitlines()
    assert next(line for line in lines if line.startswith("setpo")).split() == [
        *("setpo", "20", "75.0", "100", "100", "3.00", "20", "5.5")
    ]
    assert lines[-3:] == [str(out / name) for name in ("report.md", "report.json", "report.png")]
    text = (out / "report.md").read_text()
    assert "pass@1 (%) | pass@8 (%) | pass@16 (%) |" in text  # the largest two ks
    assert (
        "| setpo | 20 | 75.0 (75.0 to 75.0) | 100 (100 to 100) | 100 (100 to 100) | 3.00 (3.00 to 3.00) "
        "| 20 (20 to 20) | 5.5 |" in text
    )
    assert r"| starting model | 0 | 50.0 (50.0 to 50.0) |" in text
    assert "(report.png)" in text


def test_the_picture_is_a_png_of_readme_size(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    import matplotlib.image

    invoke(*two_runs, "--out", tmp_path)
    pixels = matplotlib.image.imread(tmp_path / "report.png")
    height, width = pixels.shape[:2]
    assert 1800 < width < 2100
    assert 600 < height < 800
    assert (pixels[0, 0, :3] == 1.0).all()  # on white
    drawn = (pixels[..., :3] < 0.98).any(axis=2)
    thirds = [drawn[:, i * width // 3 : (i + 1) * width // 3].mean() for i in range(3)]
    assert min(thirds) > 0.01


def test_hostile_labels_and_rollouts_change_no_output(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    labels = "[red]$x^$|,_\x1b[2J\u202e<b>"
    result = invoke(*two_runs, "--labels", labels, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "report.md").read_text()
    for output in (result.output, text):
        assert "\x1b" not in output
        assert "\u202e" not in output
        assert "SECRET" not in output
    assert "[red]$x^$|" in result.output
    assert r"| \[red\]\$x^\$\| | 20 |" in text
    assert r"\_\\x1b\[2J\\u202e\<b\>" in text


def test_runs_with_different_samples_are_compared_at_the_smaller_number(write_run: WriteRun, tmp_path: Path) -> None:
    # Both runs answer from the same 4 answers; 64 samples must not look more diverse than 4.
    few = write_run("few", {1: samples(4, 4, 4)})
    many = write_run("many", {1: samples(64, 4, 64)})
    result = invoke(few, many, "--out", tmp_path / "out", "--ks", "1,4,16,64")
    content = read(tmp_path / "out")
    assert content["num_samples"] == 4
    assert content["ks"] == [1, 4]
    assert content["runs"][0]["distinct_correct"]["mean"] == 4.0
    expected = 4 * (1 - 194580 / 635376)  # 1 - C(48, 4) / C(64, 4) for each answer
    assert content["runs"][1]["distinct_correct"]["mean"] == pytest.approx(expected)
    output = " ".join(result.output.split())
    assert "Some validations have more than 4 samples a problem" in output
    assert "Left out: k = 16, 64, because there are only 4 samples a problem." in output
    # Of a k that nobody asked for nothing is said.
    assert "Left out" not in invoke(few, many, "--out", tmp_path / "out").output
    assert read(tmp_path / "out")["ks"] == [1, 4]


def test_only_common_problems_are_compared(write_run: WriteRun, tmp_path: Path) -> None:
    one = write_run("one", {1: samples(4, 2)}, problems=PROBLEMS[:12])
    other = write_run("other", {1: samples(4, 2)}, problems=PROBLEMS[8:])
    output = " ".join(invoke(one, other, "--out", tmp_path / "out").output.split())
    assert "Only the 4 of 20 problems that all runs hold are compared." in output
    assert read(tmp_path / "out")["num_problems"] == 4
    third = write_run("third", {1: samples(4, 2)}, problems=["another"])
    result = invoke(one, third, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "share no validation problem" in result.output


def test_a_validation_cut_by_a_kill_is_left_out(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    path = two_runs[1] / "validation" / "20.jsonl"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = invoke(*two_runs, "--out", tmp_path / "out")
    output = " ".join(result.output.split())
    assert result.exit_code == 0
    assert "setpo: the validation of step 20 is left out" in output
    assert "The runs are compared at different steps: grpo 20, setpo 10." in output
    assert "setpo: 1 broken line was skipped in 20.jsonl." in output
    assert read(tmp_path / "out")["runs"][1]["step"] == 10


def test_a_few_lost_samples_cost_only_their_problems(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    path = two_runs[0] / "validation" / "20.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[3:]))  # a session that fails leaves no line in verl's file
    output = " ".join(invoke(*two_runs, "--out", tmp_path / "out").output.split())
    content = read(tmp_path / "out")
    assert (content["num_problems"], content["num_samples"]) == (19, 16)
    assert "1 problem with fewer than 16 samples is left out." in output


def test_missing_start_metrics_and_answers_are_said(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run("bare", {5: samples(4, 2)}, drop=("pred",))
    (run / "metrics.jsonl").unlink()
    result = invoke(run, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "No validation of step 0 in bare" in output
    assert "bare: no distinct answers" in output
    assert "bare: no seconds a step, because there is no metrics.jsonl" in output
    content = read(tmp_path / "out")
    assert content["starts"] == []
    assert content["runs"][0]["distinct_correct"] is None
    assert content["runs"][0]["seconds_per_step"] is None
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000


def test_only_a_first_step_is_no_timing_and_broken_metrics_are_counted(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run("one", {0: samples(4, 2)}, seconds=[33.0])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": "x", "data": {}}\n{"step": 3, "data": {"timing_s/step": NaN}}\n{"step": 2, "da')
    output = " ".join(invoke(run, "--out", tmp_path / "out").output.split())
    assert "one: no seconds a step, because metrics.jsonl has timing_s/step of one step at most." in output
    assert "one: 3 broken lines were skipped in metrics.jsonl." in output
    assert "one has no validation after step 0" in output


def test_errors_are_one_sentence_without_a_traceback(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk" / "validation").mkdir(parents=True)
    (tmp_path / "junk" / "validation" / "1.jsonl").write_text("{}\n")
    for path, message in [
        (tmp_path / "missing", "There is no directory"),
        (
            tmp_path / "empty",
            r"nothing to report, which would be any of validation/<step>.jsonl \(.*metrics.jsonl .*rollouts",
        ),
        (tmp_path / "junk", "is a validation sample of verl"),
        (tmp_path / "junk" / "validation" / "1.jsonl", "is a file: name the directory of a run"),
    ]:
        result = invoke(path, "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert "Errno" not in result.output
        assert re.search(rf"^Error: .*{message}.*\.$", result.output, flags=re.MULTILINE), result.output
        assert isinstance(result.exception, SystemExit)
    below_file = invoke(two_runs[0], "--out", tmp_path / "junk" / "validation" / "1.jsonl" / "out")
    assert below_file.exit_code == 1
    assert re.search(r"^Error: .*1\.jsonl/out: Not a directory\.$", below_file.output, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", __file__), "is a file: name a directory"),
        (("--labels", "only one"), "1 labels for 2 runs"),
        (("--labels", "a,a"), "a label of its own"),
        (("--labels", "a,"), "a label of its own"),
        (("--ks", "0"), "positive whole numbers"),
        (("--ks", "1,x"), "positive whole numbers"),
    ],
)
def test_bad_options_are_named(options: tuple[str, ...], message: str, two_runs: tuple[Path, Path]) -> None:
    result = invoke(*two_runs, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
