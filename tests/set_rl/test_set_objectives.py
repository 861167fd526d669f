"""The registry of set objectives, and the values of the built-in ones."""

import sys
import types

import pytest
import torch

from verl_setpo.set_rl import (
    get_objective,
    marginal_set_advantage,
    objective_names,
    objectives,
    register_objective,
    set_average,
)

REWARDS_PN = torch.tensor([[1.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 0.25]])
CLUSTERS_PN = torch.tensor([[5, 5, 9, 100], [9, 5, 5, 5]])


@pytest.fixture(autouse=True)
def _registry_is_left_as_found(monkeypatch):
    monkeypatch.setattr(objectives, "_OBJECTIVES", dict(objectives._OBJECTIVES))


@pytest.fixture
def user_module(monkeypatch):
    module = types.ModuleType("users_objectives")
    module.smallest = lambda rewards_n, clusters_n: rewards_n.amin(-1)
    module.number = 3
    monkeypatch.setitem(sys.modules, "users_objectives", module)
    return module


def test_registered_objective_is_usable_at_once_by_name():
    @register_objective("smallest")
    def smallest(rewards_n, clusters_n):
        return rewards_n.amin(-1)

    assert "smallest" in objective_names()
    got_PN = marginal_set_advantage(REWARDS_PN, set_size=2, objective="smallest")
    negated_PN = marginal_set_advantage(-REWARDS_PN, set_size=2, objective="pass_at_n")
    torch.testing.assert_close(got_PN, -negated_PN)


def test_import_path_and_function_mean_the_same(user_module):
    by_path_PN = marginal_set_advantage(REWARDS_PN, set_size=2, objective="users_objectives:smallest")
    by_function_PN = marginal_set_advantage(REWARDS_PN, set_size=2, objective=user_module.smallest)
    assert torch.equal(by_path_PN, by_function_PN)
    assert by_path_PN.abs().sum() > 0


def test_registered_function_keeps_its_closed_form_however_it_is_named():
    for name in ["verl_setpo.set_rl.objectives:polychromic", objectives.polychromic, get_objective("polychromic")]:
        assert get_objective(name) is get_objective("polychromic")


@pytest.mark.parametrize("objective", ["polychromic", "verl_setpo.set_rl.objectives:polychromic"])
def test_zero_single_cluster_is_honoured_however_polychromic_is_named(objective):
    clusters_PN = torch.zeros(2, 4, dtype=torch.long)
    for num_sets in [None, 6]:
        options = {"set_size": 2, "objective": objective, "num_sets": num_sets}
        assert (marginal_set_advantage(REWARDS_PN, clusters_PN, **options) == 0).all()
        paid_PN = marginal_set_advantage(REWARDS_PN, clusters_PN, zero_single_cluster=False, **options)
        assert (paid_PN != 0).any()


def test_objective_sees_dense_labels_and_minus_one_for_degenerates():
    seen = []

    def look(rewards_n, clusters_n):
        seen.append((rewards_n, clusters_n))
        return rewards_n.sum(-1)

    marginal_set_advantage(REWARDS_PN, CLUSTERS_PN, set_size=4, objective=look, degenerate_cluster=100)
    ((rewards_PKn, clusters_PKn),) = seen
    assert clusters_PKn[:, 0].tolist() == [[0, 0, 1, -1], [1, 0, 0, 0]]
    assert rewards_PKn.dtype == torch.float64


def test_objective_gets_none_when_there_are_no_clusters():
    def of_rewards(rewards_n, clusters_n):
        assert clusters_n is None
        return rewards_n.amax(-1)

    got_PN = marginal_set_advantage(REWARDS_PN, set_size=2, objective=of_rewards)
    torch.testing.assert_close(got_PN, marginal_set_advantage(REWARDS_PN, set_size=2, objective="pass_at_n"))


def test_closed_form_of_a_registered_objective_is_used():
    def third_of_reward(rewards_PN, labels_PN, mask_PN, set_size):
        return rewards_PN / 3

    @register_objective("with_form", third_of_reward)
    def with_form(rewards_n, clusters_n):
        raise AssertionError("the closed form should have been used")

    got_PN = marginal_set_advantage(REWARDS_PN, set_size=2, objective="with_form")
    torch.testing.assert_close(got_PN, (REWARDS_PN - REWARDS_PN.mean(1, keepdim=True)) / 3)


