"""Data that no run can read fails here, and prompts that do not fit are told of, with what verl would do to them."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.doctor.conftest import POLYNOMIALS, row_of
from verl_setpo.doctor.command_line import compose_run
from verl_setpo.doctor.data_check import data_checks
from verl_setpo.doctor.keys import is_ours
from verl_setpo.doctor.rewards import reward_checks

LONG = {**row_of("polynomial", "{}"), "prompt": [{"role": "user", "content": "y=x^2+3x+7" * 4}]}


@pytest.fixture
def data_of(run_words):
    """The checks of a run's training and validation data."""

    def ask(rows, *words, count=16, name="train.parquet"):
        return list(data_checks(compose_run(run_words(rows, *words, name=name)), count))

    return ask


@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
def test_data_that_fit_are_well_and_say_how_long_their_prompts_are(data_of, name):
    training, validation = data_of(POLYNOMIALS, "data.max_prompt_length=32", name=name)
    assert (training.status, validation.status) == ("ok", "ok")
    assert training.found.startswith("40 rows; 16 prompts of ")
    assert training.found.endswith("tokens, data.max_prompt_length=32")


def cut(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("key", ["train_files", "val_files"])
@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("bad.parquet", cut, "bad.parquet cannot be read ("),
        ("bad.parquet", lambda path: path.write_bytes(b""), "bad.parquet cannot be read ("),
        ("bad.jsonl", lambda path: path.write_bytes(b""), "bad.jsonl cannot be read ("),
        ("bad.jsonl", lambda path: path.write_text('{"prompt": [\n'), "bad.jsonl cannot be read ("),
        ("bad.csv", lambda path: path.write_text("prompt\n"), "bad.csv is none of .parquet, .json, .jsonl"),
    ],
    ids=["cut", "empty", "empty lines", "no JSON", "another format"],
)
def test_a_file_that_cannot_be_read_fails_with_a_cure(data_of, tmp_path, key, name, spoil, says):
    bad = tmp_path / name
    if bad.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(POLYNOMIALS), bad)
    spoil(bad)
    checks = dict(zip(("train_files", "val_files"), data_of(POLYNOMIALS, f"data.{key}={bad}"), strict=True))
    assert checks.pop(key).found.startswith(f"data.{key}: {says}")
    (well,) = checks.values()
    assert well.status == "ok"
    failed = [check for check in data_of(POLYNOMIALS, f"data.{key}={bad}") if check.status == "fail"]
    assert len(failed) == 1
    assert failed[0].cure.startswith("Write it anew")


def test_no_reward_is_asked_of_data_that_cannot_be_read(run_words, tmp_path):
    words = run_words(POLYNOMIALS)
    cut(tmp_path / "train.parquet")
    config = compose_run(words)
    (check,) = reward_checks(config, is_ours(config), 4)
    assert (check.status, check.found) == ("not done", "the training data comes first")


def test_a_file_without_rows_or_without_prompts_fails(data_of, run_words, tmp_path):
    none, _ = data_of(POLYNOMIALS, "data.prompt_key=messages")
    assert none.status == "fail"
    assert "row 0 of train.parquet has no messages" in none.found
    assert "data.prompt_key" in none.cure
    words = run_words(POLYNOMIALS)
    pq.write_table(pq.read_table(tmp_path / "train.parquet").slice(0, 0), tmp_path / "train.parquet")
    empty, _ = data_checks(compose_run(words), 16)
    assert (empty.status, empty.found) == ("fail", "data.train_files has no row")


def test_prompts_that_are_too_long_are_noted_with_what_verl_does_to_them(data_of):
    rows, limit = [LONG, *POLYNOMIALS[:3]], "data.max_prompt_length=16"
    cuts, _ = data_of(rows, limit)
    assert cuts.status == "note"
    assert cuts.found.endswith("data.max_prompt_length=16: 1 are too long, and verl cuts off their beginning")
    assert cuts.cure.endswith("or drop them: data.filter_overlong_prompts=True.")
    drops, _ = data_of(rows, limit, "data.filter_overlong_prompts=True")
    assert drops.status == "note"
    assert drops.found.endswith("verl drops them")
    needed = cuts.cure.split(" or more")[0].removeprefix("Set ")
    assert {check.status for check in data_of(rows, needed)} == {"ok"}


