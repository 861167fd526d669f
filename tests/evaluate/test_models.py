"""What MODEL may name, and that verl's own checkpoints become the model that was saved."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluate.conftest import ENVIRONMENT, call
from verl_setpo.evaluate.merge import hf_folder
from verl_setpo.evaluate.models import Model, find_models, fingerprint

SCRIPT = Path(__file__).with_name("fsdp_checkpoint.py")


def hf(folder: Path, weights: bytes = b"weights") -> Path:
    """A folder that looks like a Hugging Face model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def fsdp(actor: Path, ranks: int = 2) -> Path:
    """A folder that looks like an FSDP checkpoint of verl."""
    (actor / "huggingface").mkdir(parents=True)
    (actor / "huggingface" / "config.json").write_text("{}")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
    for rank in range(ranks):
        (actor / f"model_world_size_{ranks}_rank_{rank}.pt").write_bytes(b"shard")
    return actor


def run_of(folder: Path, *steps: int) -> Path:
    for step in steps:
        fsdp(folder / f"global_step_{step}" / "actor")
    return folder


def named(*specs: object, steps: list[int] | None = None) -> list[tuple[str, int, str]]:
    return [(model.run, model.step, model.backend) for model in find_models([str(spec) for spec in specs], steps)]


def test_a_hugging_face_folder_is_called_by_its_name_or_by_the_one_given(tmp_path):
    folder = hf(tmp_path / "Qwen3-4B")
    assert named(folder) == [("Qwen3-4B", 0, "hf")]
    assert named(f"base={folder}") == [("base", 0, "hf")]


def test_a_runs_folder_is_all_its_checkpoints_by_step(tmp_path):
    run = run_of(tmp_path / "setpo" / "checkpoints", 100, 20)
    (run / "latest_checkpointed_iteration.txt").write_text("100")
    expected = [("setpo", 20, "fsdp"), ("setpo", 100, "fsdp")]
    assert named(tmp_path / "setpo") == named(run) == expected
    assert named(run, steps=[100]) == expected[1:]
    assert named(run / "global_step_20") == named(run / "global_step_20" / "actor") == expected[:1]
    assert named(f"mine={run / 'global_step_20'}") == [("mine", 20, "fsdp")]


def test_a_checkpoint_that_holds_the_whole_model_needs_no_merging(tmp_path):
    actor = fsdp(tmp_path / "run" / "global_step_5" / "actor")
    (actor / "huggingface" / "model.safetensors").write_bytes(b"all of it")
    assert find_models([str(actor)]) == [Model("run", 5, actor / "huggingface", "hf")]


def test_megatron_is_told_by_its_folders(tmp_path):
    actor = tmp_path / "run" / "global_step_5" / "actor"
    (actor / "model" / "dist_ckpt").mkdir(parents=True)
    assert named(actor.parent) == [("run", 5, "megatron")]
    hf(actor / "model" / "huggingface")  # as a bridge saves it
    assert find_models([str(actor)])[0].path == actor / "model" / "huggingface"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: p / "none", "There is no folder {0}/none, and it is no model of the hub (owner/name)."),
        (lambda p: (p / "a").mkdir() or p / "a", "{0}/a has no config.json, no checkpoint of verl"),
        (lambda p: ((p / "f.json").write_text("") and None) or p / "f.json", "{0}/f.json is a file: name the folder"),
        (
            lambda p: (fsdp(p / "r" / "global_step_1" / "actor") / "model_world_size_2_rank_1.pt").unlink() or p / "r",
            "{0}/r/global_step_1/actor/model_world_size_2_rank_1.pt is missing: copy the checkpoint whole",
        ),
        (
            lambda p: (fsdp(p / "r" / "global_step_1" / "actor") / "fsdp_config.json").write_text("{}") and p / "r",
            "{0}/r/global_step_1/actor/fsdp_config.json has no world_size: copy the checkpoint anew.",
        ),
        (
            lambda p: (p / "r" / "global_step_1" / "actor" / "dist_ckpt").mkdir(parents=True) or p / "r",
            "{0}/r/global_step_1/actor is a Megatron checkpoint in the layout before verl 0.9",
        ),
    ],
)
def test_what_is_no_model_is_one_sentence_with_its_path(tmp_path, make, sentence):
    path = str(make(tmp_path))
    with pytest.raises(ValueError, match=rf"\A{re.escape(sentence.format(tmp_path))}") as error:
        find_models([path])
    assert "\n" not in str(error.value)