def test_listing_in_many_chunks_changes_nothing(monkeypatch):
    options = {"set_size": 2, "objective": "coverage"}
    rewards_PN, clusters_PN = REWARDS_PN.repeat(5, 1), CLUSTERS_PN.repeat(5, 1)
    mask_PN = torch.arange(4) < torch.tensor([[4], [3]] * 5)
    whole_PN = marginal_set_advantage(rewards_PN, clusters_PN, mask_PN=mask_PN, **options)
    monkeypatch.setattr(set_average, "_CHUNK", 15)
    assert torch.equal(marginal_set_advantage(rewards_PN, clusters_PN, mask_PN=mask_PN, **options), whole_PN)
    assert whole_PN.abs().sum() > 0


def test_prompt_without_rollouts_does_not_trip_an_objective_that_dislikes_zeros():
    mask_PN = torch.tensor([[True] * 4, [False] * 4])
    rewards_PN = torch.tensor([[1.0, 2, 3, 4], [1, 1, 1, 1]])
    for num_sets in [None, 3]:
        advantage_PN = marginal_set_advantage(
            rewards_PN, set_size=2, objective=lambda r, c: 1 / r.sum(-1), num_sets=num_sets, mask_PN=mask_PN
        )
        assert (advantage_PN[0] != 0).any()
        assert (advantage_PN[1] == 0).all()


def test_registering_the_same_function_again_is_allowed():
    def define():
        @register_objective("again")
        def again(rewards_n, clusters_n):
            return rewards_n.sum(-1)

        return again

    define()
    assert define() is get_objective("again").function


def test_name_of_another_function_is_refused():
    with pytest.raises(ValueError, match=r"'mean' is already verl_setpo.set_rl.objectives.mean: choose another name"):
        register_objective("mean")(lambda rewards_n, clusters_n: rewards_n.sum(-1))


def test_name_with_a_colon_is_refused():
    with pytest.raises(ValueError, match=r"'a:b' has a colon"):
        register_objective("a:b")


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            "pass_at_k",
            "'pass_at_k' is not known: use one of coverage, mean, pass_at_n, polychromic, smooth_polychromic, vendi, "
            "register it",
        ),
        (3, "3 is not known"),
        (["mean"], "is not known"),
        ("no_such_module:f", r"'no_such_module:f' cannot be imported \(ModuleNotFoundError"),
        (":f", "':f' cannot be imported"),
        ("users_objectives:missing", r"'users_objectives:missing' cannot be imported \(AttributeError"),
        ("users_objectives:number", "'users_objectives:number' is a int: give the path of a function"),
    ],
)
@pytest.mark.usefixtures("user_module")
def test_what_is_no_objective_is_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        marginal_set_advantage(REWARDS_PN, set_size=2, objective=objective)


@pytest.mark.parametrize(
    ("name", "rewards", "clusters", "value"),
    [
        ("polychromic", [1.0, 1, 0, 0], [0, 1, 2, 2], 0.5 * 3 / 4),
        ("polychromic", [1.0, 1, 1, 1], [0, 0, 0, -1], 0.0),
        ("polychromic", [1.0, 1, 1, 1], [-1, -1, -1, -1], 0.0),
        ("pass_at_n", [-0.5, -0.25], None, -0.25),
        ("mean", [1.0, 0.5], None, 0.75),
        ("coverage", [1.0, 1, 0.5, 1], [0, 0, 1, -1], 1 / 4),
        ("coverage", [1.0, 1, 0.6, 1], [0, 0, 1, 2], 3 / 4),
    ],
)
def test_value_of_a_set(name, rewards, clusters, value):
    rewards_n = torch.tensor(rewards, dtype=torch.float64)
    clusters_n = None if clusters is None else torch.tensor(clusters)
    assert get_objective(name).function(rewards_n, clusters_n).item() == pytest.approx(value, abs=1e-15)


def test_single_cluster_is_paid_when_asked():
    rewards_n, clusters_n = torch.ones(4), torch.tensor([0, 0, 0, -1])
    assert objectives.polychromic(rewards_n, clusters_n, zero_single_cluster=False).item() == 0.25