def test_a_run_whose_prompts_are_all_dropped_fails(data_of):
    training, _ = data_of(POLYNOMIALS[:4], "data.max_prompt_length=4", "data.filter_overlong_prompts=True")
    assert training.status == "fail"
    assert "4 are too long, and verl drops them" in training.found


@pytest.mark.parametrize("drop", [True, False])
def test_verl_itself_counts_and_drops_as_the_check_says(data_of, run_words, drop):
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from verl_setpo.doctor.model_tokenizer import load_tokenizer

    rows, words = [LONG, *POLYNOMIALS[:3]], ("data.max_prompt_length=16", f"data.filter_overlong_prompts={drop}")
    config = compose_run(run_words(rows, *words))
    kept = RLHFDataset(config.data.train_files, load_tokenizer(config), config.data)
    assert len(kept) == (3 if drop else 4)
    (training, _) = data_checks(config, 16)
    assert ("1 are too long, and verl drops them" in training.found) == drop


def test_fewer_rows_than_a_batch_fail(data_of):
    training, validation = data_of(POLYNOMIALS[:3])
    assert (training.status, validation.status) == ("fail", "ok")
    assert training.found == "data.train_files has 3 rows, fewer than the 4 of data.train_batch_size"
    assert "data.train_batch_size to 3 or less" in training.cure


def test_fewer_rows_than_a_batch_are_enough_to_validate(data_of):
    training, _ = data_of(POLYNOMIALS[:3], "trainer.val_only=True")
    assert training.status == "ok"


def test_the_rows_that_verl_takes_are_counted(data_of):
    training, _ = data_of(POLYNOMIALS, "data.train_max_samples=3")
    assert training.status == "fail"
    assert training.found == "data.train_max_samples=3 leaves fewer rows than the 4 of data.train_batch_size"
    training, _ = data_of(POLYNOMIALS, "data.train_max_samples=4")
    assert training.status == "ok"


def test_a_batch_that_is_no_number_is_left_to_the_check_of_numbers(data_of):
    training, _ = data_of(POLYNOMIALS, "data.train_batch_size=abc")
    assert training.status == "ok"


def test_responses_that_vllm_cuts_short_are_noted_with_what_is_left(data_of):
    limit = "actor_rollout_ref.rollout.max_model_len"
    short, _ = data_of(POLYNOMIALS, f"{limit}=32")  # data.max_response_length is 24, prompts have 10 tokens and more
    assert short.status == "note"
    longest = 32 - int(short.found.split(f"{limit}=32 leaves a response ")[1].removesuffix(" tokens"))
    assert f" to {longest} tokens, " in short.found or f" of {longest} tokens, " in short.found
    assert short.cure == f"Set it to {longest + 24} or more: data.max_response_length=24."
    enough, _ = data_of(POLYNOMIALS, f"{limit}={longest + 24}")
    assert enough.status == "ok"


def test_a_prompt_that_is_text_fails_with_its_row(data_of):
    training, _ = data_of([{**row, "prompt": "1+1?"} for row in POLYNOMIALS[:3]])
    assert training.status == "fail"
    assert "the prompt of row 0 of train.parquet is not a list of messages" in training.found


def test_a_model_without_a_chat_template_fails_until_it_is_given_one(data_of, model, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "chat_template.jinja").unlink()
    words = [f"actor_rollout_ref.model.path={bare}"]
    training, _ = data_of(POLYNOMIALS, *words)
    assert training.status == "fail"
    assert "chat template fails at row 0 of train.parquet" in training.found
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    given, _ = data_of(POLYNOMIALS, *words, f"actor_rollout_ref.model.custom_chat_template='{template}'")
    assert given.status == "ok"


def test_what_a_data_set_of_ones_own_reads_is_not_judged(data_of, tmp_path):
    (tmp_path / "notes.csv").write_text("question\n")
    words = [f"data.train_files={tmp_path}/notes.csv", f"data.custom_cls.path={tmp_path}/mine.py"]
    training, validation = data_of(POLYNOMIALS, *words)
    assert (training.status, validation.status) == ("not done", "not done")
    assert "mine.py reads it in its own way" in training.found
