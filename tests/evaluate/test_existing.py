"""Samples that exist are graded anew: verl's validation files, and the parquet of verl's main_generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.conftest import call, refused

POINTS = {"a": 1, "b": 0, "c": 1}  # y = x^2 + 1
RIGHT, OTHER, WRONG = "(1,2)", "(2,5)", "(1,3)"


def validation(folder: Path, outputs: dict[str, list[str]], step: int = 40) -> Path:
    """What verl itself writes, with verdicts that are wrong throughout."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    rows = [(prompt, text, number) for prompt, texts in outputs.items() for number, text in enumerate(texts)]
    count = len(rows)
    extra = {"reward": [0.5] * count, "acc": [0.5] * count, "pred": ["?"] * count}
    extra["uid"] = [f"{prompt}_{number}_0" for prompt, _, number in rows]
    PPOTrainer._write_generations(
        inputs=[prompt for prompt, _, _ in rows],
        outputs=[text for _, text, _ in rows],
        gts=[json.dumps(POINTS)] * count,
        scores=[0.5] * count,
        reward_extra_infos_dict=extra,
        dump_path=str(folder),
        global_steps=step,
    )
    return folder / f"{step}.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def summary(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "summary.json").read_text())["results"]


def test_a_validation_file_of_verl_gets_the_verdicts_of_the_reward(tmp_path):
    file = validation(
        tmp_path / "grpo" / "validation", {"p": [RIGHT, WRONG, "\u2028\x1b[31m"], "q": [RIGHT, OTHER, RIGHT]}
    )
    out = tmp_path / "out"
    result = call("grade", file, "--out", out, "--data-source", "polynomial")
    assert result.exit_code == 0, result.output
    graded = lines(out / "grpo" / "polynomial" / "validation" / "40.jsonl")
    assert [row["score"] for row in graded] == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert [row["acc"] for row in graded] == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert [row["pred"] for row in graded] == [RIGHT, WRONG, "", RIGHT, OTHER, RIGHT]
    assert [row["output"] for row in graded] == [row["output"] for row in lines(file)]
    assert set(graded[0]) == {*lines(file)[0], "grader_failed", "data_source"}
    (row,) = summary(out)
    assert (row["model"], row["step"], row["set"]) == ("grpo", 40, "polynomial")
    assert (row["num_problems"], row["num_samples"]) == (2, 3)
    assert row["pass_at_k"]["1"]["mean"] == pytest.approx((1 / 3 + 1) / 2)
    assert row["distinct_correct"]["mean"] == pytest.approx((1 + 2) / 2)
    assert row["truncated"] is None
    assert row["mean_tokens"] is None


def test_graded_samples_are_a_run_of_the_report(tmp_path):
    file = validation(tmp_path / "grpo" / "validation", {"p": [RIGHT, WRONG], "q": [RIGHT, OTHER]})
    out = tmp_path / "out"
    assert call("grade", file, "--out", out, "--data-source", "polynomial").exit_code == 0
    shown = call("report", out / "grpo" / "polynomial", "--ks", "1,2", "--out", tmp_path / "report")
    assert shown.exit_code == 0, shown.output
    (run,) = json.loads((tmp_path / "report" / "report.json").read_text())["runs"]
    assert run["step"] == 40
    assert run["pass_at_k"]["1"]["mean"] == 0.75


def test_the_parquet_of_main_generation_is_graded_response_by_response(polynomials, tmp_path):
    import pandas as pd

    # As verl/trainer/main_generation_server.py: the data set's own columns, and the responses of each prompt.
    table = pd.read_parquet(polynomials / "test.parquet")
    table["responses"] = [["(0,0)", f"(0,{json.loads(row['ground_truth'])['c']})"] for row in table["reward_model"]]
    table.to_parquet(tmp_path / "generated.parquet")
    out = tmp_path / "out"
    result = call("grade", f"base={tmp_path / 'generated.parquet'}", "--out", out)
    assert result.exit_code == 0, result.output
    graded = lines(out / "base" / "polynomial" / "validation" / "0.jsonl")
    assert [row["acc"] for row in graded] == [0.0, 1.0] * len(table)
    assert graded[1]["uid"] == "polynomial-0_1_0"
    (row,) = summary(out)
    assert (row["num_problems"], row["num_samples"], row["pass_at_k"]["2"]["mean"]) == (len(table), 2, 1.0)


