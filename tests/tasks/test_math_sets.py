"""Every published set, from a copy in its true shape to rows that verl reads and our reward grades."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.tasks.set_shapes import SHAPES, write, write_rows
from verl_setpo.tasks.countdown import Problem
from verl_setpo.tasks.countdown_solutions import solutions
from verl_setpo.tasks.math_sets import COUNTDOWN, SETS
from verl_setpo.tasks.math_sets_prompt import Prompt
from verl_setpo.tasks.math_sets_select import Selection
from verl_setpo.tasks.math_sets_write import Written, write_countdown_set, write_math_set
from verl_setpo.tasks.rewards import compute_score

BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def convert(name: str, local_path: Path, out: Path, **selection: Any) -> Written:
    return write_math_set(out, SETS[name], Prompt(), Selection(**selection), local_path=local_path)


def rows_of(out: Path, split: str) -> list[dict[str, Any]]:
    return pq.read_table(out / f"{split}.parquet").to_pylist()


def pairs_of(out: Path, split: str) -> list[tuple[str, str]]:
    """The question, without the prompt's last sentence, and the ground truth of each row."""
    rows = rows_of(out, split)
    assert all(row["prompt"][-1]["content"].endswith(BOXED) for row in rows)
    return [(row["prompt"][-1]["content"].removesuffix(BOXED), row["reward_model"]["ground_truth"]) for row in rows]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """Each set of the table, read from a copy of its repository."""
    folders = {}
    for name in SETS:
        folder = tmp_path_factory.mktemp(name)
        convert(name, write(name, folder / "copy"), folder / "out")
        folders[name] = folder / "out"
    return folders


def test_there_is_a_shape_for_every_set() -> None:
    assert set(SHAPES) == {*SETS, COUNTDOWN.name}


@pytest.mark.parametrize("name", SETS)
def test_a_copy_of_the_repository_gives_its_problems_and_answers(name: str, written: dict[str, Path]) -> None:
    shape = SHAPES[name]
    files = {path.name for path in written[name].iterdir()}
    assert files == {"dataset.json", *(f"{split}.parquet" for split in shape.expected)}
    for split, expected in shape.expected.items():
        assert pairs_of(written[name], split) == expected
    record = json.loads((written[name] / "dataset.json").read_text())
    assert record["rows"] == {split: len(expected) for split, expected in shape.expected.items()}
    assert record["rows_dropped"] == (shape.dropped or {split: {} for split in shape.expected})
    for split, dropped in record["rows_dropped"].items():
        assert record["rows_read"][split] == record["rows"][split] + sum(dropped.values())


@pytest.mark.parametrize("name", SETS)
def test_verl_reads_every_row(name: str, written: dict[str, Path], tmp_path: Path) -> None:
    rl_dataset = pytest.importorskip("verl.utils.dataset.rl_dataset")
    from omegaconf import OmegaConf

    from verl_setpo.tasks.tiny_model import build_tokenizer

    config = OmegaConf.create(
        {"max_prompt_length": 4096, "filter_overlong_prompts_workers": 1, "cache_dir": str(tmp_path)}
    )
    for split in SHAPES[name].expected:
        rows = rows_of(written[name], split)
        loaded = rl_dataset.RLHFDataset(str(written[name] / f"{split}.parquet"), build_tokenizer(), config)
        assert len(loaded) == len(rows)
        for index, row in enumerate(rows):
            assert loaded[index]["raw_prompt"] == row["prompt"]
            assert loaded[index]["data_source"] == name
            assert loaded[index]["reward_model"] == row["reward_model"]
            assert row["extra_info"] == {"split": split, "index": index}
            assert row["ability"] == "math"


@pytest.mark.parametrize("name", SETS)
def test_the_reward_grades_every_ground_truth_as_right_and_another_answer_as_wrong(
    name: str, written: dict[str, Path]
) -> None:
    for split in SHAPES[name].expected:
        for row in rows_of(written[name], split):
            truth = row["reward_model"]["ground_truth"]
            right = compute_score(name, f"So it is $\\boxed{{{truth}}}$.", truth, row["extra_info"])
            wrong = compute_score(name, "So it is $\\boxed{-987654}$.", truth, row["extra_info"])
            assert (right["acc"], wrong["acc"]) == (1.0, 0.0), truth


