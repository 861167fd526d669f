"""Which files are understood, what of them is left out, and what each refusal says."""

from __future__ import annotations

import json

import pytest

from tests.credit.conftest import group, refused

TWO = group("a", [1, 0, 1, 0], [0, 1, 2, 3]) + group("b", [1, 1, 0, 0], [0, 0, 1, 2])
SIZE = ("--set-size", 2)


def table_of(found):
    return {prompt["prompt"]: prompt["advantages"] for prompt in found.figures["prompts"]}


def as_csv(rows):
    header = list(rows[0])
    return "\n".join([",".join(header), *(",".join(str(row[name]) for name in header) for row in rows)]) + "\n"


def test_jsonl_json_and_csv_of_the_same_rollouts_give_the_same(credit, write, tmp_path):
    lines = credit(write(TWO), *SIZE)
    (tmp_path / "r.json").write_text(json.dumps(TWO))
    (tmp_path / "r.csv").write_text("\ufeff" + as_csv(TWO), encoding="utf-8")
    assert table_of(credit(tmp_path / "r.json", *SIZE)) == table_of(lines)
    assert table_of(credit(tmp_path / "r.csv", *SIZE)) == table_of(lines)
    assert lines.figures["understood"].endswith(
        "a table of rollouts; 2 prompts with 4 rollouts; columns prompt, reward, cluster"
    )


@pytest.mark.parametrize(
    ("prompt", "reward", "cluster"),
    [("uid", "score", "cluster"), ("input", "reward", "pred"), ("uid", "score", "answer")],
)
def test_other_names_of_columns(credit, write, prompt, reward, cluster):
    named = [{prompt: row["prompt"], reward: row["reward"], cluster: str(row["cluster"])} for row in TWO]
    assert table_of(credit(write(named), *SIZE)) == table_of(credit(write(TWO, "other.jsonl"), *SIZE))


def test_rollouts_of_a_prompt_need_not_stand_together(credit, write):
    mixed = [row for pair in zip(TWO[:4], TWO[4:], strict=True) for row in pair]
    assert table_of(credit(write(mixed), *SIZE)) == table_of(credit(write(TWO, "other.jsonl"), *SIZE))


@pytest.mark.parametrize("label", ["-1", -1, -1.0, "", None])
def test_a_rollout_without_a_cluster_is_degenerate(credit, write, label):
    """It adds no cluster: paid less than the same rollout with a cluster of its own."""
    with_it, without = (group("a", [1, 1, 0, 0], ["A", "B", "C", last]) for last in ("D", label))
    kept = credit(write(with_it), *SIZE).advantages("poly_epo", "a")
    lost = credit(write(without, "other.jsonl"), *SIZE)
    assert lost.advantages("poly_epo", "a")[3] < kept[3]
    assert lost.prompt("a")["strategies"][3] == "degenerate"


def test_broken_lines_are_counted_and_the_others_used(credit, write):
    broken = ["{", "[]", '{"prompt": "a"}', '{"prompt": "a", "reward": "1"}', '{"prompt": "a", "reward": NaN}']
    broken += ['{"prompt": "a", "reward": 1e400}', '{"prompt": null, "reward": 1}', "[" * 50_000]
    found = credit(write([*TWO[:2], *broken, *TWO[2:]]), *SIZE)
    assert table_of(found) == table_of(credit(write(TWO, "other.jsonl"), *SIZE))
    assert found.figures["skipped_lines"] == len(broken)
    assert f"{len(broken)} lines broken left out" in found.text


def test_a_broken_first_line_does_not_hide_the_columns(credit, write):
    assert table_of(credit(write(["{", *TWO]), *SIZE)) == table_of(credit(write(TWO, "other.jsonl"), *SIZE))


def test_of_a_session_with_several_outputs_the_last_counts_wherever_it_stands(credit, write):
    outputs = [("p_q_0_0", 0, "7"), ("p_q_1_2", 1, "8"), ("p_q_1_0", 0, "7"), ("p_q_2_0", 0, "9"), ("p_q_0_1", 1, "7")]
    rows = [{"input": "?", "output": "", "score": s, "uid": u, "gts": None, "pred": a} for u, s, a in outputs]
    found = credit(write(rows), *SIZE)
    assert found.prompt("p_q")["rewards"] == [1, 1, 0]
    assert found.prompt("p_q")["strategies"] == ["0 7", "1 8", "2 9"]
    assert "2 lines of a session that has a later one left out" in found.text


