"""`verl-setpo data ...` as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from verl_setpo.tasks.commands import data


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(data, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_datasets_and_a_tiny_model_from_the_command_line(tmp_path: Path) -> None:
    made = tmp_path / "data"
    assert run("countdown", "--out", made, "--train-size", 30, "--test-size", 5, "--target", 1, 30)[0] == 0
    assert json.loads((made / "dataset.json").read_text())["target"] == [1, 30]
    code, output = run(
        *("tiny-model", "--task", "countdown", "--data", made, "--out", tmp_path / "model"),
        *("--steps", 3, "--layers", 1, "--width", 32, "--seed", 7),
    )
    assert code == 0, output
    assert "pass@1" in output
    assert "on 5 held-out prompts" in output
    record = json.loads((tmp_path / "model" / "warm_start.json").read_text())
    assert record["task"] == "countdown"
    assert record["steps_done"] == 3
    assert record["config"]["seed"] == 7
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "model"]


def test_a_polynomial_dataset_takes_its_ranges(tmp_path: Path) -> None:
    code, output = run("polynomial", "--out", tmp_path / "d", "--train-size", 3, "--test-size", 1, "--a", -2, -2)
    assert code == 0, output
    assert "3 training and 1 test prompts" in output
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["a"] == [-2, -2]


def test_a_multiplication_dataset_takes_its_digits(tmp_path: Path) -> None:
    code, output = run("multiplication", "--out", tmp_path / "d", "--train-size", 3, "--test-size", 1, "--digits", 2, 2)
    assert (code, output) == (0, f"{tmp_path / 'd'}: 3 training and 1 test prompts\n")
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["digits"] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["polynomial", "--train-size", 500], "error: --train-size and --test-size ask for 548 different problems"),
        (["polynomial", "--style", "chat"], "error: --style is 'chat': give tiny or instruct"),
        (["countdown", "--count", 13], "error: --count is 13: give 2 to 12"),
        (["multiplication", "--digits", 1, 2], "error: --digits is 1 2: give two numbers"),
        (["tiny-model", "--task", "chess", "--data", "nowhere"], "error: --task is 'chess': give countdown or multipl"),
        (["tiny-model", "--task", "countdown", "--data", "nowhere"], "error: --data nowhere has no dataset.json"),
        (["tiny-model", "--task", "countdown", "--data", "x", "--steps", 0], "error: --steps is 0: give at least 1"),
        (["tiny-model", "--task", "countdown", "--data", "x", "--wrong-share", 2], "error: --wrong-share is 2.0"),
        (["tiny-model", "--task", "countdown", "--data", "x", "--threads", 0], "error: --threads is 0"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_option(tmp_path: Path, arguments: list, message: str) -> None:
    code, output = run(*arguments, "--out", tmp_path / "out")
    assert code == 2
    assert output.startswith(message)
    assert output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_tiny_model_refuses_data_of_another_task_or_style(tmp_path: Path) -> None:
    for name, style in (("tiny", "tiny"), ("english", "instruct")):
        run("polynomial", "--out", tmp_path / name, "--train-size", 3, "--test-size", 1, "--style", style)
    code, output = run("tiny-model", "--task", "countdown", "--data", tmp_path / "tiny", "--out", tmp_path / "m")
    assert (code, "give --task polynomial" in output) == (2, True)
    code, output = run("tiny-model", "--task", "polynomial", "--data", tmp_path / "english", "--out", tmp_path / "m")
    assert (code, "make it again with --style tiny" in output) == (2, True)
    code, output = run(
        "tiny-model", "--task", "polynomial", "--data", tmp_path / "tiny", "--out", tmp_path / "m", "--width", 0
    )
    assert (code, output) == (2, "error: --width is 0: give at least 1\n")
    assert not (tmp_path / "m").exists()


def test_help_and_rewards_need_no_heavy_import() -> None:
    heavy = "{'torch', 'transformers', 'pyarrow', 'vllm', 'verl', 'ray'}"
    for module in ("commands", "rewards", "data"):
        code = f"import sys, verl_setpo.tasks.{module}; print(sorted({heavy} & set(sys.modules)))"
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert output.strip() == "[]", module
