"""The one reward function that verl is given."""

import pytest

from verl_setpo.tasks import countdown, multiplication, polynomial
from verl_setpo.tasks.math_sets import SETS
from verl_setpo.tasks.rewards import TASKS, compute_score

TRUTHS = {
    "polynomial": polynomial.Problem(1, 3, 7).ground_truth("tiny"),
    "countdown": countdown.Problem((3, 5, 7), 22).ground_truth("tiny"),
    "multiplication": multiplication.Problem(12, 34).ground_truth("tiny"),
    **dict.fromkeys(SETS, "42"),
}
ANSWERS = {"polynomial": "(1,11)", "countdown": "3*5+7", "multiplication": "408"}


@pytest.mark.parametrize("source", TRUTHS)
def test_each_row_is_scored_by_its_data_source(source: str) -> None:
    assert {*TASKS, *SETS} == set(TRUTHS)
    assert compute_score(source, ANSWERS.get(source, r"It is \boxed{42.0}."), TRUTHS[source])["acc"] == 1.0


@pytest.mark.parametrize("source", TRUTHS)
def test_verl_calls_with_keywords_and_more_of_them(source: str) -> None:
    result = compute_score(
        data_source=source,
        solution_str="",
        ground_truth=TRUTHS[source],
        extra_info={"index": 0},
        reward_router_address="x",
        reward_model_tokenizer=None,
        workers=1,
        timeout_s=2,
    )
    expected = {"score": 0.0, "acc": 0.0, "pred": "", "grader_failed": 0.0}
    assert {key: result[key] for key in expected} == expected
    assert [type(result[key]) for key in expected] == [float, float, str, float]


def test_an_unknown_data_source_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown data_source 'chess': .* scores aime24, .*countdown, .*polynomial"):
        compute_score("chess", "7", "7")


def test_verl_loads_it_by_the_documented_path() -> None:
    import_utils = pytest.importorskip("verl.utils.import_utils")
    loaded = import_utils.load_extern_object("pkg://verl_setpo.tasks.rewards", "compute_score")
    assert loaded is compute_score
