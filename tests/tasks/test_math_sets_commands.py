"""`verl-setpo data NAME` as a user runs it, from local copies."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.tasks.set_shapes import SHAPES, write, write_rows
from tests.tasks.test_commands import run
from verl_setpo.tasks.math_sets import COUNTDOWN, SETS

MANY = [{"problem": f"What is {i} + {i}?", "answer": 2 * i, "difficulty": f"{i % 9}/8"} for i in range(90)]
PUZZLES = [{"nums": [i, 2 * i, 3], "target": 3 * i + 3} for i in range(1, 41)]


def rows_of(out: Path, split: str = "train") -> list[dict[str, Any]]:
    return pq.read_table(out / f"{split}.parquet").to_pylist()


def questions(out: Path, split: str = "train") -> list[str]:
    return [row["prompt"][-1]["content"].partition("\n")[0] for row in rows_of(out, split)]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "many.jsonl", MANY)


def test_every_set_has_a_command_and_a_line_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, listed = run("list")
    assert code == 0
    for entry in (*SETS.values(), COUNTDOWN):
        line = next(line for line in listed.splitlines() if f" {entry.name} " in line)
        assert entry.hub in line
        assert line.split()[2:] == [f"{count:,}" for count in entry.rows.values()]
        code, text = run(entry.name, "--help")
        assert code == 0
        assert ("--test-size" in text) == ("test" not in entry.splits)
        assert ("--min-difficulty" in text) == (entry.difficulty is not None)
        assert "--local-path" in text


def test_one_line_says_what_was_kept_and_dropped_and_why(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, output = run("polaris", "--local-path", write("polaris", tmp_path / "copy"), "--out", out)
    assert code == 0
    assert output == (
        f"{out}: 4 training prompts; dropped 1 (a proof is asked for), 1 (the question gives the answer away), "
        "1 (the problem of an earlier row)\n"
    )
    record = json.loads((out / "dataset.json").read_text())
    assert record["rows_dropped"] == SHAPES["polaris"].dropped
    assert record["source"] == {"local_path": str(tmp_path / "copy"), "commit": None}
    assert record["prompt"] == "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."


def test_a_test_prompt_that_is_a_training_prompt_too_is_counted(tmp_path: Path) -> None:
    copy = write("gsm8k", tmp_path / "copy")
    code, output = run("gsm8k", "--local-path", copy, "--out", tmp_path / "out")
    assert code == 0
    assert output.splitlines()[1] == "warning: 1 test prompts are training prompts too"
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["test_prompts_in_training"] == 1


def test_max_rows_draws_by_the_seed_and_keeps_the_order(many: Path, tmp_path: Path) -> None:
    for name, more in (("a", []), ("b", []), ("c", ["--seed", 1]), ("d", ["--seed", 1])):
        assert run("polaris", "--local-path", many, "--out", tmp_path / name, "--max-rows", 20, *more)[0] == 0
    a, b, c, d = (questions(tmp_path / name) for name in "abcd")
    order = {row["problem"]: index for index, row in enumerate(MANY)}
    assert len(set(a)) == 20
    assert a == b == sorted(a, key=order.__getitem__) != [row["problem"] for row in MANY[:20]]
    assert c == d != sorted(c, key=order.__getitem__)
    assert set(a) != set(c)
    records = [json.loads((tmp_path / name / "dataset.json").read_text()) for name in "abc"]
    assert records[0] == records[1]
    assert records[0]["sha256"] != records[2]["sha256"]
    assert [record["max_rows"] for record in records] == [20, 20, 20]


def test_more_rows_than_there_are_are_all(many: Path, tmp_path: Path) -> None:
    assert run("polaris", "--local-path", many, "--out", tmp_path / "out", "--max-rows", 5000)[0] == 0
    assert questions(tmp_path / "out") == [row["problem"] for row in MANY]


def test_held_out_problems_are_no_training_problems(tmp_path: Path) -> None:
    doubled, out = write_rows(tmp_path / "doubled.jsonl", [*MANY, *MANY]), tmp_path / "out"
    code, output = run("polaris", "--local-path", doubled, "--out", out, "--test-size", 30)
    assert code == 0
    assert output == f"{out}: 60 training and 30 test prompts; dropped 90 (the problem of an earlier row)\n"
    train, test = questions(out), questions(out, "test")
    assert set(train) | set(test) == {row["problem"] for row in MANY}
    assert not set(train) & set(test)
    assert [row["extra_info"] for row in rows_of(out, "test")] == [
        {"split": "test", "index": index} for index in range(30)
    ]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--min-difficulty", "1/8", "--max-difficulty", "6/8"], {1, 2, 3, 4, 5, 6}),
        (["--max-difficulty", "0"], {0}),
        (["--min-difficulty", "0.875"], {7, 8}),
    ],
)
def test_difficulty_is_a_range_of_pass_rates(options: list[str], kept: set[int], many: Path, tmp_path: Path) -> None:
    code, output = run("polaris", "--local-path", many, "--out", tmp_path / "out", *options)
    assert code == 0
    assert questions(tmp_path / "out") == [row["problem"] for row in MANY if int(row["difficulty"][0]) in kept]
    assert f"dropped {90 - 10 * len(kept)} (outside --min-difficulty and --max-difficulty)" in output


def test_a_row_without_a_difficulty_is_dropped_only_where_one_is_asked_for(tmp_path: Path) -> None:
    copy = write_rows(tmp_path / "odd.jsonl", [*MANY[:8], {"problem": "x?", "answer": 1, "difficulty": None}])
    assert "dropped" not in run("polaris", "--local-path", copy, "--out", tmp_path / "all")[1]
    code, output = run("polaris", "--local-path", copy, "--out", tmp_path / "some", "--max-difficulty", "1")
    assert (code, "dropped 1 (no difficulty such as 3/8)" in output) == (0, True)


def test_prompts_are_a_text_a_file_or_a_template(tmp_path: Path) -> None:
    question = "Is {question} or {{ question }} a <b>set</b> & why?"
    copy = write_rows(tmp_path / "one.jsonl", [{"problem": question, "answer": "1"}])
    (tmp_path / "prompt.txt").write_text("Q: {question}\nA:\n")
    (tmp_path / "prompt.jinja").write_text("{% if question %}Solve: {{ question }}{% endif %} \\boxed{}\n")
    for name, options, messages in (
        ("a", ["--prompt", "Solve {question} in \\boxed{}"], [f"Solve {question} in \\boxed{{}}"]),
        (
            "b",
            ["--prompt", tmp_path / "prompt.txt", "--system", "You are terse."],
            ["You are terse.", f"Q: {question}\nA:"],
        ),
        ("c", ["--prompt", tmp_path / "prompt.jinja"], [f"Solve: {question} \\boxed{{}}"]),
    ):
        code, output = run("math500", "--local-path", copy, "--out", tmp_path / name, *options)
        assert code == 0, output
        prompt = rows_of(tmp_path / name, "test")[0]["prompt"]
        assert [message["content"] for message in prompt] == messages
        assert [message["role"] for message in prompt] == ["system", "user"][-len(messages) :]


def test_half_of_the_rows_may_be_dropped_and_not_more(tmp_path: Path) -> None:
    good, bad = {"problem": "1 + 1?", "answer": "2"}, {"problem": "2 + 2?", "answer": None}
    copy = write_rows(tmp_path / "half.jsonl", [good, bad])
    assert run("math500", "--local-path", copy, "--out", tmp_path / "half")[0] == 0
    copy = write_rows(tmp_path / "more.jsonl", [good, bad, bad])
    code, output = run("math500", "--local-path", copy, "--out", tmp_path / "more")
    assert code == 2
    assert output == (
        "error: 2 of 3 rows of math500's test split cannot be graded, such as row 1 (no answer): None; give "
        "--revision or --local-path with rows like those of HuggingFaceH4/MATH-500\n"
    )
    assert not (tmp_path / "more").exists()


def test_countdown_takes_the_number_of_training_prompts_that_it_is_asked_for(tmp_path: Path) -> None:
    copy = write_rows(tmp_path / "puzzles.parquet", PUZZLES)
    options = ["--local-path", copy, "--train-size", 25, "--test-size", 10]
    code, output = run("countdown", "--out", tmp_path / "out", *options)
    assert (code, output) == (0, f"{tmp_path / 'out'}: 25 training and 10 test prompts\n")
    truths = [
        json.loads(row["reward_model"]["ground_truth"])
        for split in ("train", "test")
        for row in rows_of(tmp_path / "out", split)
    ]
    assert len({(tuple(truth["numbers"]), truth["target"]) for truth in truths}) == 35
    assert {truth["style"] for truth in truths} == {"instruct"}
    assert run("countdown", "--out", tmp_path / "tiny", *options, "--style", "tiny", "--seed", 3)[0] == 0
    assert "=" in questions(tmp_path / "tiny")[0]


def test_countdown_is_generated_unless_a_source_is_named(tmp_path: Path) -> None:
    code, output = run("countdown", "--out", tmp_path / "out", "--train-size", 3, "--test-size", 2)
    assert (code, output) == (0, f"{tmp_path / 'out'}: 3 training and 2 test prompts\n")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["num_numbers"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["polaris", "--max-rows", 0], "error: --max-rows is 0: give at least 1"),
        (["polaris", "--test-size", 0], "error: --test-size is 0: give at least 1"),
        (["polaris", "--test-size", 90], "error: polaris has 90 problems that can be used, too few for --test-size 90"),
        (["polaris", "--min-difficulty", "hard"], "error: --min-difficulty is 'hard': give a share such as 3/8 or 0.3"),
        (["polaris", "--min-difficulty", "9/8"], "error: --min-difficulty is '9/8': give a share"),
        (["polaris", "--min-difficulty", "3/8", "--max-difficulty", "1/8"], "error: --min-difficulty is 0.375, above"),
        (["polaris", "--min-difficulty", "0.9", "--max-difficulty", "0.95"], "error: none of the 90 rows of polaris's"),
        (["polaris", "--prompt", "Solve."], "error: --prompt Solve. is no file, and as a text it has no {question}"),
        (["polaris", "--prompt", "no/such/file.jinja"], "error: --prompt no/such/file.jinja is no file, and as a text"),
        (["polaris", "--revision", "v2"], "error: --revision is 'v2' beside --local-path"),
        (["countdown", "--count", 4], "error: --count is for problems that are generated"),
        (["countdown", "--min-solutions", 2], "error: --min-solutions is for problems that are generated"),
        (["countdown", "--train-size", 0], "error: --train-size is 0: give at least 1"),
        (["countdown", "--style", "chat"], "error: --style is 'chat': give tiny or instruct"),
        (["countdown"], "error: countdown's train split has the columns 'problem', 'answer', 'difficulty' and none of"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_option(
    arguments: list[Any], message: str, many: Path, tmp_path: Path
) -> None:
    code, output = run(*arguments, "--local-path", many, "--out", tmp_path / "out")
    assert code == 2
    assert output.startswith(message)
    assert output.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [many]


def test_a_template_that_jinja_refuses_is_named(many: Path, tmp_path: Path) -> None:
    for text, message in (
        ("{{ question", "is no Jinja template that Jinja can render: "),
        ("{{ problem }} {{ question }}", "is no Jinja template that Jinja can render: 'problem' is undefined"),
        ("Solve {question}", "has no {{ question }}: put it where the question goes"),
    ):
        (tmp_path / "p.j2").write_text(text)
        code, output = run("polaris", "--local-path", many, "--out", tmp_path / "o", "--prompt", tmp_path / "p.j2")
        assert (code, message in output) == (2, True), output


def test_a_revision_without_the_hub_is_refused_where_problems_are_generated(tmp_path: Path) -> None:
    code, output = run("countdown", "--out", tmp_path / "out", "--revision", "v2")
    assert (code, output) == (2, "error: --revision is 'v2', but problems are generated: add --source hub\n")


def test_overwrite_replaces_a_set_by_another(many: Path, tmp_path: Path) -> None:
    copy = write("math500", tmp_path / "copy")
    assert run("polaris", "--local-path", many, "--out", tmp_path / "out")[0] == 0
    assert run("math500", "--local-path", copy, "--out", tmp_path / "out")[0] == 2
    assert run("math500", "--local-path", copy, "--out", tmp_path / "out", "--overwrite")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "test.parquet"]


def test_a_set_without_a_training_split_is_no_data_for_a_tiny_model(tmp_path: Path) -> None:
    run("math500", "--local-path", write("math500", tmp_path / "copy"), "--out", tmp_path / "out")
    code, output = run("tiny-model", "--task", "countdown", "--data", tmp_path / "out", "--out", tmp_path / "m")
    assert (code, "has no train.parquet: make it with `verl-setpo data`" in output) == (2, True)


def test_help_needs_no_heavy_import() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'pandas', 'numpy', 'verl', 'ray'}"
    code = (
        "import sys\nfrom verl_setpo.tasks.commands import data\n"
        "try: data(['polaris', '--help'])\nexcept SystemExit: pass\n"
        f"print('heavy:', sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"
