"""The reward of a run, asked about its own data: with real reward managers and people's own reward functions."""

from __future__ import annotations

import time

import pytest

from tests.doctor.conftest import OUR_REWARD, POLYNOMIALS, row_of
from verl_setpo.doctor import rewards
from verl_setpo.doctor.command_line import compose_run
from verl_setpo.doctor.keys import is_ours
from verl_setpo.doctor.rewards import reward_checks

GSM8K = [row_of("gsm8k", gold, i) for i, gold in enumerate(["72", "1/2", "-3", "\\frac{22}{7}"])]


@pytest.fixture
def reward_of(run_words, tmp_path):
    """The check of a run; `code` is a reward function of somebody's own."""

    def ask(rows, *words, code=None, count=16, name="train.parquet"):
        own = OUR_REWARD
        if code is not None:
            path = tmp_path / "own.py"
            path.write_text(f"def score(data_source, solution_str, ground_truth, extra_info=None):\n    {code}\n")
            own = (f"reward.custom_reward_function.path={path}", "reward.custom_reward_function.name=score")
        config = compose_run(run_words(rows, *own, *words, name=name))
        (check,) = reward_checks(config, is_ours(config), count)
        return check

    return ask


@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
@pytest.mark.parametrize("method", ["+set_rl=poly_epo", "+set_rl=set_loo", "algorithm.adv_estimator=grpo"])
def test_our_own_data_is_paid_for_its_answer_and_for_nothing_else(reward_of, method, name):
    check = reward_of(POLYNOMIALS, method, name=name)
    assert check.status == "ok"
    assert "16 of 40 rows, rewards from 0 to 1" in check.found
    assert "own ground truth 16 of 16, empty 0 of 16, garbage 0 of 16" in check.found


@pytest.mark.parametrize(
    "rows",
    [
        GSM8K,
        [row_of("countdown", '{"numbers": [3, 5, 7], "target": 22, "style": "instruct"}')],
        [row_of("countdown", '{"numbers": [3, 5, 7], "target": 22, "style": "tiny"}')],
        [row_of("multiplication", '{"a": 343, "b": 67}')],
    ],
    ids=["math", "countdown", "countdown of the tiny style", "multiplication"],
)
def test_each_of_our_tasks_is_paid_for_a_solution(reward_of, rows):
    check = reward_of(rows, "+set_rl=poly_epo")
    assert check.status == "ok"
    assert f"own ground truth {len(rows)} of {len(rows)}" in check.found


def test_no_solution_is_sought_of_a_puzzle_for_which_that_could_take_for_ever(reward_of):
    puzzle = '{"numbers": [3, 5, 7, 9, 11, 13, 15], "target": 22, "style": "instruct"}'
    check = reward_of([row_of("countdown", puzzle)])
    assert check.status == "ok"
    assert "own ground truth 0 of 0, empty 0 of 1" in check.found


def test_verls_own_reward_and_another_manager_are_asked_as_the_run_has_them(reward_of, monkeypatch):
    rows = [row_of("openai/gsm8k", "72"), row_of("lighteval/MATH", "\\frac{1}{2}")]
    words = ["reward.custom_reward_function.path=null", "reward.reward_manager.name=dapo"]
    check = reward_of(rows, "+set_rl=poly_epo", *words)
    assert check.status == "ok"
    assert "own ground truth 2 of 2" in check.found


def test_rewards_of_plus_and_minus_one_fail_until_their_range_is_set(reward_of):
    code = "return 1.0 if str(ground_truth) in solution_str else -1.0"
    rows = [row_of("mine", "seventy")]
    check = reward_of(rows, "+set_rl=poly_epo", code=code)
    assert check.status == "fail"
    assert "rewards from -1 to 1: outside algorithm.set_rl.reward_range=[0, 1]" in check.found
    assert reward_of(rows, "+set_rl=poly_epo", "algorithm.set_rl.reward_range=[-1,1]", code=code).status == "ok"
    assert reward_of(rows, "+set_rl=set_loo", code=code).status == "ok"  # which takes any finite reward


def test_a_reward_that_is_not_finite_fails_under_any_method(reward_of):
    check = reward_of([row_of("mine", "7")], "+set_rl=set_loo", code="return float('nan')")
    assert check.status == "fail"
    assert "nan is not finite" in check.found