def test_sets_of_all_kinds_go_into_one_run(written: dict[str, Path], tmp_path: Path) -> None:
    """verl concatenates its files: all must have one schema, generated tasks included."""
    from datasets import concatenate_datasets, load_dataset

    from verl_setpo.tasks.data import write_dataset

    write_dataset(tmp_path / "generated", "polynomial", train_size=2, test_size=2, seed=0, style="instruct")
    folders = [*written.values(), tmp_path / "generated"]
    parts = [
        load_dataset("parquet", data_files=str(folder / "test.parquet"), cache_dir=str(tmp_path / "cache"))["train"]
        for folder in folders
        if (folder / "test.parquet").exists()
    ]
    rows = list(concatenate_datasets(parts))
    assert {row["data_source"] for row in rows} == {*SETS, "polynomial"} - {"polaris"}


@pytest.mark.parametrize("style", ["instruct", "tiny"])
def test_countdown_from_the_hub_has_our_prompt_and_ground_truth(style: str, tmp_path: Path) -> None:
    done = write_countdown_set(
        tmp_path / "out", COUNTDOWN, style, Selection(), local_path=write("countdown", tmp_path / "copy")
    )
    assert (done.rows, done.dropped) == ({"train": 4}, {"train": {"the problem of an earlier row": 1}})
    for row in rows_of(tmp_path / "out", "train"):
        problem = Problem.from_ground_truth(row["reward_model"]["ground_truth"])
        assert row["prompt"] == [{"role": "user", "content": problem.prompt(style)}]
        answer = solutions(problem.numbers, problem.target)[0]
        response = f"<answer>{answer}</answer>" if style == "instruct" else answer
        assert compute_score("countdown", response, row["reward_model"]["ground_truth"])["score"] == 1.0


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl"])
def test_a_single_file_of_any_kind_will_do(suffix: str, tmp_path: Path) -> None:
    rows = [{"problem": "1 + 1?", "answer": 2}, {"problem": "2 + 2?", "answer": 4}]
    convert("beyond-aime", write_rows(tmp_path / f"mine{suffix}", rows), tmp_path / "out")
    assert pairs_of(tmp_path / "out", "test") == [("1 + 1?", "2"), ("2 + 2?", "4")]


