"""The Gaussian kernel, and what both kernels of embeddings make of half precision."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import quick

from verl_setpo.set_rl import cosine_kernel, rbf_kernel, set_loo


def gaussian(left, right, bandwidth):
    return math.exp(-math.fsum((a - b) ** 2 for a, b in zip(left, right, strict=True)) / (2 * bandwidth**2))


def clamped_cosine(left, right):
    dot = math.fsum(a * b for a, b in zip(left, right, strict=True))
    return min(max(dot / (math.hypot(*left) * math.hypot(*right)), 0.0), 1.0)


@pytest.mark.parametrize(
    ("distance", "similarity"),
    [(0.0, 1.0), (1.0, math.exp(-0.5)), (2.0, math.exp(-2)), (0.5, math.exp(-0.125)), (40.0, 0.0)],
)
@pytest.mark.parametrize("bandwidth", [0.25, 1.0, 300.0])
def test_similarity_at_distances_in_bandwidths(distance, similarity, bandwidth):
    step = bandwidth * distance
    vectors_PND = torch.tensor([[[0.0, 0.0], [0.6 * step, 0.8 * step]]], dtype=torch.float64)
    assert rbf_kernel(vectors_PND, bandwidth=bandwidth)[0, 0, 1].item() == pytest.approx(similarity, abs=1e-15)


def test_median_of_the_group_plays_no_part():
    """A collapsed group looks collapsed, whatever the others are like."""
    near_PND = torch.tensor([[[0.0], [1e-3], [2e-3]]], dtype=torch.float64)
    assert (rbf_kernel(near_PND, bandwidth=0.5) > 0.99999).all()
    pair_PNN = rbf_kernel(near_PND, bandwidth=0.5)[:, :2, :2]
    far_PND = torch.cat([near_PND[:, :2], torch.full((1, 1, 1), 1e6, dtype=torch.float64)], 1)
    assert torch.equal(rbf_kernel(far_PND, bandwidth=0.5)[:, :2, :2], pair_PNN)


@quick
@given(
    seed=st.integers(0, 9999),
    count=st.integers(1, 9),
    size=st.integers(1, 40),
    bandwidth=st.floats(0.05, 20),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_rbf_kernel_equals_its_formula_on_the_embeddings_as_given(seed, count, size, bandwidth, dtype):
    vectors_PND = torch.randn(2, count, size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    mask_PN = torch.rand(2, count, generator=torch.Generator().manual_seed(seed)) < 0.8
    kernel_PNN = rbf_kernel(vectors_PND.masked_fill(~mask_PN[..., None], math.nan), mask_PN, bandwidth=bandwidth)
    assert kernel_PNN.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(kernel_PNN, kernel_PNN.mT)
    assert torch.equal(kernel_PNN.diagonal(dim1=1, dim2=2), mask_PN.to(kernel_PNN.dtype))
    assert_kernel(kernel_PNN, vectors_PND, mask_PN, lambda a, b: gaussian(a, b, bandwidth))
    set_loo(kernel_PNN, mask_PN)


@quick
@given(
    seed=st.integers(0, 9999),
    count=st.integers(1, 9),
    size=st.integers(1, 40),
    length=st.integers(-3, 3),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_cosine_kernel_is_as_exact_as_the_embeddings_as_given(seed, count, size, length, dtype):
    """Half precision rounds the embeddings, and nothing after them: sums of 8 bits would be off by 1e-2."""
    generator = torch.Generator().manual_seed(seed)
    vectors_PND = (torch.randn(2, count, size, generator=generator) * 10.0**length + 0.1).to(dtype)
    mask_PN = torch.rand(2, count, generator=generator) < 0.8
    kernel_PNN = cosine_kernel(vectors_PND.masked_fill(~mask_PN[..., None], math.nan), mask_PN)
    assert kernel_PNN.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_kernel(kernel_PNN, vectors_PND, mask_PN, clamped_cosine)


def assert_kernel(kernel_PNN, vectors_PND, mask_PN, similarity):
    """Each entry to the last bit or two of its dtype, masked ones exactly 0."""
    tolerance = 1e-13 if kernel_PNN.dtype == torch.float64 else 7e-8
    vectors = vectors_PND.double().tolist()
    for p, i, j in torch.ones_like(kernel_PNN).nonzero().tolist():
        expected = similarity(vectors[p][i], vectors[p][j]) if mask_PN[p, i] and mask_PN[p, j] else 0.0
        assert kernel_PNN[p, i, j].item() == pytest.approx(expected, abs=tolerance if expected else 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_of_large_entries_do_not_overflow(dtype):
    """Squares of 60000 are beyond float16."""
    vectors_PND = torch.tensor([[[60000.0, 0.0], [60000.0, 60000.0], [0.0, -60000.0]]]).to(dtype)
    expected = [[1, math.sqrt(0.5), 0], [math.sqrt(0.5), 1, 0], [0, 0, 1]]
    torch.testing.assert_close(cosine_kernel(vectors_PND)[0], torch.tensor(expected))
    entry = vectors_PND[0, 0, 0].item()
    assert rbf_kernel(vectors_PND, bandwidth=entry)[0, 0, 1].item() == pytest.approx(math.exp(-0.5), abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_kernel_gives_the_credit_of_its_entries(dtype):
    """A kernel in half precision is taken at its word, and the credit of it is float32."""
    vectors_PND = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    kernel_PNN = cosine_kernel(vectors_PND).to(dtype)
    credit_PN = set_loo(kernel_PNN)
    assert credit_PN.dtype == torch.float32
    torch.testing.assert_close(credit_PN.double(), set_loo(kernel_PNN.double()), rtol=0, atol=1e-8)


@pytest.mark.parametrize("count", [3, 30, 200])
def test_near_neighbours_far_from_the_origin_keep_their_digits(count):
    """|a|^2 + |b|^2 - 2ab would lose all of 1e-6 beside 1e3; and which way distances are found must not hang on N."""
    vectors_PND = 1e3 + 1e-6 * torch.rand(1, count, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel_PNN = rbf_kernel(vectors_PND, bandwidth=1e-6)
    vectors = vectors_PND[0].tolist()
    for i, j in [(0, 1), (1, 2), (0, count - 1)]:
        expected = gaussian(vectors[i], vectors[j], 1e-6)
        assert 0.1 < expected < 0.999
        assert kernel_PNN[0, i, j].item() == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("length", [1e-100, 1e100])
def test_distances_of_any_size_against_a_bandwidth_of_any_size(length):
    vectors_PND = torch.tensor([[[0.0, 0.0], [0.0, length]]], dtype=torch.float64)
    for bandwidth in (1e-300, 1e-5, 1.0, 1e5, 1e300):
        expected = math.exp(-0.5 * min(length / bandwidth, 1e9) ** 2)
        assert rbf_kernel(vectors_PND, bandwidth=bandwidth)[0, 0, 1].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bandwidth", [0, -1.0, math.nan, math.inf])
def test_bandwidth_that_is_none_is_refused(bandwidth):
    with pytest.raises(
        ValueError, match=r"bandwidth must be a number above 0, got .*: try 0.5 for vectors of length 1"
    ):
        rbf_kernel(torch.zeros(1, 3, 2), bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("embeddings_PND", "message"),
    [
        (torch.zeros(3, 4), r"embeddings_PND must be floats of shape"),
        (torch.zeros(1, 3, 4).long(), r"embeddings_PND must be floats"),
        (torch.full((1, 3, 4), math.nan), "embeddings_PND holds NaN or infinity at an unmasked place"),
    ],
)
def test_embeddings_that_are_none_are_refused(embeddings_PND, message):
    with pytest.raises(ValueError, match=message):
        rbf_kernel(embeddings_PND, bandwidth=1.0)
