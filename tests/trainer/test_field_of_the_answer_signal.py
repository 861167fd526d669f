"""`signal.field`: what the reward function returns besides the answer becomes the clusters that a trainer trains on."""

from __future__ import annotations

import json

import pytest

from tests.trainer import exact
from tests.trainer.batches import assert_same_bits, groups_of, rewards_of
from tests.trainer.conftest import Row, compose_config, compute, make_trainer
from tests.trainer.test_reward_manager import manager_of, outputs, run
from verl_setpo.tasks.multiplication import Problem
from verl_setpo.tasks.rewards import compute_score
from verl_setpo.trainer.config_check import check_config

POLY = ("+set_rl=poly_epo", "algorithm.set_rl.set_size=2")
FIELD = "+algorithm.set_rl.signal.field=strategy"
PROBLEM = Problem(343, 67)
RESPONSES = [
    "(340+3)*67=22780+201=22981",
    "67*(3+340)=201+22780=22981",
    "343*(70-3)=24010-1029=22981",
    "343*67=22981",
    "(350-7)*67=23450-469=22971",
]


def rows_of(uid: str, texts: list[str] = RESPONSES) -> list[Row]:
    """Rollouts of one prompt with what the multiplication task's own reward function says of them."""
    rows = []
    for session, text in enumerate(texts):
        extra = compute_score("multiplication", text, PROBLEM.ground_truth("tiny"))
        rows.append(Row(uid, session, 0, extra["score"], text, extra["pred"], extra=extra))
    return rows


def test_strategies_become_the_clusters_of_poly_epo(queue):
    rows = rows_of("p")
    result = compute(make_trainer(*POLY, FIELD), rows)
    expected = exact.marginal_of_all_sets(
        rewards_of(groups_of(rows)["p"]), exact.number_clusters(["1", "1", "2", "", "3"]), exact.polychromic, 2
    )
    assert result.group("p") == [pytest.approx(float(value), abs=1e-6) for value in expected]
    assert result.metrics["set_rl/clusters_per_prompt/mean"] == 3
    assert result.metrics["set_rl/degenerate_fraction"] == pytest.approx(1 / 5)


def test_without_the_key_equal_products_are_one_cluster(queue):
    result = compute(make_trainer(*POLY), rows_of("p", RESPONSES[:4]))
    assert result.group("p") == [0, 0, 0, 0]


def test_a_field_that_the_reward_function_never_returns_ends_the_run_and_is_named(queue):
    rows = [Row("p", s, reward=float(s % 2), pred=str(s), text=rf"\boxed{{{s}}}") for s in range(4)]
    with pytest.raises(
        RuntimeError,
        match=r"1 of 1 prompts .* from answer, .* returns no 'strategy', which algorithm\.set_rl\.signal\.f",
    ):
        compute(make_trainer(*POLY, FIELD), rows)


def test_a_task_without_the_field_trains_on_its_base_advantage_beside_one_that_has_it(queue, caplog):
    other = [Row("q", s, reward=float(s % 2), pred=str(s)) for s in range(4)]
    result = compute(make_trainer(*POLY, FIELD), [*rows_of("p"), *other])
    alone = compute(make_trainer(*POLY, FIELD), rows_of("p"))
    assert result.group("q") == [-0.5, 0.5, -0.5, 0.5]
    assert_same_bits(alone.advantages, result.advantages[: len(RESPONSES)])
    assert result.metrics["set_rl/signal_failed_groups"] == 1
    assert "1 prompts have no signal from answer" in caplog.text
    assert "algorithm.set_rl.signal.field" in caplog.text


def test_the_rollout_log_keeps_answer_and_strategy_apart(queue, tmp_path):
    compute(make_trainer(*POLY, FIELD, f"algorithm.set_rl.rollout_log={tmp_path}"), rows_of("p"))
    lines = [json.loads(line) for line in (tmp_path / "1.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in lines] == ["22981"] * 4 + ["22971"]
    assert [line["strategy"] for line in lines] == ["67*(3+340)"] * 2 + ["343*(70-3)", "", "67*(350-7)"]
    assert [line["cluster"] for line in lines] == [0, 0, 1, -1, 2]


def test_a_reward_worker_gets_the_strategy_from_the_reward_function_and_hands_it_on():
    manager = manager_of("algorithm.set_rl.signal.name=test_recorder", FIELD, compute_score=compute_score)
    data = outputs(RESPONSES[0], truth=PROBLEM.ground_truth("tiny"), source="multiplication")
    info = run(manager, data)["reward_extra_info"]
    assert (info["acc"], info["pred"], info["strategy"]) == (1.0, "22981", "67*(3+340)")
    assert manager.signal.field == "strategy"
    assert manager.signal.submitted[0].reward_extra_info == info


@pytest.mark.parametrize("value", ["null", "''", "3", "[strategy]"])
def test_a_field_that_is_no_name_stops_before_anything_starts(value):
    config = compose_config(*POLY, f"+algorithm.set_rl.signal.field={value}", "actor_rollout_ref.rollout.n=8")
    with pytest.raises(ValueError, match=r"signal\.field is .*, but must be a key that the reward function returns\.$"):
        check_config(config)
