"""What a newcomer may give as --local-path and --out by mistake: one sentence each, soon."""

import logging
from pathlib import Path

import pytest

from tests.tasks.set_shapes import write_rows
from tests.tasks.test_commands import run
from verl_setpo.tasks.math_sets import COUNTDOWN, SETS, HubSet

ROWS = [{"problem": "1 + 1?", "answer": 2}]


@pytest.mark.parametrize("content", ["", "\n"])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_file_without_rows_is_told_as_such(content: str, whole_folder: bool, tmp_path: Path) -> None:
    file = tmp_path / "copy" / "train.jsonl"
    file.parent.mkdir()
    file.write_text(content)
    copy = file.parent if whole_folder else file
    code, output = run("polaris", "--local-path", copy, "--out", tmp_path / "out")
    assert (code, output) == (2, f"error: --local-path {copy} cannot be read as polaris: it has no rows\n")


def test_the_folder_that_one_is_in_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_rows(tmp_path / "copy" / "train.jsonl", ROWS).parent)
    assert run("polaris", "--local-path", ".", "--out", tmp_path / "out") == (
        0,
        f"{tmp_path / 'out'}: 1 training prompts\n",
    )


def test_a_folder_of_much_else_is_refused_before_it_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = write_rows(tmp_path / "home" / "train.jsonl", ROWS).parent
    for index in range(300):
        (copy / f"project{index}" / "src").mkdir(parents=True)
    code, output = run("polaris", "--local-path", copy, "--out", tmp_path / "out")
    assert code == 2
    assert output == (
        f"error: --local-path {copy} cannot be read as polaris: it holds more than 500 files and folders: name the "
        "set's own folder or file\n"
    )


@pytest.mark.parametrize("name", ["broken.jsonl", "renamed.parquet"])
def test_a_file_that_cannot_be_read_is_one_sentence_without_a_log_line_above(name: str, tmp_path: Path) -> None:
    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    lines: list[str] = []
    logger, handler = logging.getLogger("datasets"), Told()
    level = logger.level
    logger.addHandler(handler)
    (tmp_path / name).write_text('{"problem": ')
    try:
        code, output = run("polaris", "--local-path", tmp_path / name, "--out", tmp_path / "out")
        assert logger.level == level
    finally:
        logger.removeHandler(handler)
    assert (code, lines, output.count("\n")) == (2, [], 1)
    assert output.startswith(f"error: --local-path {tmp_path / name} cannot be read as polaris: ")


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_folder_of_something_else_is_never_told_to_be_overwritten(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    copy = write_rows(tmp_path / "train.jsonl", ROWS)
    code, output = run("polaris", "--local-path", copy, "--out", tmp_path / "home", *options)
    assert (code, output) == (
        2,
        f"error: --out {tmp_path / 'home'} is not empty and has no dataset.json, so --overwrite will not replace it: "
        "name a new folder\n",
    )
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("entry", [*SETS.values(), COUNTDOWN], ids=lambda entry: entry.name)
def test_help_says_which_columns_a_copy_needs_and_a_copy_with_just_these_will_do(
    entry: HubSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    code, text = run(entry.name, "--help")
    (line,) = (line for line in text.splitlines() if "Columns that a local copy needs: " in line)
    said = line.partition("needs: ")[2].strip(" │").split("; ")
    # The last of each, which is no field of a struct.
    question, answer = (part.partition(" (")[0].replace(" or ", ", ").split(", ")[-1] for part in said[:2])
    forms = {"after_hashes": "1 + 1 = 2\n#### 2", "boxed": "It is \\boxed{2}.", "text": "2"}
    row: dict[str, object] = {question: "1 + 1?", answer: forms[entry.answer_form]}
    if entry is COUNTDOWN:
        row = {question: [1, 2, 3], answer: 6}
    split = next(iter(entry.splits))
    copy = write_rows(tmp_path / f"{split}.jsonl", [row])
    code, output = run(entry.name, "--local-path", copy, "--out", tmp_path / "out")
    assert code == 0, output
    assert ("####" in line, "\\boxed{}" in line) == (entry.answer_form == "after_hashes", entry.answer_form == "boxed")
    assert ("only for --min-difficulty" in line) == (entry.difficulty is not None)


def test_every_column_of_the_table_is_named_and_the_list_of_commands_stays_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    text = run("simplerl-hard", "--help")[1]
    assert "extra_info.question, question or problem (the problem)" in text
    assert "extra_info.answer, reward_model.ground_truth, gt_answer or answer (the answer)" in text
    assert "Here a.b is field b of column a. Files have train or test in their names." in text
    assert "Columns that" not in run("--help")[1]
