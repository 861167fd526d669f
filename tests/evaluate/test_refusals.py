"""What does not fit is refused before anything is loaded, with one sentence that names the option and the cure."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.evaluate.conftest import SAMPLING, N, call, refused


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder that looks like a Hugging Face model, for refusals that come before it is loaded."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def data(polynomials) -> Path:
    return polynomials / "test.parquet"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--n", "0"], "--n is 0: give at least 1"),
        (["--limit", "0"], "--limit is 0: give at least 1"),
        (["--max-tokens", "0"], "--max-tokens is 0: give at least 1"),
        (["--temperature", "-1"], "--temperature is -1.0: give 0 or more"),
        (["--temperature", "nan"], "--temperature is nan: give 0 or more"),
        (["--temperature", "0"], "--temperature is 0, at which all 64 samples of a prompt are the same: give --n 1"),
        (["--top-p", "0"], "--top-p is 0.0: give a number above 0 and at most 1"),
        (["--top-k", "0"], "--top-k is 0: give at least 1, or -1 for all tokens"),
        (["--engine", "[]"], "--engine is not a JSON object"),
        (["--reward-kwargs", "{"], "--reward-kwargs is not a JSON object"),
        (["--steps", "last"], "--steps is 'last': give whole numbers separated by commas"),
        (["--ks", "1,x"], "--ks is '1,x': give whole numbers separated by commas"),
        (["--reward", "mine.py"], "--reward mine.py is not path:name"),
    ],
)
def test_a_wrong_option_is_named(folder, data, tmp_path, options, sentence):
    assert sentence in refused("evaluate", folder, "--data", data, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def table(path: Path, **columns: list) -> Path:
    row = {"prompt": [[{"role": "user", "content": "1+1?"}]], "data_source": ["gsm8k"]}
    row |= {"reward_model": [{"style": "rule", "ground_truth": "2"}], **columns}
    pq.write_table(pa.table({name: values for name, values in row.items() if values is not None}), path)
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: p / "none.parquet", "There is no file"),
        (lambda p: p, "is a folder: name a parquet file, such as"),
        (lambda p: Path(shutil.copy(__file__, p / "x.parquet")), "x.parquet cannot be read as parquet"),
        (lambda p: table(p / "x.parquet", prompt=None), "has no column prompt"),
        (lambda p: table(p / "x.parquet", prompt=["1+1?"]), "the prompt of row 0 is not a list of messages"),
        (lambda p: table(p / "x.parquet", reward_model=[{"style": "rule"}]), "row 0 has no reward_model.ground_truth"),
        (
            lambda p: table(p / "x.parquet", data_source=["merged"]),
            "a set cannot be named 'merged': name it, --data NAME=",
        ),
    ],
)
def test_what_is_no_test_set_is_one_sentence_with_its_path(folder, tmp_path, make, sentence):
    path = make(tmp_path)
    said = refused("evaluate", folder, "--data", path, "--out", tmp_path / "out")
    assert sentence in said
    assert str(path) in said


def test_one_set_twice_is_refused_with_a_name_to_give(folder, data, tmp_path):
    said = refused(
        "evaluate", folder, "--data", data, "--data", data.with_name("train.parquet"), "--out", tmp_path / "o"
    )
    assert (
        f"are both the set 'polynomial': name one of them, --data polynomial-2={data.with_name('train.parquet')}"
        in said
    )


def test_a_row_that_the_reward_cannot_grade_is_named_before_anything_is_loaded(folder, tmp_path):
    broken = table(tmp_path / "x.parquet", reward_model=[{"style": "rule", "ground_truth": ""}])
    said = refused("evaluate", folder, "--data", broken, "--out", tmp_path / "out")
    assert f"{broken}, row 0: data_source 'gsm8k' has the ground truth ''" in said
    foreign = table(tmp_path / "y.parquet", data_source=["nobody's"])
    said = refused("evaluate", folder, "--data", f"y={foreign}", "--out", tmp_path / "other")
    assert "unknown data_source" in said
    assert "--reward path:name takes another" in said


def test_without_vllm_it_says_what_to_install(folder, data, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else found(name, *rest))
    said = refused("evaluate", folder, "--data", data, "--out", tmp_path / "out")
    assert "vLLM, which generates the samples, is not installed: pip install 'verl-setpo[gpu]'" in said


def test_a_folder_with_other_things_is_left_alone(folder, data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert "holds other things: name a new folder" in refused("evaluate", folder, "--data", data, "--out", out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            ["--temperature", "0.5"],
            "--temperature is 0.5, but {out} was begun with 1.0: give the same, or another --out",
        ),
        (["--seed", "1"], "--seed is 1, but {out} was begun with 0"),
        (["--max-tokens", "23"], "--max-tokens is 23, but {out} was begun with 24"),
        (["--n", str(N - 1)], f"--n is {N - 1}, but {{out}} was begun with {N}: give as many or more"),
        (["--limit", "2"], "--limit is 2, but {out} was begun with all rows: give as many or more"),
        (["--reward-kwargs", '{"a": 1}'], '--reward-kwargs is {{"a": 1}}, but {out} was begun with {{}}'),
    ],
)
def test_other_options_than_those_of_the_folder_are_refused(evaluated, model, data, changed, sentence):
    before = (evaluated / "evaluation.json").read_bytes()
    said = refused("evaluate", model, "--data", data, "--out", evaluated, *SAMPLING, *changed)
    assert sentence.format(out=evaluated) in said
    assert (evaluated / "evaluation.json").read_bytes() == before


@pytest.mark.slow
def test_another_file_or_model_by_a_known_name_is_refused(evaluated, model, data, tmp_path):
    train = f"polynomial={data.with_name('train.parquet')}"
    said = refused("evaluate", model, "--data", train, "--out", evaluated, *SAMPLING)
    assert f"is not the file that {evaluated} has as polynomial: name it otherwise" in said
    other = tmp_path / "tiny"
    shutil.copytree(model, other)
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    said = refused("evaluate", other, "--data", data, "--out", evaluated, *SAMPLING)
    assert f"is not the model that {evaluated} has as tiny, step 0: name it otherwise, tiny-2=MODEL" in said


@pytest.mark.slow
def test_a_finished_evaluation_is_shown_again_without_vllm(evaluated, model, data, monkeypatch):
    monkeypatch.setattr("verl_setpo.evaluate.generate.MODULE", "no.such.module")
    before = json.loads((evaluated / "summary.json").read_text())
    result = call("evaluate", model, "--data", data, "--out", evaluated, *SAMPLING)
    assert result.exit_code == 0, result.output
    assert json.loads((evaluated / "summary.json").read_text()) == before