def test_a_reward_of_ones_own_is_called_as_verl_calls_it(tmp_path):
    file = validation(tmp_path / "run" / "validation", {"p": ["three", "fifteen"]})
    (tmp_path / "mine.py").write_text(
        "def by_length(data_source, solution_str, ground_truth, extra_info, per=1):\n"
        "    return {'score': len(solution_str) / per, 'acc': len(solution_str) > 5, 'pred': solution_str}\n"
    )
    options = [
        "--data-source",
        "anything",
        "--reward",
        f"{tmp_path / 'mine.py'}:by_length",
        "--reward-kwargs",
        '{"per": 10}',
    ]
    result = call("grade", file, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    graded = lines(tmp_path / "out" / "run" / "anything" / "validation" / "40.jsonl")
    assert [(row["score"], row["acc"], row["pred"]) for row in graded] == [
        (0.5, False, "three"),
        (0.7, True, "fifteen"),
    ]


def test_what_cannot_be_graded_is_one_sentence_and_leaves_nothing(tmp_path):
    file = validation(tmp_path / "run" / "validation", {"p": [RIGHT]})
    out = tmp_path / "out"
    assert "does not say of which set its rows are" in refused("grade", file, "--out", out)
    assert "unknown data_source 'nonsense'" in refused("grade", file, "--out", out, "--data-source", "nonsense")
    assert "is neither .jsonl" in refused("grade", tmp_path / "a.txt", "--out", out)
    assert "There is no file" in refused("grade", tmp_path / "a.jsonl", "--out", out)
    (tmp_path / "b.jsonl").write_text('{"input": 1}\n{"cut')
    assert "No line of" in refused("grade", tmp_path / "b.jsonl", "--out", out, "--data-source", "gsm8k")
    other = validation(tmp_path / "other" / "run" / "validation", {"p": [RIGHT]})
    assert "are both called 'run'" in refused("grade", file, other, "--out", out, "--data-source", "polynomial")
    assert not out.exists()
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    sentence = refused("grade", file, "--out", out, "--data-source", "polynomial", "--overwrite")
    assert "has no evaluation.json, so --overwrite will not replace it" in sentence
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def said(out: Path) -> list[str]:
    return json.loads((out / "summary.json").read_text())["notes"]


def own_scores(path: Path, correct: list[bool]) -> Path:
    rows = lines(path)
    for row, is_correct in zip(rows, correct, strict=True):
        row.update(score=float(is_correct), reward=float(is_correct), acc=float(is_correct))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_reward_that_contradicts_the_files_own_scores_is_told_with_how_many(tmp_path):
    file = validation(tmp_path / "grpo" / "validation", {"p": [RIGHT, WRONG], "q": [RIGHT, OTHER]})
    own_scores(file, [True, False, True, True])
    result = call("grade", file, "--out", tmp_path / "out", "--data-source", "gsm8k")
    assert result.exit_code == 0, result.output
    contradicted, silent = said(tmp_path / "out")
    assert (
        "3 of 4 samples are correct by the file's own scores, 0 by this reward, and 3 verdicts differ" in contradicted
    )
    assert "the reward finds an answer in no response" in silent
    assert "3 verdicts differ" in " ".join(result.output.split())
    assert call("grade", file, "--out", tmp_path / "same", "--data-source", "polynomial").exit_code == 0
    assert said(tmp_path / "same") == []


def test_a_cut_file_keeps_its_whole_problems_and_names_what_was_left_out(tmp_path):
    outputs = {f"p{number}": [RIGHT, OTHER, WRONG] for number in range(11)}
    file = own_scores(validation(tmp_path / "grpo" / "validation", outputs), [True, True, False] * 11)
    text = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*text[:31], text[31][:50]]))  # killed in the second sample of the last problem
    assert call("grade", file, "--out", tmp_path / "out", "--data-source", "polynomial").exit_code == 0
    (row,) = summary(tmp_path / "out")
    assert (row["num_problems"], row["num_samples"], row["distinct_correct"]["mean"]) == (10, 3, 2.0)
    broken, incomplete = said(tmp_path / "out")
    assert broken.endswith("1 line is no sample and was left out, first line 32 (cut off).")
    assert incomplete == "grpo 40 on polynomial: 1 problem with fewer than 3 samples is left out."


def test_ks_below_1_are_refused_before_anything_is_graded(tmp_path):
    file = validation(tmp_path / "grpo" / "validation", {"p": [RIGHT]})
    sentence = refused("grade", file, "--out", tmp_path / "out", "--data-source", "polynomial", "--ks", "0,4")
    assert sentence == "--ks is '0,4': give whole numbers separated by commas, 1 or more, such as 1,4,16"
    assert not (tmp_path / "out").exists()
