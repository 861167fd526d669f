"""Each warning where its cause is, and not where it is not."""

from __future__ import annotations

import pytest

from tests.credit.conftest import group

POLY = ("--estimator", "poly_epo", "--set-size", 2)
LOO = ("--estimator", "set_loo")


def test_rollouts_that_all_agree_teach_nothing_under_any_method(credit, write):
    rows = group("dead", [1] * 4, "AAAA") + group("live", [1] * 4, "AAAB") + group("mixed", [1, 0, 0, 0], "AAAA")
    found = credit(write(rows), *LOO, "--estimator", "grpo")
    (warned,) = found.warnings("no_signal")
    assert warned["count"] == 1
    assert "1 of 3 prompts have one reward and one strategy" in warned["message"]
    for estimator in ("set_loo", "grpo"):
        assert found.advantages(estimator, "dead") == [0.0] * 4
    assert any(found.advantages("set_loo", "live"))
    assert any(found.advantages("grpo", "mixed"))


@pytest.mark.parametrize(("coef", "kind"), [(0.01, "changes_nothing"), (3, None), (50, "outweighs")])
def test_coef_is_called_too_small_or_too_large_by_its_credit_share(credit, write, coef, kind):
    found = credit(write(group("a", [1, 1, 1, 0, 0, 0], "AABABC")), *LOO, "--coef", coef)
    kinds = {name for name, _ in found.kinds} & {"changes_nothing", "outweighs"}
    assert kinds == ({kind} if kind else set())
    share = found.summary("set_loo")["credit_share"]
    assert {"changes_nothing": share < 0.02, "outweighs": share > 0.5, None: 0.02 < share < 0.5}[kind]


@pytest.mark.parametrize("coef", [0.01, 90])
def test_the_coef_that_a_warning_names_gives_the_share_that_it_names(credit, write, coef):
    path = write(group("a", [1, 1, 1, 0, 0, 0], "AABABC") + group("b", [1, 1, 0, 0, 0, 0], "ABBABC"))
    (warned,) = (w for w in credit(path, *LOO, "--coef", coef).figures["warnings"] if "for a share of" in w["message"])
    named = warned["message"].split("such as to ")[1].split()[0]
    assert credit(path, *LOO, "--coef", named).summary("set_loo")["credit_share"] == pytest.approx(0.3, abs=0.01)


def test_diversity_can_pay_the_wrong_rollouts_more_than_the_correct_ones(credit, write):
    path = write(group("a", [1, 1, 1, 0], "AAAB"))
    weak, strong = (credit(path, "--estimator", "grpo_div", "--coef", coef) for coef in (0.1, 5))
    assert weak.warnings("inverted") == []
    (warned,) = strong.warnings("inverted")
    assert "lower --coef" in warned["message"]
    assert strong.advantages("grpo_div", "a")[3] > 0 > max(strong.advantages("grpo_div", "a")[:3])
    assert strong.summary("grpo_div")["inverted_prompts"] == strong.summary("grpo_div")["mixed_prompts"] == 1


def test_what_a_warning_of_inverted_prompts_advises_mends_them(credit, write):
    """Six that agree and are right, two that are wrong in ways of their own."""
    path = write(group("a", [1] * 6 + [0] * 2, "AAAAAABC"))
    (warned,) = credit(path, "--estimator", "poly_epo", "--set-size", 4).warnings("inverted")
    assert "lower --set-size and add --no-zero-single-cluster" in warned["message"]
    (warned,) = credit(path, *POLY).warnings("inverted")
    assert "lower --set-size" not in warned["message"]
    paying = ("--estimator", "poly_epo", "--no-zero-single-cluster")
    (warned,) = credit(path, *paying, "--set-size", 4).warnings("inverted")
    assert "lower --set-size, towards GRPO" in warned["message"]
    assert credit(path, *paying, "--set-size", 2).warnings("inverted") == []


def test_a_bonus_for_rare_wrong_rollouts_where_nothing_is_correct_is_told_apart(credit, write):
    found = credit(write(group("a", [0] * 4, "AAAB")), "--estimator", "grpo_div", *POLY)
    assert found.kinds == {("paid_for_being_wrong", "grpo_div"), ("outweighs", "grpo_div")}
    assert found.warnings("paid_for_being_wrong")[0]["count"] == 1
    assert found.advantages("grpo_div", "a")[3] > 0
    assert found.advantages("poly_epo", "a") == [0.0] * 4


