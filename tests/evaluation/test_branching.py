"""The prefix tree of the rollouts of a prompt, against sets of prefixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_setpo.evaluation import branches_by_position, parting_position

GROUPS = st.lists(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=6), max_size=3)


@given(GROUPS, st.none() | st.integers(1, 9))
@settings(deadline=None)
def test_counts_the_different_beginnings(groups: list[list[list[int]]], num_positions: int | None) -> None:
    longest = max((len(ids) for group in groups for ids in group), default=0)
    positions = range(1, (longest if num_positions is None else num_positions) + 1)
    kept = branches_by_position(groups, num_positions=num_positions)
    assert kept.shape == (len(groups), len(positions))
    for branches_T, group in zip(kept, groups, strict=True):
        ended = [ids + [-1] * 9 for ids in group]
        assert branches_T.tolist() == [len({tuple(ids[:t]) for ids in ended}) for t in positions]
    alive = branches_by_position(groups, num_positions=num_positions, keep_finished=False)
    for branches_T, group in zip(alive, groups, strict=True):
        assert branches_T.tolist() == [len({tuple(ids[:t]) for ids in group if len(ids) >= t}) for t in positions]


def test_finished_rollouts_keep_their_branch_or_leave() -> None:
    group = [[5, 6], [5, 6, 7, 8], [5, 9, 9], [5, 6, 7, 8]]
    assert branches_by_position([group]).tolist() == [[1, 2, 3, 3]]
    assert branches_by_position([group], keep_finished=False).tolist() == [[1, 2, 2, 1]]


def test_the_last_position_has_all_different_rollouts() -> None:
    rng = np.random.default_rng(0)
    group = [rng.integers(0, 3, size=rng.integers(0, 12)) for _ in range(64)]
    assert branches_by_position([group])[0, -1] == len({tuple(ids.tolist()) for ids in group})


def test_tensors_and_arrays_are_token_ids() -> None:
    assert branches_by_position([[torch.tensor([1, 2]), np.array([1, 3], dtype=np.int32), [1, 2]]]).tolist() == [[1, 2]]


def test_two_rollouts_part_at_their_first_different_token() -> None:
    common = list(range(40))
    branches = branches_by_position([[[*common, 1, 5, 5], [*common, 2, 5, 5]]])
    assert parting_position(branches).tolist() == [41]
    assert parting_position(branches, 1.0).tolist() == [41]


def test_half_of_the_partings() -> None:
    # Five rollouts part at the tokens 2, 2, 4 and 6.
    group = [[0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
    branches = branches_by_position([group])
    assert branches.tolist() == [[1, 3, 3, 4, 4, 5]]
    assert [parting_position(branches, share)[0] for share in (0.25, 0.5, 0.51, 0.75, 1.0)] == [2, 2, 4, 4, 6]


def test_rollouts_that_are_all_the_same_never_part() -> None:
    branches = branches_by_position([[[1, 2, 3]] * 4, [[1, 2, 3], [2]], []])
    position = parting_position(branches)
    assert np.isnan(position[[0, 2]]).all()
    assert position[1] == 1
    assert np.isnan(parting_position(branches_by_position([[[], []]]))).all()


@pytest.mark.parametrize("ids", ["1 2", [1.0], ["a"], [[1, 2]], None, [True, False], [None]])
def test_what_is_no_list_of_token_ids_is_an_error(ids: object) -> None:
    with pytest.raises(TypeError, match="rollout 1 of prompt 0 must be a list of integer token ids"):
        branches_by_position([[[1], ids]])


def test_bad_arguments_are_errors() -> None:
    with pytest.raises(ValueError, match="num_positions must be at least 1"):
        branches_by_position([[[1]]], num_positions=0)
    with pytest.raises(ValueError, match="share must be above 0"):
        parting_position([[1, 2]], 0)
    with pytest.raises(ValueError, match="keep_finished=True"):
        parting_position([[1, 2, 1]])
    with pytest.raises(ValueError, match="shape"):
        parting_position([1, 2])
    with pytest.raises(TypeError, match="integers"):
        parting_position([[1.0, 2.0]])