def test_a_folder_gives_its_last_step_or_the_one_asked_for(credit, write, tmp_path):
    folder = tmp_path / "steps"
    folder.mkdir()
    write(TWO, "steps/2.jsonl")
    write(group("c", [1, 0, 0], [0, 1, 2]), "steps/10.jsonl")
    assert set(table_of(credit(folder, *SIZE))) == {"c"}
    assert set(table_of(credit(folder, *SIZE, "--step", 2))) == {"a", "b"}
    assert "--step 3 is not in" in refused(folder, "--step", 3)
    assert "which has the steps 2, 10" in refused(folder, "--step", 3)


def test_limit_keeps_the_first_prompts(credit, write):
    assert set(table_of(credit(write(TWO), *SIZE, "--limit", 1))) == {"a"}


def test_answers_are_those_that_texts_mark(credit, write):
    texts = [f"So it is \\boxed{{{answer}}}." for answer in (7, 7, 8, 9)]
    rows = [{"prompt": "a", "score": r, "output": t} for r, t in zip([1, 1, 0, 0], texts, strict=True)]
    found = credit(write(rows), *SIZE)
    assert found.figures["signal"] == "answer"
    assert found.advantages("poly_epo", "a") == credit(
        write(group("a", [1, 1, 0, 0], [0, 0, 1, 2]), "other.jsonl"), *SIZE
    ).advantages("poly_epo", "a")


def test_texts_without_answers_are_compared_by_n_grams(credit, write):
    texts = ["first add both sides", "first add both sides", "guess and check", "draw a picture of it"]
    rows = [{"prompt": "a", "reward": 1, "text": text} for text in texts]
    found = credit(write(rows))
    assert found.figures["signal"] == "ngram"
    assert {row["estimator"] for row in found.figures["summary"]} == {"set_loo", "grpo"}
    assert "poly_epo and grpo_div, which need them, are left out" in found.text
    same, same_too, *others = found.advantages("set_loo", "a")
    assert same == same_too < 0 < min(others)


def test_columns_without_a_value_are_passed_over_for_whole_texts(credit, write):
    """The texts differ in their ends only."""
    same = "and so on " * 200
    rows = [
        {"prompt": "a", "reward": 1, "cluster": None, "pred": None, "text": same + end} for end in ("", "", "x y z")
    ]
    found = credit(write(rows))
    assert found.figures["signal"] == "ngram"
    first, second, third = found.advantages("set_loo", "a")
    assert first == second < third


def test_equal_math_joins_answers_that_text_does_not(credit, write):
    rows = [{"prompt": "a", "reward": 1, "pred": pred} for pred in ("1/2", "0.5", "3", "4")]
    by_text = credit(write(rows), *SIZE).advantages("poly_epo", "a")
    by_math = credit(write(rows), "equal=math", *SIZE)
    half, same_half, *_ = by_math.advantages("poly_epo", "a")
    assert by_text == [0.0] * 4
    assert half == same_half < 0
    assert "+algorithm.set_rl.signal.equal=math" in by_math.summary("poly_epo")["run"]


def test_another_field_can_stand_for_the_strategy(credit, write):
    rows = [{"prompt": "a", "reward": 1, "pred": "7", "way": way} for way in "AABC"]
    found = credit(write(rows), "field=way", *SIZE)
    clusters = credit(write(group("a", [1] * 4, "AABC"), "other.jsonl"), *SIZE)
    assert found.advantages("poly_epo", "a") == clusters.advantages("poly_epo", "a") != [0.0] * 4


HOSTILE = "[red]x[/blue]\x1b[2J\u202e\n:warning:"


def test_hostile_text_is_only_printed_escaped_and_cut(credit, write):
    rows = [
        {"prompt": f"{HOSTILE}{'q' * 5000}", "reward": i % 2, "pred": f"{HOSTILE}{i}", "text": f"{HOSTILE}{'t' * 5000}"}
        for i in range(4)
    ]
    for options in ((), ("--prompt", "0")):
        found = credit(write(rows), *SIZE, *options)
        assert "\x1b" not in found.result.output
        assert "\u202e" not in found.result.output
        assert "[red]x[/blue]\\x1b[2J" in found.text
        assert "q" * 300 not in found.text
        assert "t" * 300 not in found.text
    assert found.figures["prompts"][0]["prompt"] == rows[0]["prompt"]


