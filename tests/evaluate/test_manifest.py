"""What a folder was begun with holds from its first sample on."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_setpo.evaluate.manifest import Options, settle
from verl_setpo.evaluate.models import Model
from verl_setpo.evaluate.sets import EvalSet


@pytest.fixture
def begin(tmp_path):
    """Settle the folder for a model with these weights; the folder itself is `tmp_path`."""

    def settled(max_tokens: int, weights: bytes = b"first", sha256: str = "0") -> None:
        folder = tmp_path.parent / f"{tmp_path.name}-{weights.decode()}"
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_bytes(weights)
        sets = [EvalSet("set", Path("test.parquet"), sha256, ())]
        settle(tmp_path, Options(n=2, max_tokens=max_tokens), sets, [Model("run", 3, folder, "fsdp")])

    return settled


def test_a_folder_without_a_sample_is_begun_anew_with_other_options_sets_and_models(begin, tmp_path):
    journal = tmp_path / "run" / "set" / "validation" / "3.part.jsonl"
    journal.parent.mkdir(parents=True)
    begin(4096)
    journal.write_text("")  # opened, and nothing was drawn
    begin(24, b"other", "1")
    journal.write_text("{}\n")
    with pytest.raises(ValueError, match=r"--max-tokens is 4096, but .* was begun with 24"):
        begin(4096, b"other", "1")


def test_what_was_merged_of_another_model_is_not_taken_for_this_one(begin, tmp_path):
    merged = tmp_path / "run" / "merged" / "3"
    merged.mkdir(parents=True)
    begin(4096)
    begin(24)
    assert merged.is_dir()
    begin(24, b"other")
    assert not merged.exists()
