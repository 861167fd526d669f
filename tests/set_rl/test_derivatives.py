"""Derivatives: Theorem 4.4 through every way into `set_loo`, and gradcheck of all that is differentiable."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_loo_reference import as_kernel, ragged, random_grains, user_shaping
from set_rl_reference import quick

from verl_setpo.set_rl import cosine_kernel, group_diversity, rbf_kernel, set_loo, set_loo_decomposition

SLOPES = {
    "neg_log1p": lambda m: -1 / (1 + m),
    "linear": lambda m: -1.0,
    "neg_square": lambda m: -2 * m,
    "exp": lambda m: -math.exp(-m),
    user_shaping: lambda m: -0.25 - 3 * m * m,
}
SHAPINGS = pytest.mark.parametrize("shaping", SLOPES, ids=lambda g: g if isinstance(g, str) else "user")


def slopes_of_credit(kernel_PNN, mask_PN, p, i, **options):
    """ds_i/dk_it for every t, where k_it and k_ti are one variable."""
    leaf_PNN = kernel_PNN.clone().requires_grad_()
    (gradient_PNN,) = torch.autograd.grad(set_loo(leaf_PNN, mask_PN, **options)[p, i], leaf_PNN)
    return gradient_PNN, (gradient_PNN + gradient_PNN.mT)[p, i]


def assert_theorem_4_4(kernel_PNN, mask_PN, p, members, shaping, tolerance=1e-14, **options):
    """(g'(m_i) + g'(m_t)) / (N(N-1)) < 0, with masses from their definition; N is the prompt's own."""
    kernel, count = kernel_PNN[p].tolist(), len(members)
    slope = {j: SLOPES[shaping](math.fsum(kernel[j][z] for z in members if z != j) / (count - 1)) for j in members}
    for i in members[:5]:
        whole_PNN, got_N = slopes_of_credit(kernel_PNN, mask_PN, p, i, shaping=shaping, **options)
        for t in members:
            if t != i:
                expected = (slope[i] + slope[t]) / (count * (count - 1))
                assert got_N[t].item() == pytest.approx(expected, abs=tolerance)
                assert got_N[t] < 0 or slope[i] + slope[t] == 0
        assert (got_N[[t for t in range(len(got_N)) if t not in members]] == 0).all()
        assert (whole_PNN[[q for q in range(len(whole_PNN)) if q != p]] == 0).all()  # nor through other prompts


@SHAPINGS
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("junk", [math.nan, math.inf, -3.0])
def test_theorem_4_4_in_ragged_groups(shaping, check, junk):
    kernel_PNN, mask_PN, prompts = ragged([5, 3, 2, 8, 0], width=9, seed=5, junk=junk)
    for p, (columns, _) in enumerate(prompts):
        if len(columns) >= 3:
            assert_theorem_4_4(kernel_PNN, mask_PN, p, columns.tolist(), shaping, check=check)


@SHAPINGS
@pytest.mark.parametrize("kind", ["any", "near", "far", "clusters"])
def test_theorem_4_4_without_a_check(shaping, kind):
    for count in (3, 4, 7):
        kernel_PNN = as_kernel(random_grains(count, 2, kind))[None]
        assert_theorem_4_4(kernel_PNN, None, 0, list(range(count)), shaping, check=False)


@pytest.mark.parametrize("check", [True, False])
def test_theorem_4_4_where_the_product_of_factors_is_split(check):
    kernel_PNN = as_kernel(random_grains(300, 0))[None]
    assert_theorem_4_4(kernel_PNN, None, 0, list(range(300)), "neg_log1p", tolerance=1e-17, check=check)


@quick
@given(count=st.integers(3, 7), seed=st.integers(0, 999), shaping=st.sampled_from(list(SLOPES)), check=st.booleans())
def test_centring_takes_the_mean_slope_away(count, seed, shaping, check):
    """Centred: ds_i/dk_tu less the mean over i; so raising a similarity moves credit within the group only."""
    kernel_PNN = as_kernel(random_grains(count, seed))[None]
    raw_NNN, centred_NNN = (
        torch.autograd.functional.jacobian(partial(set_loo, shaping=shaping, center=center, check=check), kernel_PNN)[0]
        for center in (False, True)
    )
    torch.testing.assert_close(centred_NNN, raw_NNN - raw_NNN.mean(0), rtol=0, atol=1e-15)


