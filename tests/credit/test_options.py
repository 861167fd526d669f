"""Defaults that fit the file, and causes that are named as the file and the options have them."""

from __future__ import annotations

import json

import pytest

from tests.credit.conftest import call, group, refused

FOUR = group("a", [1, 0, 1, 0], "ABCA")
HEADER = {"prompt": "prompt", "reward": "reward", "cluster": "cluster"}


def texts(answer="", n=4):
    return [{"prompt": "a", "reward": i % 2, "text": f"{answer}since {i}"} for i in range(n)]


def test_a_file_with_few_rollouts_gets_a_set_size_that_fits_and_a_note(credit, write):
    found = credit(write(FOUR))
    assert [row["estimator"] for row in found.figures["summary"]] == ["set_loo", "poly_epo", "grpo_div", "grpo"]
    assert found.summary("poly_epo")["set_size"] == 3
    assert "--set-size is 3 in place of 4, as no prompt has more than 4 rollouts" in found.text
    assert "algorithm.set_rl.set_size=3" in found.summary("poly_epo")["run"]
    assert "in place of" not in credit(write(group("a", [1, 0, 1, 0, 0], "ABCAA"))).text


@pytest.mark.parametrize(
    ("n", "left", "out"),
    [(1, ["grpo"], ["set_loo", "poly_epo", "grpo_div"]), (2, ["grpo_div", "grpo"], ["set_loo", "poly_epo"])],
)
def test_estimators_that_need_more_rollouts_are_left_out_with_a_note(credit, write, n, left, out):
    found = credit(write(FOUR[:n]))
    assert [row["estimator"] for row in found.figures["summary"]] == left
    for name in out:
        assert f"Note: {name}, which needs" in found.text


def test_estimators_by_clusters_on_a_signal_without_them_name_the_signals_that_have_some(write):
    path = write(texts())
    assert refused(path, "--sweep-set-size", "2-3").endswith(
        "ngram gives none: choose --signal answer or judge, or add --objective vendi, which goes by similarities."
    )
    assert refused(path, "--estimator", "poly_epo").endswith("choose --signal answer or judge.")
    assert call(path, "--sweep-set-size", "2-3", "--objective", "vendi").exit_code == 0


def test_texts_without_an_answer_are_told_of_and_of_nothing_else(credit, write):
    (warned,) = credit(write(texts()), "--signal", "answer").figures["warnings"]
    assert (warned["kind"], warned["count"]) == ("no_answer", 4)
    assert "no answer was found in any of 4 rollouts" in warned["message"]
    (own,) = credit(write(group("a", [1, 0, 1], [-1, -1, -1]), "own.jsonl")).warnings("no_answer")
    assert own["message"].startswith("by clusters all of 3 rollouts are degenerate")
    boxed = credit(write(texts(r"\boxed{7} ")), "--signal", "answer")
    assert boxed.warnings("no_answer") == []
    assert boxed.warnings("vanished")


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.csv"])
def test_a_reward_out_of_range_is_named_by_its_line_and_the_option(write, tmp_path, name):
    rows = group("a", [1, 0, 7, 0, -2], "ABCAB")
    path = tmp_path / name
    if path.suffix == ".json":
        path.write_text(f"[{','.join(map(json.dumps, rows))}]")
    elif path.suffix == ".csv":
        path.write_text("".join(f"{r['prompt']},{r['reward']},{r['cluster']}\n" for r in [HEADER, *rows]))
    else:
        write(["", *rows], name)  # a blank line is one, too
    line = {"r.jsonl": 4, "r.json": 3, "r.csv": 4}[name]
    said = refused(path)
    assert f"{name}, line {line}: the reward 7 lies outside --reward-range 0 1, as 2 of 5 do" in said
    assert said.endswith("such as --reward-range -2 7.")
    assert call(path, "--reward-range", -2, 7).exit_code == 0
    assert call(path, "--estimator", "set_loo").exit_code == 0  # which takes any reward


def test_a_broken_line_is_told_of_once_and_not_by_verls_logger(credit, write):
    found = credit(write([*FOUR, "{"]))
    assert "1 line broken left out (line 5: not valid JSON)" in found.text
    assert found.result.stderr == ""