def test_a_ground_truth_that_raises_fails_and_names_the_row(reward_of):
    rows = [*POLYNOMIALS[:3], row_of("polynomial", "no JSON")]
    check = reward_of(rows, "+set_rl=poly_epo")
    assert check.status == "fail"
    assert "1 raise, row 3 of train.parquet: " in check.found
    assert "'no JSON' is not a JSON object" in check.found


def test_a_function_that_breaks_on_garbage_fails(reward_of):
    code = "return float(solution_str == ground_truth) if '{{{' not in solution_str else 1 / 0"
    check = reward_of([row_of("mine", "7")], "+set_rl=poly_epo", code=code)
    assert check.status == "fail"
    assert "ZeroDivisionError" in check.found


def test_a_reward_for_no_answer_is_noted(reward_of):
    check = reward_of([row_of("mine", "7")], "+set_rl=poly_epo", code="return 1.0")
    assert check.status == "note"
    assert "empty 1 of 1, garbage 1 of 1" in check.found


def test_a_ground_truth_that_is_never_paid_is_noted_with_its_row(reward_of):
    check = reward_of([row_of("mine", "7")], "+set_rl=poly_epo", code="return 0.0")
    assert check.status == "note"
    assert "own ground truth 0 of 1" in check.found
    assert "row 0 of train.parquet" in check.cure


def test_a_ground_truth_that_no_grader_can_settle_fails(reward_of):
    code = "return {'score': 0.0, 'grader_failed': 1.0}"
    check = reward_of([row_of("mine", "7")], "+set_rl=poly_epo", code=code)
    assert check.status == "fail"
    assert "row 0 of train.parquet cannot be graded" in check.found


def test_a_reward_that_takes_for_ever_is_not_waited_for(reward_of, monkeypatch):
    monkeypatch.setattr(rewards, "LIMIT_S", 1.0)
    started = time.monotonic()
    check = reward_of([row_of("mine", "7")], "+set_rl=poly_epo", code="import time; time.sleep(30); return 1.0")
    assert time.monotonic() - started < 20
    assert (check.status, check.found) == ("not done", "none of 1 rows was graded in 1 s")


def test_of_a_slow_reward_the_rows_that_were_graded_count(reward_of, monkeypatch):
    monkeypatch.setattr(rewards, "LIMIT_S", 4.0)
    code = "import time; time.sleep(20 if extra_info['index'] else 0); return float(ground_truth in solution_str)"
    check = reward_of([row_of("mine", "7", index) for index in range(2)], "+set_rl=poly_epo", code=code)
    assert check.status == "ok"
    assert check.found.startswith("1 of 2 rows")


def test_what_cannot_be_read_here_is_not_done_and_says_why(reward_of):
    remote = reward_of(POLYNOMIALS, "+set_rl=poly_epo", "data.train_files=hdfs://cluster/train.parquet")
    assert remote.status == "not done"
    assert "hdfs" in remote.found
    model = reward_of(POLYNOMIALS, "+set_rl=poly_epo", "actor_rollout_ref.model.path=/nowhere/at/all")
    assert model.status == "not done"
    assert "tokenizer" in model.found
    server = ["reward.custom_reward_function.path=null", "reward.reward_model.enable=True"]
    assert "reward.reward_model" in reward_of(POLYNOMIALS, "+set_rl=poly_epo", *server).found


def test_the_sample_is_spread_over_all_files(run_words, tmp_path):
    from verl_setpo.doctor.data_rows import sample

    words = run_words(POLYNOMIALS, name="a.parquet")
    run_words(POLYNOMIALS[:20], name="b.parquet")
    config = compose_run([*words, f"data.train_files=[{tmp_path}/a.parquet,{tmp_path}/b.parquet]"])
    rows, total = sample(config, 6)
    assert total == 60
    places = [("a", 0), ("a", 10), ("a", 20), ("a", 30), ("b", 0), ("b", 10)]
    assert [row["at"] for row in rows] == [f"row {index} of {file}.parquet" for file, index in places]
    assert rows[1]["extra_info"]["index"] == 10