def test_gradient_passes_where_a_credit_reads_as_exactly_zero():
    """All rollouts equally similar: no credit, but the derivative of Theorem 4.4 is there."""
    kernel_PNN = torch.full((1, 4, 4), 0.5, dtype=torch.float64).diagonal_scatter(torch.ones(1, 4), dim1=1, dim2=2)
    assert (set_loo(kernel_PNN) == 0).all()
    assert_theorem_4_4(kernel_PNN, None, 0, [0, 1, 2, 3], "neg_log1p")


MASK_PN = torch.tensor([[True, True, True, True, False], [True] * 5, [True, True, False, False, False]])
ROWS, COLUMNS = torch.triu_indices(5, 5, 1)


def kernels_from(similarities_PX):
    """Symmetric kernels from their upper triangles, so that gradcheck's small steps stay symmetric."""
    eye_PNN = torch.eye(5, dtype=similarities_PX.dtype).repeat(len(similarities_PX), 1, 1)
    prompt_P1 = torch.arange(len(similarities_PX))[:, None]
    upper_PNN = eye_PNN.index_put((prompt_P1, ROWS, COLUMNS), similarities_PX)
    return upper_PNN.index_put((prompt_P1, COLUMNS, ROWS), similarities_PX)


@SHAPINGS
@pytest.mark.parametrize("mask_PN", [None, MASK_PN], ids=["full", "ragged"])
@pytest.mark.parametrize(
    "function",
    [
        set_loo,
        lambda *arguments: set_loo(*arguments, center=True),
        lambda *arguments: set_loo(*arguments, check=False),
        group_diversity,
        lambda *arguments: group_diversity(*arguments, check=False),
        lambda *arguments: tuple(set_loo_decomposition(*arguments)),
    ],
    ids=["set_loo", "centred", "unchecked", "group_diversity", "diversity unchecked", "terms"],
)
def test_gradcheck_of_credits(function, mask_PN, shaping):
    generator = torch.Generator().manual_seed(0)
    similarities_PX = torch.rand(3, len(ROWS), generator=generator, dtype=torch.float64).mul(0.8).add(0.1)
    similarities_PX.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(kernels_from(x), mask_PN, shaping), similarities_PX)


EMBEDDINGS_PND = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


KERNELS = pytest.mark.parametrize("kernel", [cosine_kernel, partial(rbf_kernel, bandwidth=1.5)], ids=["cosine", "rbf"])


@KERNELS
@pytest.mark.parametrize("mask_PN", [None, MASK_PN], ids=["full", "ragged"])
def test_gradcheck_of_kernels(kernel, mask_PN):
    vectors_PND = EMBEDDINGS_PND.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: kernel(e, mask_PN), vectors_PND)


@pytest.mark.parametrize("scale", [1e-100, 1e-3, 1e3, 1e100])
def test_gradient_of_the_cosine_is_that_of_unit_length_over_the_length(scale):
    def gradient(vectors_PND):
        leaf_PND = vectors_PND.clone().requires_grad_()
        return torch.autograd.grad(cosine_kernel(leaf_PND, MASK_PN).square().sum(), leaf_PND)[0]

    plain_PND = gradient(EMBEDDINGS_PND)
    torch.testing.assert_close(gradient(EMBEDDINGS_PND * scale) * scale, plain_PND, rtol=1e-12, atol=1e-14)
    assert plain_PND.abs().max() > 0.1


@KERNELS
def test_gradcheck_from_embeddings_to_credit(kernel):
    """Through the checked kernel: what one would train an embedding with."""
    vectors_PND = EMBEDDINGS_PND.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: set_loo(kernel(e, MASK_PN), MASK_PN), vectors_PND)


@pytest.mark.parametrize("kind", ["equal", "zero", "opposite", "parallel"])
@KERNELS
def test_special_embeddings_have_finite_gradients(kernel, kind):
    """Where a root or a quotient would have none: distance 0, length 0, cosine 1 and -1."""
    vectors_PND = EMBEDDINGS_PND[:1].clone()
    vectors_PND[0, 1] = {"equal": 1.0, "zero": 0.0, "opposite": -1.0, "parallel": 2.0}[kind] * vectors_PND[0, 0]
    if kind == "zero":
        vectors_PND[0, 2] = 0
    vectors_PND.requires_grad_()
    set_loo(kernel(vectors_PND)).square().sum().backward()
    assert torch.isfinite(vectors_PND.grad).all()
    assert vectors_PND.grad.abs().max() > 0