def test_a_csv_file_will_do(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text('problem,answer\n"1 + 1, and 1?",3\n')
    convert("math500", tmp_path / "mine.csv", tmp_path / "out")
    assert pairs_of(tmp_path / "out", "test") == [("1 + 1, and 1?", "3")]


def test_a_file_of_a_set_with_two_splits_is_the_one_that_its_name_says(tmp_path: Path) -> None:
    rows = [{"question": "Half of 4?", "answer": "#### 2"}]
    convert("gsm8k", write_rows(tmp_path / "my_test-00000.parquet", rows), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.parquet")] == ["test.parquet"]
    with pytest.raises(ValueError, match=r"gsm8k has the splits train and test: put one of these into its name"):
        convert("gsm8k", write_rows(tmp_path / "contest.parquet", rows), tmp_path / "other")


def test_what_save_to_disk_wrote_will_do(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    train = Dataset.from_list([{"question": "Half of 4?", "answer": "#### 2"}])
    test = Dataset.from_list([{"question": "Half of 6?", "answer": "#### 3"}])
    DatasetDict(train=train, test=test).save_to_disk(str(tmp_path / "both"))
    convert("gsm8k", tmp_path / "both", tmp_path / "out")
    assert pairs_of(tmp_path / "out", "train") == [("Half of 4?", "2")]
    assert pairs_of(tmp_path / "out", "test") == [("Half of 6?", "3")]
    test.save_to_disk(str(tmp_path / "one"))
    convert("amc23", tmp_path / "one", tmp_path / "amc")
    assert pairs_of(tmp_path / "amc", "test") == [("Half of 6?", "#### 3")]


def test_the_hub_s_cache_folder_and_a_folder_of_it_will_do(tmp_path: Path) -> None:
    cache = tmp_path / "datasets--openai--gsm8k"
    write("gsm8k", cache / "snapshots" / "aaaa")
    convert("gsm8k", cache, tmp_path / "one")
    write_rows(cache / "snapshots" / "bbbb" / "main" / "train-0.parquet", [{"question": "New?", "answer": "#### 1"}])
    with pytest.raises(ValueError, match="it holds 2 revisions: name one of the folders in"):
        convert("gsm8k", cache, tmp_path / "two")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("aaaa")
    convert("gsm8k", cache, tmp_path / "two")
    convert("gsm8k", cache / "snapshots" / "aaaa", tmp_path / "three")
    assert (
        pairs_of(tmp_path / "one", "train")
        == pairs_of(tmp_path / "two", "train")
        == pairs_of(tmp_path / "three", "train")
    )
    # The folder of a configuration alone, which knows of no configurations.
    convert("gsm8k", cache / "snapshots" / "aaaa" / "main", tmp_path / "four")
    assert pairs_of(tmp_path / "four", "train") == pairs_of(tmp_path / "one", "train")


def test_a_test_set_that_the_hub_calls_train_may_be_called_test_locally(tmp_path: Path) -> None:
    rows = [{"problem": "1 + 1?", "answer": 2}]
    convert("aime26", write_rows(tmp_path / "copy" / "test.jsonl", rows).parent, tmp_path / "out")
    assert pairs_of(tmp_path / "out", "test") == [("1 + 1?", "2")]


def test_a_copy_leaves_nothing_in_any_cache(tmp_path: Path) -> None:
    copy = write("math500", tmp_path / "copy")
    code = (
        "from pathlib import Path; from verl_setpo.tasks.commands import data;"
        f"data(['math500', '--local-path', {str(copy)!r}, '--out', {str(tmp_path / 'out')!r}])"
    )
    home = tmp_path / "home"
    environment = {"HF_HOME": str(home), "TMPDIR": str(tmp_path / "tmp"), "PATH": "/usr/bin:/bin", "HOME": str(home)}
    (tmp_path / "tmp").mkdir()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'out'}: 2 test prompts\n"
    assert done.stderr == ""
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list(home.rglob("*.arrow")) == []


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("gsm8k", "train.parquet", None, r"--local-path .*train.parquet does not exist: name a file or folder"),
        ("gsm8k", "train.xlsx", b"x", r"cannot be read as gsm8k: give one of .parquet, .json, "),
        ("gsm8k", "train.parquet", b"PAR1 cut short", r"cannot be read as gsm8k: .*[Pp]arquet"),
        ("gsm8k", "train.jsonl", b'{"question": "q", "answer": ', r"cannot be read as gsm8k: "),
        ("gsm8k", "train.jsonl", b"", r"cannot be read as gsm8k: "),
        ("gsm8k", "copy/notes.txt", b"x", r"has the columns 'text' and none of 'question'"),
        ("gsm8k", "copy/validation.jsonl", b'{"a": 1}\n', r"has the splits 'validation' and no 'train' or 'test'"),
        (
            "simplerl-hard",
            "train.jsonl",
            b'{"extra_info": {"index": 1}, "data": "x"}\n',
            r"simplerl-hard's train split has the columns 'extra_info', 'data' and none of 'extra_info.question', ",
        ),
    ],
)
def test_a_bad_copy_is_one_sentence_and_leaves_nothing(
    name: str, file: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        convert(name, path.parent if file.startswith("copy/") else path, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*.partial"))


def test_the_table_needs_no_import_that_costs_time() -> None:
    code = (
        "import sys, verl_setpo.tasks.math_sets as m; print(len(m.SETS), sorted(set(sys.modules) & {'typer', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(SETS)} []\n"