REFUSED = [
    (
        [{"prompt": "a", "cluster": 1}],
        "has no column for the reward (it has cluster, prompt): name one reward or score.",
    ),
    ([{"reward": 1.0}], "has no column for the prompt (it has reward): name one uid or prompt or input"),
    ([{"prompt": "a", "reward": 1}] * 4, "has nothing to compare rollouts by: add a column cluster, answer"),
    ([{"prompt": "a", "reward": "x", "cluster": 1}] * 3, "(line 1: reward is not a finite number)"),
    ([], "is empty"),
    (["\\x89PNG"], "holds no JSON object"),
]


@pytest.mark.parametrize(("rows", "expected"), REFUSED)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(write, rows, expected):
    path = write(rows)
    message = refused(path)
    assert expected in message
    assert path.name in message


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    assert "cannot be read (No such file or directory)" in refused(tmp_path / "no.jsonl")
    (tmp_path / "r.parquet").touch()
    assert "is none of .jsonl, .json, .csv" in refused(tmp_path / "r.parquet")
    assert "holds no <step>.jsonl" in refused(tmp_path)
    (tmp_path / "r.json").write_text('{"a": 1}')
    assert "holds no list of rollouts" in refused(tmp_path / "r.json")
    (tmp_path / "latin.csv").write_bytes(b"prompt,reward\n\xe9,1\n")
    assert "cannot be read as UTF-8 csv" in refused(tmp_path / "latin.csv")


OPTIONS = [
    (("--estimator", "ppo"), "--estimator ppo is unknown: use set_loo, poly_epo, pass_at_n, grpo_div"),
    (("--estimator", "poly_epo", "--coef", 1), "--coef changes none of poly_epo"),
    (("--set-size", 4), "--set-size 4 must be smaller than n=4 (the most rollouts of a prompt)"),
    (("--coef", -1), "--coef: Input should be greater than or equal to 0"),
    (("--num-sets", 0), "--num-sets: Input should be greater than or equal to 1"),
    (("--num-sets", 7, "--set-size", 2), "--num-sets 7 is more than the 6 sets of 2 among 4"),
    (("--set-size", 1), "--set-size 1 without --no-zero-single-cluster makes every set worth 0: raise --set-size"),
    (("--shaping", "round"), "--shaping round is unknown"),
    (("--reward-range", 1, 0), "--reward-range: is [1.0, 0.0], but must be [lowest, highest]"),
    (("--objective", "best"), "--objective: objective 'best' is not known"),
    (("--objective", "nobody:knows", *SIZE), "cannot be imported"),
    (("--signal", "nobody"), "--signal nobody is unknown"),
    (("--signal", "ngram"), "--signal ngram needs the texts"),
    (("--signal", "judge", "base_url=http://x/v1", "model=m"), "--signal judge needs the texts"),
    (("equal=math",), "equal is a key of a signal"),
    (("equal",), "Argument 1 after FILE is not KEY=VALUE"),
    (("--sweep-coef", "1,1"), "--sweep-coef 1,1 cannot be read"),
    (("--sweep-set-size", "2-4"), "--sweep-set-size 4 must be smaller than n=4"),
    (("--sweep-set-size", "2,3", "--estimator", "set_loo"), "--sweep-set-size needs an estimator with a set_size"),
    (("--prompt", "c", *SIZE), "--prompt c is neither a uid of the file nor a number from 0 to 1"),
    (("--step", 1), "--step 1 picks a file of a folder"),
    (("--estimator", "grpo", "--estimator", "grpo"), "grpo is asked for twice"),
    (("--json", "/nowhere/x.json"), "--json /nowhere/x.json cannot be written"),
]


@pytest.mark.parametrize(("options", "expected"), OPTIONS)
def test_options_that_cannot_work_are_refused_in_one_sentence(write, options, expected):
    said = refused(write(TWO), *options)
    assert expected in said
    assert "algorithm.set_rl." not in said.replace("algorithm.set_rl.signal.", "")
    assert "rollout.n" not in said
