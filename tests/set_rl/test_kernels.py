"""Kernels: what `set_loo` asks of them, and the embeddings that are easy to get wrong."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import quick

from verl_setpo.set_rl import cosine_kernel, equality_kernel, set_loo


@st.composite
def embeddings(draw):
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    vectors_PND = torch.randn(shape, generator=generator, dtype=draw(st.sampled_from([torch.float32, torch.float64])))
    vectors_PND *= 10.0 ** draw(st.integers(-25, 25))
    zero_PN = torch.rand(shape[:2], generator=generator) < 0.2
    return vectors_PND.masked_fill(zero_PN[..., None], 0.0)


@quick
@given(embeddings())
def test_cosine_kernel_is_symmetric_in_the_unit_interval_with_unit_diagonal(vectors_PND):
    kernel_PNN = cosine_kernel(vectors_PND)
    assert torch.equal(kernel_PNN, kernel_PNN.mT)
    assert (kernel_PNN >= 0).all()
    assert (kernel_PNN <= 1).all()
    assert (kernel_PNN.diagonal(dim1=1, dim2=2) == 1).all()
    set_loo(kernel_PNN)


@pytest.mark.parametrize("count", [5, 7, 16, 33])
def test_cosine_kernel_is_symmetric_to_the_last_bit_where_matrix_products_are_not(count):
    vectors_PND = torch.randn(2, count, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel_PNN = cosine_kernel(vectors_PND)
    assert torch.equal(kernel_PNN, kernel_PNN.mT)


@quick
@given(embeddings())
def test_cosine_kernel_equals_the_cosine_at_any_scale(vectors_PND):
    unit_PND = torch.nn.functional.normalize(vectors_PND.double(), dim=-1, eps=1e-300)
    expected_PNN = torch.einsum("pid,pjd->pij", unit_PND, unit_PND).clamp(0, 1)
    zero_PN = (vectors_PND == 0).all(-1)
    live_PNN = ~zero_PN[:, :, None] & ~zero_PN[:, None, :]
    torch.testing.assert_close(cosine_kernel(vectors_PND).double()[live_PNN], expected_PNN[live_PNN], rtol=0, atol=1e-6)


def test_extreme_lengths_neither_overflow_nor_underflow():
    for scale in [1e-300, 1e300]:
        vectors_PND = torch.tensor([[[3.0, 4.0], [4.0, 3.0]]], dtype=torch.float64) * scale
        assert cosine_kernel(vectors_PND)[0, 0, 1].item() == pytest.approx(0.96)


def test_opposite_directions_have_similarity_zero():
    assert cosine_kernel(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]))[0].tolist() == [[1, 0], [0, 1]]


def test_zero_vectors_are_alike_and_unlike_all_others():
    kernel_PNN = cosine_kernel(torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]]))
    assert kernel_PNN[0].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_same_direction_has_similarity_one():
    vectors_PND = torch.randn(1, 1, 1024, generator=torch.Generator().manual_seed(0))
    assert (cosine_kernel(torch.cat([vectors_PND, vectors_PND, 3 * vectors_PND], 1)) == 1).all()


@pytest.mark.parametrize("junk", [math.nan, math.inf, 5.0])
def test_masked_embeddings_leak_neither_value_nor_gradient(junk):
    vectors_PND = torch.tensor([[[1.0, 2.0], [junk, junk], [2.0, 1.0]]], requires_grad=True)
    kernel_PNN = cosine_kernel(vectors_PND, torch.tensor([[1, 0, 1]]))
    expected = [[1, 0, 0.8], [0, 0, 0], [0.8, 0, 1]]
    torch.testing.assert_close(kernel_PNN[0].detach(), torch.tensor(expected))
    kernel_PNN.sum().backward()
    assert torch.isfinite(vectors_PND.grad).all()
    assert (vectors_PND.grad[0, 1] == 0).all()


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtype_of_the_kernel_follows_the_embeddings(given_dtype, expected):
    kernel_PNN = cosine_kernel(torch.randn(2, 4, 8).to(given_dtype))
    assert kernel_PNN.dtype == expected
    set_loo(kernel_PNN)


def test_equality_kernel_is_one_within_a_cluster():
    kernel_PNN = equality_kernel(torch.tensor([[4, 4, -1, -1, 9]]), torch.tensor([[True, True, True, True, False]]))
    expected = [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]
    assert kernel_PNN.dtype == torch.float32
    assert kernel_PNN[0].tolist() == expected


def test_equality_kernel_equals_the_cosine_of_one_hot_vectors():
    clusters_PN = torch.tensor([[0, 2, 2, 1], [3, 3, 3, 3]])
    one_hot_PND = torch.nn.functional.one_hot(clusters_PN, 4).float()
    assert torch.equal(equality_kernel(clusters_PN), cosine_kernel(one_hot_PND))
