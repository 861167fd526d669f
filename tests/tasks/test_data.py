"""Datasets in verl's schema."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from verl_setpo.tasks import polynomial
from verl_setpo.tasks.data import read_dataset, to_rows, write_dataset
from verl_setpo.tasks.files import new_folder
from verl_setpo.tasks.rewards import TASKS, compute_score

SIZES = {"train_size": 20, "test_size": 8, "seed": 0, "style": "tiny"}


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("style", ["tiny", "instruct"])
def test_rows_have_verl_s_columns(tmp_path: Path, task: str, style: str) -> None:
    write_dataset(tmp_path / "data", task, **{**SIZES, "style": style})
    record, train, test = read_dataset(tmp_path / "data")
    assert (len(train), len(test)) == (20, 8)
    assert record["task"] == task
    for split, rows in (("train", train), ("test", test)):
        for index, row in enumerate(rows):
            assert set(row) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
            assert row["data_source"] == task
            assert [message["role"] for message in row["prompt"]] == ["user"]
            assert row["reward_model"]["style"] == "rule"
            assert row["extra_info"] == {"split": split, "index": index}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_training_and_test_prompts_are_disjoint_and_distinct(tmp_path: Path, task: str) -> None:
    write_dataset(tmp_path / "data", task, **{**SIZES, "train_size": 180, "test_size": 60})
    _, train, test = read_dataset(tmp_path / "data")
    prompts = [row["prompt"][0]["content"] for row in train + test]
    assert len(set(prompts)) == 240


def test_the_ground_truth_survives_parquet_with_all_tasks_in_one_file(tmp_path: Path) -> None:
    from datasets import concatenate_datasets, load_dataset

    for task in TASKS:
        write_dataset(tmp_path / task, task, **SIZES)
    # As verl's RLHFDataset reads several files.
    cache = str(tmp_path / "cache")
    parts = [
        load_dataset("parquet", data_files=str(tmp_path / task / "train.parquet"), cache_dir=cache)["train"]
        for task in TASKS
    ]
    rows = list(concatenate_datasets(parts))
    assert len(rows) == 20 * len(TASKS)
    for row in rows:
        truth = row["reward_model"]["ground_truth"]
        assert isinstance(truth, str)
        problem = TASKS[row["data_source"]].Problem.from_ground_truth(truth)
        assert problem.prompt("tiny") == row["prompt"][0]["content"]
        answer = problem.sample_answer(random.Random(0), 0.0)
        assert compute_score(row["data_source"], answer, truth)["acc"] == 1.0


def test_verl_reads_the_rows_and_finds_no_prompt_too_long(tmp_path: Path) -> None:
    rl_dataset = pytest.importorskip("verl.utils.dataset.rl_dataset")
    from omegaconf import OmegaConf

    from verl_setpo.tasks.tiny_model import build_tokenizer

    write_dataset(tmp_path / "data", "polynomial", **SIZES)
    config = OmegaConf.create(
        {"max_prompt_length": 32, "filter_overlong_prompts_workers": 1, "cache_dir": str(tmp_path)}
    )
    rows = rl_dataset.RLHFDataset(str(tmp_path / "data" / "train.parquet"), build_tokenizer(), config)
    assert len(rows) == 20
    assert rows[3]["raw_prompt"] == read_dataset(tmp_path / "data")[1][3]["prompt"]
    assert rows[3]["index"] == 3


def test_the_same_seed_gives_the_same_files_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        write_dataset(tmp_path / name, "countdown", **{**SIZES, "seed": seed})
    one, two, three = (pq.read_table(tmp_path / name / "train.parquet") for name in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_an_empty_split_or_unknown_style_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--test-size is 0"):
        write_dataset(tmp_path / "data", "polynomial", **{**SIZES, "test_size": 0})
    with pytest.raises(ValueError, match="--style is 'chat': give tiny or instruct"):
        to_rows(polynomial, [], "train", "chat")
    assert not (tmp_path / "data").exists()


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no dataset.json, train.parquet, test.parquet"):
        read_dataset(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with new_folder(tmp_path / "a" / "out", record="r.json") as folder:
            (folder / "r.json").write_text("half")
            raise RuntimeError("no space left")

    with pytest.raises(RuntimeError, match="no space left"):
        fail_half_way()
    assert list((tmp_path / "a").iterdir()) == []


def test_a_failed_overwrite_leaves_the_old_folder(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "polynomial", **SIZES)
    before = json.loads((tmp_path / "data" / "dataset.json").read_text())
    with pytest.raises(ValueError, match="ask for 99999"):
        write_dataset(tmp_path / "data", "polynomial", **{**SIZES, "train_size": 99991}, overwrite=True)
    assert json.loads((tmp_path / "data" / "dataset.json").read_text()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_overwrite_replaces_a_dataset_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "data"
    write_dataset(out, "polynomial", **SIZES)
    with pytest.raises(ValueError, match="is not empty: name a new folder, or add --overwrite"):
        write_dataset(out, "countdown", **SIZES)
    write_dataset(out, "countdown", **SIZES, overwrite=True)
    assert read_dataset(out)[0]["task"] == "countdown"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"has no dataset.json, so --overwrite will not replace it"):
        write_dataset(tmp_path / "home", "polynomial", **SIZES, overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "home"]


def test_an_empty_folder_may_be_filled_and_a_file_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_dataset(tmp_path / "empty", "polynomial", **SIZES)
    assert len(read_dataset(tmp_path / "empty")[1]) == 20
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: name a folder"):
        write_dataset(tmp_path / "file", "polynomial", **SIZES)
