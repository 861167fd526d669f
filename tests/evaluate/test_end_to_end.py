"""Real samples by real vLLM: what is in the files, and that a sample is what it is whatever else runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.conftest import ROWS, SAMPLING, N, call

FILE = Path("tiny") / "polynomial" / "validation" / "0.jsonl"

pytestmark = pytest.mark.slow


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def data(polynomials) -> Path:
    return polynomials / "test.parquet"


@pytest.fixture(autouse=True)
def _as_a_command(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_the_lines_are_those_of_verls_validation_in_order_and_graded(evaluated, data):
    import pyarrow.parquet as pq

    from verl_setpo.tasks.rewards import compute_score

    rows = pq.read_table(data).to_pylist()
    found = lines(evaluated / FILE)
    assert [row["uid"] for row in found] == [f"polynomial-{r}_{s}_0" for r in range(ROWS) for s in range(N)]
    verls = ["input", "output", "gts", "score", "step", "reward", "acc", "pred"]
    assert list(found[0])[: len(verls)] == verls
    for number, line in enumerate(found):
        row = rows[number // N]
        assert line["input"] == row["prompt"][0]["content"] + "\n"  # by the tiny model's chat template
        assert line["gts"] == row["reward_model"]["ground_truth"]
        verdict = compute_score("polynomial", line["output"], line["gts"])
        assert {name: line[name] for name in verdict} == verdict
        assert line["finish_reason"] in ("stop", "length")
        assert (line["finish_reason"] == "length") <= (line["num_tokens"] == 24)
    assert len({line["seed"] for line in found}) == len(found)
    assert len({line["output"] for line in found}) > N  # they are no copies of one another
    assert any(line["acc"] for line in found)


def test_the_summary_is_that_of_the_lines_and_of_the_report(evaluated, tmp_path):
    found = lines(evaluated / FILE)
    (row,) = json.loads((evaluated / "summary.json").read_text())["results"]
    accuracy = sum(line["acc"] for line in found) / len(found)
    assert row["pass_at_k"]["1"]["mean"] == pytest.approx(accuracy)
    assert row["mean_tokens"] == pytest.approx(sum(line["num_tokens"] for line in found) / len(found))
    assert (row["num_problems"], row["num_samples"]) == (ROWS, N)
    shown = call("report", evaluated / "tiny" / "polynomial", "--ks", f"1,{N}", "--out", tmp_path / "report")
    assert shown.exit_code == 0, shown.output
    (run,) = json.loads((tmp_path / "report" / "report.json").read_text())["runs"]
    assert run["pass_at_k"][str(N)]["mean"] == pytest.approx(row["pass_at_k"][str(N)]["mean"])
    assert run["distinct_correct"]["mean"] == pytest.approx(row["distinct_correct"]["mean"])
    assert "tiny" in (evaluated / "summary.md").read_text()
    assert f"tiny: {ROWS * N} of {ROWS * N} samples" in (evaluated / "said.txt").read_text()


def test_a_sample_does_not_depend_on_which_others_run_and_more_are_added_to_those_that_are_there(
    evaluated, model, data, tmp_path
):
    out, short = tmp_path / "out", ["--max-tokens", "24", "--dtype", "float32"]
    asked = ("evaluate", model, "--data", data, "--out", out, *short)
    result = call(*asked, "--n", "2", "--limit", "2")
    assert result.exit_code == 0, result.output
    few = (out / FILE).read_bytes().splitlines()
    assert len(few) == 4
    result = call(*asked, "--n", "5", "--limit", "3")
    assert result.exit_code == 0, result.output
    more = (out / FILE).read_bytes().splitlines()
    assert len(more) == 15
    assert set(few) < set(more)
    # All at once here, two at a time there, and of other numbers.
    undisturbed = (evaluated / FILE).read_bytes().splitlines()
    assert set(more) < set(undisturbed)


def test_checkpoints_of_a_run_are_drawn_by_one_engine_as_each_would_be_alone(evaluated, model, data, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    run = tmp_path / "run"
    for step in (1, 2, 3):
        shutil.copytree(model, run / "checkpoints" / f"global_step_{step}" / "actor" / "huggingface")
    changed = run / "checkpoints" / "global_step_2" / "actor" / "huggingface"
    other = AutoModelForCausalLM.from_pretrained(changed)
    with torch.no_grad():
        # The embedding is also the output layer: both must be those of the checkpoint.
        for parameter in other.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    other.save_pretrained(changed)
    asked = ("--data", data, *SAMPLING)
    result = call("evaluate", run, *asked, "--out", tmp_path / "together")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "together" / "run").glob("engine-*.log"))) == 1
    result = call("evaluate", f"run={changed}", *asked, "--out", tmp_path / "alone")
    assert result.exit_code == 0, result.output

    def drawn(path: Path) -> list[str]:
        return [line["output"] for line in lines(path)]

    together = tmp_path / "together" / "run" / "polynomial" / "validation"
    assert drawn(together / "1.jsonl") == drawn(evaluated / FILE)
    assert drawn(together / "2.jsonl") == drawn(tmp_path / "alone" / "run" / "polynomial" / "validation" / "0.jsonl")
    assert drawn(together / "2.jsonl") != drawn(together / "1.jsonl")
    assert drawn(together / "3.jsonl") == drawn(together / "1.jsonl")  # nothing of the second is left


def test_other_seeds_draw_other_samples(evaluated, model, data, tmp_path):
    out = tmp_path / "out"
    result = call("evaluate", model, "--data", data, "--out", out, *SAMPLING[2:], "--n", "4", "--seed", "1")
    assert result.exit_code == 0, result.output
    drawn = {(line["uid"], line["output"]) for line in lines(out / FILE)}
    assert len(drawn & {(line["uid"], line["output"]) for line in lines(evaluated / FILE)}) < len(drawn) / 2


def test_more_tokens_than_the_model_takes_are_refused_with_what_it_takes(model, data, tmp_path):
    result = call("evaluate", model, "--data", data, "--out", tmp_path / "out", "--max-tokens", "512", "--n", "1")
    assert result.exit_code == 1
    assert "--max-tokens 512 and the longest prompt, of " in result.stderr
    assert "are more than the 512 tokens that" in result.stderr
    assert "or less." in result.stderr
