"""A task of one's own, in a file, as the experiment on coins has one."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from verl_setpo.tasks.commands import data
from verl_setpo.tasks.own import find_task

COINS = Path(__file__).resolve().parents[2] / "scripts" / "experiments" / "coins.py"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(data, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_a_file_gives_data_and_a_tiny_model(tmp_path: Path) -> None:
    made = tmp_path / "data"
    code, output = run("own", COINS, "--out", made, "--train-size", 30, "--test-size", 5)
    assert (code, output) == (0, f"{made}: 30 training and 5 test prompts\n")
    assert json.loads((made / "dataset.json").read_text())["task"] == "coins"
    code, output = run(
        *("tiny-model", "--task", COINS, "--data", made, "--out", tmp_path / "model"),
        *("--steps", 3, "--layers", 1, "--width", 32, "--max-new-tokens", 9),
    )
    assert code == 0, output
    record = json.loads((tmp_path / "model" / "warm_start.json").read_text())
    assert (record["task"], record["config"]["max_new_tokens"]) == ("coins", 9)
    code, output = run("tiny-model", "--task", "countdown", "--data", made, "--out", tmp_path / "other")
    assert (code, "holds the task coins, not countdown" in output) == (2, True)


def test_what_the_starting_model_learns_from_is_right_unless_it_is_wrong_on_purpose() -> None:
    coins, rng = find_task(str(COINS)), random.Random(0)

    def right(problem: object, wrong_share: float) -> float:
        answer = problem.sample_answer(rng, wrong_share)
        return coins.compute_score("coins", answer, problem.ground_truth("tiny"))["acc"]

    problems = coins.generate(450, 0)
    assert len({problem.amount for problem in problems}) == 450
    assert all(right(problem, 0.0) == 1.0 for problem in problems)
    assert sum(right(problem, 1.0) for problem in problems) < 45  # an amount nearby may have no payment


@pytest.mark.parametrize(
    ("response", "pred", "acc"),
    [
        ("100+20+10+5+2", "100+20+10+5+2", 1.0),
        ("2+5+10+20+100", "100+20+10+5+2", 1.0),
        ("100+20+10+5+1", "100+20+10+5+1", 0.0),
        ("100+37", "100+37", 0.0),
        ("100+20+10+1+1+1+1+1+1+1", "100+20+10+1+1+1+1+1+1+1", 0.0),
        ("", "", 0.0),
        ("100 + 20", "", 0.0),
        ("1+" * 100_000, "", 0.0),
        ("१३७", "", 0.0),
    ],
)
def test_coins_are_scored_by_their_sum_number_and_kind(response: str, pred: str, acc: float) -> None:
    scored = find_task(str(COINS)).compute_score("coins", response, "137")
    assert scored == {"score": acc, "acc": acc, "pred": pred}


def test_verl_loads_the_file_as_its_custom_reward_function() -> None:
    reward = pytest.importorskip("verl.trainer.ppo.reward")
    from omegaconf import OmegaConf

    named = {"path": str(COINS), "name": "compute_score"}
    score = reward.get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": named}}))
    assert score("coins", "5+5", "10")["acc"] == 1.0


def without(text: str, instead: str) -> str:
    content = COINS.read_text()
    assert content.count(text) == 1
    return content.replace(text, instead)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file {file}, which was named as a task"),
        ("1/0", "{file} raised ZeroDivisionError: division by zero"),
        (
            "DATA_SOURCE = 'x'\nclass Problem:\n    def prompt(self, style): ...\ngenerate = None",
            "{file} has no compute_score, Problem.ground_truth, Problem.from_ground_truth, Problem.sample_answer: "
            "scripts/experiments/coins.py is a whole one",
        ),
        (
            without('DATA_SOURCE = "coins"', 'DATA_SOURCE = "countdown"'),
            "{file} has DATA_SOURCE 'countdown', which is a task of verl_setpo: rename it",
        ),
        (
            without("sample(amounts, count)", "choices(amounts[:2], k=count)"),
            "{file}: generate gave 4 problems, 2 different ones, not 4",
        ),
        (
            without("sample(amounts, count)", "sample(amounts[:4], 4) + amounts[:1]"),
            "{file}: generate gave 5 problems, 4 different ones, not 4",
        ),
        (
            without("sample(amounts, count)", "sample(amounts, 451)"),
            "{file}: generate raised ValueError: Sample larger than population or is negative",
        ),
        (
            without('return f"{self.amount}="', "return 1 / 0"),
            "{file}: Problem.prompt raised ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_file_that_does_not_do_is_one_sentence(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "task.py"
    if content is not None:
        file.write_text(content)
    code, output = run("own", file, "--out", tmp_path / "data", "--train-size", 3, "--test-size", 1)
    assert (code, output) == (2, f"error: {message.format(file=file)}\n")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            without("ways(self.amount + off) or ways(self.amount)", "1 / 0"),
            "Problem.sample_answer raised ZeroDivisionError",
        ),
        (
            without("    amount = json.loads(ground_truth)", "    amount = 1 / 0"),
            "compute_score raised ZeroDivisionError",
        ),
        (
            without('"acc": right, "pred"', '"acc": right, "answer"'),
            "compute_score gave {'score': 1.0, 'acc': 1.0, 'answer':",
        ),
        (without("sum(coins) == amount", "sum(coins) < 0"), "of 3 answers of Problem.sample_answer none is correct by"),
    ],
)
def test_answers_are_scored_before_a_model_learns_them(tmp_path: Path, content: str, message: str) -> None:
    assert run("own", COINS, "--out", tmp_path / "data", "--train-size", 3, "--test-size", 1)[0] == 0
    file = tmp_path / "task.py"
    file.write_text(content)
    code, output = run("tiny-model", "--task", file, "--data", tmp_path / "data", "--out", tmp_path / "model")
    assert code == 2
    assert output.startswith(f"error: {file}: {message}")
    assert output.count("\n") == 1
    assert not (tmp_path / "model").exists()
