"""The tables of Poly-EPO's decomposition: what a set size does to signs, as the command shows it before a run."""

from __future__ import annotations

import pytest

from tests.credit.conftest import group

REWARDS = [1, 1, 1, 1, 1, 0, 0, 0]
POLY = ("--estimator", "poly_epo", "--no-zero-single-cluster")


@pytest.fixture
def spread(write):
    """Five correct rollouts in two clusters, wrong ones in three."""
    return write(group("p", REWARDS, "AAAABCDE"))


@pytest.fixture
def single(write):
    """Five correct rollouts in one cluster, wrong ones in three."""
    return write(group("p", REWARDS, "AAAAABCD"))


@pytest.mark.parametrize(
    ("set_size", "common", "rare", "wrong"), [(2, 0.0536, 0.2679, -0.1607), (4, -0.0036, 0.0839, -0.0232)]
)
def test_advantages_are_the_published_ones(credit, spread, set_size, common, rare, wrong):
    found = credit(spread, *POLY, "--set-size", set_size)
    assert found.advantages("poly_epo", "p") == pytest.approx([common] * 4 + [rare] + [wrong] * 3, abs=5e-5)
    for value in (common, rare, wrong):
        assert f"{value:+.4f}" in found.text


def test_a_common_correct_rollout_below_zero_is_marked_and_warned_of(credit, spread):
    found = credit(spread, *POLY, "--set-size", 4)
    assert "0-3 1 A -0.0036!" in found.text
    assert "4 1 B +0.0839 " in found.text
    (warned,) = found.warnings("against_reward")
    assert warned["count"] == 4
    assert warned["message"] in found.text
    assert "4 correct rollouts have a negative advantage" in warned["message"]
    assert found.summary("poly_epo")["correct_negative"] == 4
    assert found.summary("poly_epo")["wrong_positive"] == 0


def test_at_four_every_advantage_is_exactly_0_and_a_warning_says_to_change_the_set_size(credit, single):
    found = credit(single, *POLY, "--set-size", 4)
    assert found.advantages("poly_epo", "p") == [0.0] * 8
    (warned,) = found.warnings("vanished")
    assert "1 of 1 prompts every advantage is 0 though the rewards differ" in warned["message"]
    assert "--set-size" in warned["message"]
    assert warned["message"] in found.text


def test_at_six_the_wrong_rollouts_get_more_and_a_warning_says_so(credit, single):
    found = credit(single, *POLY, "--set-size", 6)
    advantages = found.advantages("poly_epo", "p")
    assert max(advantages[:5]) < 0 < min(advantages[5:])
    (warned,) = found.warnings("inverted")
    assert "1 of 1 prompts with correct and wrong rollouts the wrong ones get more" in warned["message"]
    assert "lower --set-size" in warned["message"]
    assert warned["message"] in found.text


def test_a_sweep_shows_where_signs_flip_and_where_nothing_is_left(credit, single):
    found = credit(single, *POLY, "--set-size", 2, "--sweep-set-size", "2,4,6")
    (swept,) = found.figures["sweeps"]
    values = {value["set_size"]: value for value in swept["values"]}
    assert [values[n]["sign_flips"] for n in (2, 4, 6)] == [0, 0, 8]
    assert [values[n]["zero_prompts"] for n in (2, 4, 6)] == [0, 1, 0]
    assert [values[n]["inverted_prompts"] for n in (2, 4, 6)] == [0, 0, 1]
    assert [values[n]["correct_negative"] for n in (2, 4, 6)] == [0, 0, 5]
    assert [values[n]["wrong_positive"] for n in (2, 4, 6)] == [0, 0, 3]
    assert "from --set-size 2 to 6, 8 of 8 rollouts change the sign" in found.text
    assert "at --set-size 4 a prompt has advantages of 0 throughout though rewards differ" in found.text
    assert ("vanished", "poly_epo") not in found.kinds  # at 2, which is the size in force