def test_two_models_of_one_name_are_refused_with_a_name_to_give(tmp_path):
    one, other = hf(tmp_path / "a" / "model"), hf(tmp_path / "b" / "model")
    with pytest.raises(ValueError, match=r"are both called 'model': name one of them, model-2="):
        named(one, other)
    assert named(one, f"other={other}") == [("model", 0, "hf"), ("other", 0, "hf")]


def test_a_step_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match="has no global_step_30; it has 20, 40"):
        named(run_of(tmp_path / "run", 20, 40), steps=[20, 30])


def test_a_model_of_the_hub_that_is_not_to_be_had_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"^nobody/nothing is no folder here and not on the hub: .+") as error:
        find_models(["nobody/nothing"])
    assert "\n" not in str(error.value)


def test_the_fingerprint_tells_trained_weights_apart_and_not_where_they_are(tmp_path):
    weights = bytes(3_000_000)
    first = fingerprint(hf(tmp_path / "a", weights))
    assert first == fingerprint(hf(tmp_path / "b", weights))
    trained = bytearray(weights)
    trained[::1000] = b"\1" * len(trained[::1000])
    assert first != fingerprint(hf(tmp_path / "c", bytes(trained)))
    (tmp_path / "b" / "config.json").write_text('{"rope_theta": 1}')
    assert first != fingerprint(tmp_path / "b")


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    """The tiny model in two shards, saved by verl's own checkpoint manager."""
    actor = tmp_path_factory.mktemp("run") / "grpo" / "checkpoints" / "global_step_3" / "actor"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(model), str(actor)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return actor


@pytest.mark.slow
def test_a_checkpoint_in_shards_becomes_the_model_that_was_saved_once(checkpoint, model, tmp_path):
    import torch
    from safetensors.torch import load_file

    found = find_models([str(checkpoint.parents[2])])
    assert [(one.run, one.step, one.backend) for one in found] == [("grpo", 3, "fsdp")]
    merged, log = tmp_path / "merged" / "3", tmp_path / "merge.log"
    left = tmp_path / "merged" / ".3.99999.partial"
    left.mkdir(parents=True)  # by a merge that was killed
    assert hf_folder(found[0], merged, log) == merged
    assert not left.exists()
    saved, whole = load_file(model / "model.safetensors"), load_file(merged / "model.safetensors")
    assert saved.keys() == whole.keys()
    for name, weight in saved.items():
        assert torch.equal(whole[name], weight.bfloat16()), name
    assert (merged / "chat_template.jinja").read_text() == (model / "chat_template.jinja").read_text()
    before = (merged / "model.safetensors").stat()
    assert hf_folder(found[0], merged, log) == merged
    assert (merged / "model.safetensors").stat() == before


@pytest.mark.slow
def test_a_merger_that_fails_is_one_sentence_and_leaves_no_folder(checkpoint, tmp_path):
    actor = tmp_path / "global_step_3" / "actor"
    shutil.copytree(checkpoint, actor)
    (actor / "model_world_size_2_rank_1.pt").write_bytes(b"no shard")
    with pytest.raises(ValueError, match=r"verl's merger failed at .*actor: .+ \(see .*merge\.log\)") as error:
        hf_folder(find_models([str(actor)])[0], tmp_path / "merged" / "3", tmp_path / "merge.log")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "merged").iterdir()) == []


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_at_its_step(checkpoint, polynomials, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = ["--n", "2", "--limit", "2", "--max-tokens", "8", "--top-p", "0.9"]
    data = polynomials / "test.parquet"
    result = call("evaluate", checkpoint.parents[1], "--data", f"points={data}", "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "out" / "grpo" / "points" / "validation" / "3.jsonl").read_text().splitlines()
    assert [json.loads(line)["uid"] for line in lines] == [
        "points-0_0_0",
        "points-0_1_0",
        "points-1_0_0",
        "points-1_1_0",
    ]
    assert {json.loads(line)["step"] for line in lines} == {3}


@pytest.mark.slow
def test_a_file_of_the_users_does_not_pass_for_a_library_of_the_merger(checkpoint, tmp_path, monkeypatch):
    if sys.version_info < (3, 11):
        pytest.skip("Python has no safe path")
    (tmp_path / "accelerate.py").write_text("raise ImportError('not the library')")
    monkeypatch.chdir(tmp_path)
    (found,) = find_models([str(checkpoint)])
    assert (hf_folder(found, tmp_path / "merged" / "3", tmp_path / "merge.log") / "config.json").is_file()
