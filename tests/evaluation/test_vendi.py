"""The Vendi score against its closed forms, and against the set objective of the same name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_setpo.evaluation import vendi_score
from verl_setpo.set_rl import cosine_kernel, equality_kernel
from verl_setpo.set_rl.objectives import vendi


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_all_different_samples_count_as_n_and_all_alike_as_one(n: int) -> None:
    np.testing.assert_allclose(vendi_score(np.stack([np.eye(n), np.ones((n, n))])), [n, 1], rtol=1e-12)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
@settings(deadline=None)
def test_of_equal_clusters_it_is_the_exponential_of_the_entropy_of_their_shares(clusters: list[int]) -> None:
    share = np.unique(clusters, return_counts=True)[1] / len(clusters)
    score = vendi_score(equality_kernel(torch.tensor([clusters])))
    assert score.dtype == np.float64
    np.testing.assert_allclose(score, [np.exp(-(share * np.log(share)).sum())], rtol=1e-12)


@pytest.mark.parametrize("similarity", [0.0, 0.25, 0.999, 1.0])
def test_two_samples_have_the_entropy_of_half_one_plus_and_minus_their_similarity(similarity: float) -> None:
    eigenvalues = np.array([1 + similarity, 1 - similarity]) / 2
    expected = np.prod(eigenvalues**-eigenvalues)
    np.testing.assert_allclose(vendi_score([[[1.0, similarity], [similarity, 1.0]]]), [expected], rtol=1e-12)


def test_more_similar_samples_count_less() -> None:
    n = 6
    kernels = [np.eye(n) * (1 - s) + s for s in np.linspace(0, 1, 11)]
    assert (np.diff(vendi_score(np.stack(kernels))) < 0).all()


def test_masked_samples_are_not_there_whatever_stands_at_their_place() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 7, 4))
    kernel = np.array(cosine_kernel(torch.tensor(vectors)))
    mask = np.arange(7) < np.array([7, 3, 1])[:, None]
    spoiled = np.where(mask[:, :, None] & mask[:, None, :], kernel, np.nan)
    scores = vendi_score(spoiled, mask)
    for p, size in enumerate((7, 3, 1)):
        assert scores[p] == pytest.approx(vendi_score(kernel[p : p + 1, :size, :size])[0], rel=1e-12)


def test_a_problem_without_samples_has_no_score() -> None:
    scores = vendi_score(np.stack([np.eye(2), np.eye(2)]), [[True, True], [False, False]])
    assert scores[0] == pytest.approx(2)
    assert np.isnan(scores[1])
    assert vendi_score(np.zeros((0, 4, 4))).shape == (0,)


def test_equals_the_set_objective_where_all_rewards_are_1() -> None:
    # Clamped cosines: some of these kernels have negative eigenvalues.
    kernel = cosine_kernel(torch.tensor(np.random.default_rng(1).normal(size=(200, 9, 3))))
    assert (torch.linalg.eigvalsh(kernel) < -1e-3).any()
    objective = 9 * vendi(torch.ones(200, 9, dtype=torch.float64), None, kernel)
    np.testing.assert_allclose(vendi_score(kernel), objective.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "mask", "message"),
    [
        (np.eye(3), None, "shape"),
        (np.ones((1, 2, 3)), None, "shape"),
        (np.eye(3, dtype=int)[None], None, "floats"),
        (np.full((1, 2, 2), np.nan), None, "NaN"),
        (np.array([[[1.0, 0.5], [0.1, 1.0]]]), None, "not symmetric"),
        (np.array([[[2.0, 0.5], [0.5, 1.0]]]), None, "not 1 on its diagonal"),
        (np.eye(2)[None], [[True]], "mask_PN"),
        (np.eye(2)[None], [[1, 1]], "mask_PN"),
    ],
)
def test_what_is_no_kernel_is_an_error(kernel: np.ndarray, mask: list | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vendi_score(kernel, mask)
