"""The one reward function that verl is given."""

import pytest

from verl_setpo.tasks import countdown, polynomial
from verl_setpo.tasks.rewards import TASKS, compute_score

TRUTHS = {
    "polynomial": polynomial.Problem(1, 3, 7).ground_truth("tiny"),
    "countdown": countdown.Problem((3, 5, 7), 22).ground_truth("tiny"),
}


def test_each_row_is_scored_by_its_data_source() -> None:
    assert set(TASKS) == set(TRUTHS)
    assert compute_score("polynomial", "(1,11)", TRUTHS["polynomial"])["acc"] == 1.0
    assert compute_score("countdown", "3*5+7", TRUTHS["countdown"])["acc"] == 1.0


def test_verl_calls_with_keywords_and_more_of_them() -> None:
    for source, truth in TRUTHS.items():
        result = compute_score(
            data_source=source, solution_str="", ground_truth=truth, extra_info={"index": 0}, reward_router_address="x"
        )
        assert result == {"score": 0.0, "acc": 0.0, "pred": ""}
        assert [type(value) for value in result.values()] == [float, float, str]


def test_an_unknown_data_source_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown data_source 'gsm8k': .* scores countdown, polynomial"):
        compute_score("gsm8k", "7", "7")


def test_verl_loads_it_by_the_documented_path() -> None:
    import_utils = pytest.importorskip("verl.utils.import_utils")
    loaded = import_utils.load_extern_object("pkg://verl_setpo.tasks.rewards", "compute_score")
    assert loaded is compute_score
