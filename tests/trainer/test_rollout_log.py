"""One JSON line per rollout when `algorithm.set_rl.rollout_log` names a folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import transfer_queue as tq
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from tests.trainer.batches import random_rows
from tests.trainer.conftest import MAX_RESPONSE, Row, compute, make_trainer, put_rows

FIELDS = {
    "step",
    "uid",
    "session",
    "key",
    "prompt_index",
    "answer",
    "length",
    "truncated",
    "grader_failed",
    "reward",
    "cluster",
    "credit",
    "base_advantage",
    "advantage",
    "has_signal",
}


def logging_trainer(folder, *overrides):
    return make_trainer(*(overrides or ("+set_rl=grpo_div",)), f"algorithm.set_rl.rollout_log={folder}")


def read_log(folder, step=1):
    return [json.loads(line) for line in (folder / f"{step}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_rollout_has_one_line_and_padding_has_none(queue, tmp_path):
    rows = random_rows(seed=1, preds=["7", "8", ""], outputs=(1, 2, 3))
    result = compute(logging_trainer(tmp_path), rows, pad_to=16)
    lines = read_log(tmp_path)
    assert None in result.rows
    assert len(rows) > len(lines)
    assert sorted((line["uid"], line["session"]) for line in lines) == sorted({(r.uid, r.session) for r in rows})
    for line in lines:
        assert set(line) == FIELDS
        outputs = [row for row in rows if (row.uid, row.session) == (line["uid"], line["session"])]
        last = max(outputs, key=lambda row: row.output)
        assert line["key"] == f"{last.uid}_{last.session}_{last.output}"
        assert line["answer"] == last.pred
        assert line["length"] == len(last.text) + 1
        assert line["reward"] == last.reward
        assert line["step"] == 1
        assert line["prompt_index"] == 7
        assert line["advantage"] == pytest.approx(result.of(last.uid, last.session, last.output), abs=1e-6)
        assert (line["cluster"] == -1) == (last.pred == "")


def test_the_advantage_is_the_base_plus_the_credit_under_set_loo(queue, tmp_path):
    rows = random_rows(seed=2, sizes=(5, 4))
    overrides = ("+set_rl=set_loo", "algorithm.set_rl.coef=0.5", "algorithm.set_rl.signal.name=test_line")
    compute(logging_trainer(tmp_path, *overrides), rows)
    lines = read_log(tmp_path)
    assert any(line["credit"] for line in lines)
    for line in lines:
        assert line["advantage"] == pytest.approx(line["base_advantage"] + line["credit"], abs=2e-6)


def test_a_failed_group_has_no_signal_and_its_base_advantage(queue, tmp_path):
    rows = random_rows(seed=3, sizes=(4, 4), preds=["7", "8"])
    overrides = ("+set_rl=grpo_div", "algorithm.set_rl.signal.name=test_failing_answers")
    compute(logging_trainer(tmp_path, *overrides, "+algorithm.set_rl.signal.failing=uid_0_x"), rows)
    for line in read_log(tmp_path):
        assert line["has_signal"] == (line["uid"] != "uid_0_x")
        if not line["has_signal"]:
            assert line["advantage"] == line["base_advantage"]
            assert line["credit"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        'quote " backslash \\ newline \n tab \t nul \x00 null',
        "line separators \u2028 \u2029 \x85 \x0b",
        "lone surrogate \ud800 and its pair \udfff\ud83d",
        "emoji \U0001f600 right to left \u202e",
        '{"reward": 1}\n{"uid": "forged"}',
        "{" * 100_000,
    ],
)
def test_hostile_text_in_an_answer_comes_back_as_it_was(queue, tmp_path, answer):
    rows = [Row("p", s, pred=answer if s else "7") for s in range(3)]
    compute(logging_trainer(tmp_path), rows)
    assert [line["answer"] for line in read_log(tmp_path)] == ["7", answer, answer]


def test_a_response_that_fills_the_limit_without_an_end_was_truncated(queue, tmp_path):
    rows = [
        Row("p", 0, text="a" * MAX_RESPONSE, eos=False),
        Row("p", 1, text="a" * (MAX_RESPONSE - 1), eos=True),
        Row("p", 2, text="a", eos=False),
    ]
    compute(logging_trainer(tmp_path), rows)
    assert [line["truncated"] for line in read_log(tmp_path)] == [True, False, False]


def test_each_step_has_its_file_and_several_batches_of_a_step_share_it(queue, tmp_path):
    """verl's separate mode trains several batches before it counts a step."""
    trainer = logging_trainer(tmp_path / "new" / "folder")
    compute(trainer, [Row("p", s) for s in range(3)])
    compute(trainer, [Row("q", s) for s in range(2)])
    trainer.global_steps = 2
    compute(trainer, [Row("r", s) for s in range(2)])
    assert [line["uid"] for line in read_log(tmp_path / "new" / "folder", 1)] == list("pppqq")
    assert [line["uid"] for line in read_log(tmp_path / "new" / "folder", 2)] == list("rr")


def test_a_step_that_is_trained_again_after_a_resume_has_one_line_a_rollout(queue, tmp_path):
    compute(logging_trainer(tmp_path), [Row("p", s) for s in range(3)])
    compute(logging_trainer(tmp_path), [Row("q", s) for s in range(2)])
    assert [line["uid"] for line in read_log(tmp_path)] == list("qq")


def test_nothing_is_written_unless_asked_for(queue, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compute(make_trainer("+set_rl=grpo_div"), [Row("p", s) for s in range(3)])
    assert list(tmp_path.iterdir()) == []


INDEX_OF_ANY_TYPE = [
    ("a-17", "a-17"),
    (None, None),
    (np.int64(3), 3),
]


@pytest.mark.parametrize(("index", "logged"), INDEX_OF_ANY_TYPE)
def test_the_prompt_index_of_a_users_own_data_set(queue, tmp_path, index, logged):
    batch, _ = put_rows([Row("p", s) for s in range(3)])
    info = list_of_dict_to_tensordict([{"extra_info": {"index": index}}] * 3)
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=info)
    logging_trainer(tmp_path)._compute_advantage(batch, {})
    assert [line["prompt_index"] for line in read_log(tmp_path)] == [logged] * 3


def test_every_line_is_json_also_in_a_step_with_a_nan_reward(queue, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    trainer = logging_trainer(tmp_path)
    compute(trainer, [Row("p", s) for s in range(3)])
    compute(trainer, [Row("p", s, reward=float("nan") if s else 1.0, pred="7") for s in range(3)])
    for line in (tmp_path / "1.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_responses_that_could_not_be_graded_are_counted_and_marked(queue, tmp_path):
    """verl shows what a reward function returns beside the score for validation only."""
    rows = [Row("a", i, reward=0.0, pred="7", extra={"grader_failed": float(i == 2)}) for i in range(4)]
    result = compute(logging_trainer(tmp_path), rows, pad_to=8)
    assert result.metrics["set_rl/grader_failed"] == 1
    assert [line["grader_failed"] for line in read_log(tmp_path)] == [False, False, True, False]


def test_a_reward_function_that_says_nothing_of_failures_gets_no_metric_of_them(queue, tmp_path):
    result = compute(logging_trainer(tmp_path), [Row("a", i, reward=float(i), pred="7") for i in range(2)])
    assert "set_rl/grader_failed" not in result.metrics