def test_one_strategy_throughout_is_named_as_the_cause_of_vanished_advantages(credit, write):
    path = write(group("a", [1, 1, 0, 0], "AAAA"))
    found = credit(path, *POLY)
    (warned,) = found.warnings("vanished")
    assert "all of one strategy" in warned["message"]
    assert "--no-zero-single-cluster" in warned["message"]
    cured = credit(path, *POLY, "--no-zero-single-cluster")
    assert cured.warnings("vanished") == []
    assert min(cured.advantages("poly_epo", "a")[:2]) > 0


def test_where_no_coef_changes_anything_none_is_advised(credit, write):
    found = credit(write(group("a", [1, 0, 1, 0], "ABCD")), *LOO, "--estimator", "grpo_div")
    assert found.kinds == {("no_credit", "set_loo"), ("no_credit", "grpo_div")}
    for warned in found.warnings("no_credit"):
        assert "changes nothing at any --coef" in warned["message"]
        assert "raise" not in warned["message"]
    assert "raise --coef" in credit(found.figures["file"], *LOO, "--coef", 0).text


def test_a_prompt_with_one_rollout_is_not_said_to_teach_nothing(credit, write):
    found = credit(write(group("one", [1], "A")), "--estimator", "grpo")
    assert found.advantages("grpo", "one") == pytest.approx([1.0])
    assert found.kinds == {("one_rollout", None)}


def test_a_smaller_set_is_advised_only_where_the_trainer_takes_one(credit, write):
    path = write(group("small", [1, 0], "AB") + group("large", [1, 1, 1, 0], "AAAB"))
    (least,) = credit(path, *POLY).warnings("too_small")
    assert least["message"].endswith("generate more rollouts.")
    (larger,) = credit(path, "--estimator", "poly_epo", "--set-size", 3).warnings("too_small")
    assert larger["message"].endswith("or lower --set-size.")
    paying = (*POLY, "--no-zero-single-cluster")
    assert credit(path, *paying).warnings("too_small")[0]["message"].endswith("or lower --set-size.")
    assert credit(path, *POLY[:2], "--no-zero-single-cluster", "--set-size", 1).warnings("too_small") == []


def test_rollouts_against_their_reward_are_counted_only_where_there_are_some(credit, write):
    path = write(group("a", [0] * 3 + [1, 1], "AABCC"))
    (warned,) = credit(path, "--estimator", "grpo_div", "--coef", 3).warnings("against_reward")
    figures = credit(path, "--estimator", "grpo_div", "--coef", 3).summary("grpo_div")
    assert (figures["correct_negative_mixed"], figures["wrong_positive_mixed"]) == (0, 1)
    assert "1 wrong rollout has a positive advantage, for being rare" in warned["message"]
    assert "correct rollout" not in warned["message"].split("rollouts, ", 1)[1]


def test_small_groups_and_rollouts_in_no_drawn_set_are_counted(credit, write):
    path = write(group("small", [1, 0], "AB") + group("large", [1, 0, 1, 0, 0, 1], "ABCDEF"))
    found = credit(path, *POLY, "--num-sets", 1, "--seed", 3)
    assert found.warnings("too_small")[0]["count"] == found.summary("poly_epo")["too_small"] == 1
    assert found.advantages("poly_epo", "small") == [0.5, -0.5]  # reward minus mean, its base advantage
    assert found.warnings("left_out")[0]["count"] == 4
    assert sum(value != 0 for value in found.advantages("poly_epo", "large")) <= 2


def test_what_is_well_is_not_warned_of(credit, write):
    path = write(group("a", [1, 1, 1, 0, 0, 0], "ABCAAB"))
    assert credit(path, *LOO, "--coef", 2, "--estimator", "grpo").figures["warnings"] == []


def test_a_sweep_of_coef_counts_signs_against_its_first_value(credit, write):
    path = write(group("a", [1, 1, 1, 0], "AAAB"))
    found = credit(path, "--estimator", "grpo_div", "--sweep-coef", "0,0.1,5")
    (swept,) = found.figures["sweeps"]
    assert [value["sign_flips"] for value in swept["values"]] == [0, 0, 4]
    assert swept["values"][0]["credit_share"] == 0
    (warned,) = found.warnings("sign_flips")
    assert "from --coef 0 to 5, 4 of 4 rollouts change the sign" in warned["message"]
