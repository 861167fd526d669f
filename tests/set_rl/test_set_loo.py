"""SetPO's credit against its definition and theorems (arXiv 2602.01062)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import quick

from verl_setpo.set_rl import SHAPINGS, equality_kernel, set_loo

SCALAR_SHAPINGS = {
    "neg_log1p": lambda m: -math.log1p(m),
    "linear": lambda m: 1 - m,
    "neg_square": lambda m: -m * m,
    "exp": lambda m: math.exp(-m),
}
SLOPES = {
    "neg_log1p": lambda m: -1 / (1 + m),
    "linear": lambda m: -torch.ones_like(m),
    "neg_square": lambda m: -2 * m,
    "exp": lambda m: -torch.exp(-m),
}
shaping_names = st.sampled_from(sorted(SHAPINGS))


@st.composite
def kernels(draw, min_rollouts=3):
    """One prompt's symmetric kernel in [0, 1] with 1 on the diagonal."""
    count = draw(st.integers(min_rollouts, 7))
    similarity = st.one_of(st.sampled_from([0.0, 0.3, 1.0]), st.floats(0, 1))
    kernel_NN = torch.eye(count, dtype=torch.float64)
    for i in range(count):
        for j in range(i):
            kernel_NN[i, j] = kernel_NN[j, i] = draw(similarity)
    return kernel_NN


def mass(kernel, y, members):
    return sum(kernel[y][z] for z in members if z != y) / (len(members) - 1)


def diversity(kernel, members, shape):
    return sum(shape(mass(kernel, y, members)) for y in members) / len(members)


def credit_by_definition(kernel_NN, shape):
    """Eq. 3 and 4, one leave-one-out set after the other: O(N^3)."""
    kernel, everyone = kernel_NN.tolist(), list(range(len(kernel_NN)))
    whole = diversity(kernel, everyone, shape)
    return [whole - diversity(kernel, [j for j in everyone if j != i], shape) for i in everyone]


@quick
@given(kernels(), shaping_names)
def test_lemma_d1_equals_the_definition(kernel_NN, shaping):
    expected = credit_by_definition(kernel_NN, SCALAR_SHAPINGS[shaping])
    assert set_loo(kernel_NN[None], shaping=shaping)[0].tolist() == pytest.approx(expected, abs=1e-12)


@quick
@given(kernels(), shaping_names)
def test_theorem_4_3(kernel_NN, shaping):
    """Own diversity, the group's, and the crowding that a rollout brings to the others."""
    count = len(kernel_NN)
    g = SHAPINGS[shaping]
    off_NN = kernel_NN - torch.eye(count)
    mass_N = off_NN.sum(1) / (count - 1)
    without_NN = (off_NN.sum(1, keepdim=True) - off_NN) / (count - 2)
    crowding_NN = (g(mass_N)[:, None] - g(without_NN)).fill_diagonal_(0)
    others_N = g(mass_N).sum() - g(mass_N)
    expected_N = g(mass_N) / count + (1 / count - 1 / (count - 1)) * others_N + crowding_NN.sum(0) / (count - 1)
    torch.testing.assert_close(set_loo(kernel_NN[None], shaping=shaping)[0], expected_N, rtol=0, atol=1e-12)


def assert_theorem_4_4(kernel_NN, shaping):
    """ds_i/dk_it = (g'(m_i) + g'(m_t)) / (N(N-1)), with k_it and k_ti one variable."""
    count = len(kernel_NN)
    slope_N = SLOPES[shaping]((kernel_NN.sum(1) - 1) / (count - 1))
    for i in range(count):
        kernel_PNN = kernel_NN[None].clone().requires_grad_()
        set_loo(kernel_PNN, shaping=shaping)[0, i].backward()
        slope = (kernel_PNN.grad[0] + kernel_PNN.grad[0].T)[i]
        expected = (slope_N[i] + slope_N) / (count * (count - 1))
        others = torch.arange(count) != i
        torch.testing.assert_close(slope[others], expected[others], rtol=0, atol=1e-12)
        if shaping != "neg_square":  # whose slope is 0 at mass 0
            assert (slope[others] < 0).all()


@quick
@given(kernels(), shaping_names)
def test_theorem_4_4_more_similar_means_less_credit(kernel_NN, shaping):
    assert_theorem_4_4(kernel_NN, shaping)


def test_mass_that_rounding_carries_past_one_keeps_value_and_gradient():
    def kernel(similarity):
        kernel_NN = torch.ones(4, 4, dtype=torch.float64)
        kernel_NN[0, 1] = kernel_NN[1, 0] = similarity
        return kernel_NN[None]

    assert (((0.32 + 1.0) + 1.0) - 0.32) / 2 > 1  # the mass of rollout 0 without rollout 1
    slopes = [torch.autograd.functional.jacobian(set_loo, kernel(similarity)) for similarity in (0.32, 0.3200001)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-6)
    assert torch.isfinite(set_loo(kernel(0.32), shaping=lambda mass: (1 - mass) ** 1.5)).all()


@quick
@given(kernels(), shaping_names, st.data())
def test_rarer_rollout_gets_more_credit(kernel_NN, shaping, data):
    """Theorem 4.5: no more similar to every other rollout, and clearly less to one."""
    count = len(kernel_NN)
    for j in range(2, count):
        common = data.draw(st.floats(0.05, 1))
        rare = data.draw(st.floats(0, common)) if j > 2 else data.draw(st.floats(0, common - 0.04))
        kernel_NN[0, j] = kernel_NN[j, 0] = rare
        kernel_NN[1, j] = kernel_NN[j, 1] = common
    credit_N = set_loo(kernel_NN[None], shaping=shaping)[0]
    assert credit_N[0] > credit_N[1]


@quick
@given(kernels(), shaping_names, st.randoms(use_true_random=False))
def test_permuting_rollouts_permutes_credit(kernel_NN, shaping, rng):
    order = list(range(len(kernel_NN)))
    rng.shuffle(order)
    plain_N = set_loo(kernel_NN[None], shaping=shaping)[0]
    moved_N = set_loo(kernel_NN[order][:, order][None], shaping=shaping)[0]
    torch.testing.assert_close(moved_N, plain_N[order], rtol=0, atol=1e-13)


@quick
@given(kernels(min_rollouts=1), st.integers(1, 3), st.sampled_from([math.nan, math.inf, -7.0]), st.randoms())
def test_masked_places_leak_neither_value_nor_gradient(kernel_NN, extra, junk, rng):
    count = len(kernel_NN)
    places = sorted(rng.sample(range(count + extra), count))
    padded_PNN = torch.full((1, count + extra, count + extra), junk, dtype=torch.float64)
    padded_PNN[0, torch.tensor(places)[:, None], torch.tensor(places)] = kernel_NN
    mask_PN = torch.zeros(1, count + extra, dtype=torch.bool)
    mask_PN[0, places] = True
    padded_PNN.requires_grad_()
    plain_PNN = kernel_NN[None].clone().requires_grad_()

    padded_PN, plain_PN = set_loo(padded_PNN, mask_PN), set_loo(plain_PNN)
    torch.testing.assert_close(padded_PN[mask_PN], plain_PN[0], rtol=0, atol=1e-13)
    assert (padded_PN[~mask_PN] == 0).all()
    padded_PN.square().sum().backward()
    plain_PN.square().sum().backward()
    grad_PNN = padded_PNN.grad
    pair_PNN = mask_PN[:, :, None] & mask_PN[:, None, :]
    torch.testing.assert_close(grad_PNN[pair_PNN], plain_PNN.grad.flatten(), rtol=0, atol=1e-13)
    assert (grad_PNN[~pair_PNN] == 0).all()


@pytest.mark.parametrize("shaping", [lambda mass: (1 - mass).sqrt(), lambda mass: -mass.sqrt()])
def test_shaping_with_a_pole_gets_no_nan_from_masked_places(shaping):
    kernel_PNN = torch.full((1, 4, 4), 0.5, dtype=torch.float64).diagonal_scatter(torch.ones(1, 4), dim1=1, dim2=2)
    kernel_PNN.requires_grad_()
    set_loo(kernel_PNN, torch.tensor([[True, True, True, False]]), shaping=shaping).square().sum().backward()
    assert torch.isfinite(kernel_PNN.grad).all()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_rollouts_get_no_credit(count):
    mask_PN = torch.arange(4)[None] < count
    kernel_PNN = torch.eye(4)[None].requires_grad_()
    credit_PN = set_loo(kernel_PNN, mask_PN)
    assert (credit_PN == 0).all()
    credit_PN.sum().backward()
    assert (kernel_PNN.grad == 0).all()


@pytest.mark.parametrize("count", range(3, 12))
@pytest.mark.parametrize("similarity", [0.0, 0.37, 1.0])
def test_equally_similar_rollouts_get_exactly_no_credit(count, similarity):
    kernel_NN = torch.full((count, count), similarity, dtype=torch.float64).fill_diagonal_(1)
    assert (set_loo(kernel_NN[None]) == 0).all()


def test_lone_answer_gets_most_credit_among_equal_ones():
    credit_N = set_loo(equality_kernel(torch.tensor([[0] * 7 + [1]])))[0]
    assert credit_N[7] > 0
    assert (credit_N[:7] < 0).all()
    assert credit_N[7].item() == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize(("count", "credit"), [(4, 0.310), (8, 0.151), (16, 0.075), (32, 0.037)])
def test_credit_of_a_lone_answer_falls_as_the_group_grows(count, credit):
    credit_N = set_loo(equality_kernel(torch.tensor([[1] + [0] * (count - 1)])))[0]
    assert credit_N[0].item() == pytest.approx(credit, abs=5e-4)


def test_ragged_prompts_do_not_touch_each_other():
    generator = torch.Generator().manual_seed(0)
    kernel_PNN = torch.rand(3, 6, 6, generator=generator, dtype=torch.float64)
    kernel_PNN = ((kernel_PNN + kernel_PNN.mT) / 2).diagonal_scatter(torch.ones(3, 6), dim1=1, dim2=2)
    mask_PN = torch.arange(6)[None] < torch.tensor([[6], [4], [0]])
    together_PN = set_loo(kernel_PNN, mask_PN)
    torch.testing.assert_close(together_PN[0], set_loo(kernel_PNN[:1])[0])
    torch.testing.assert_close(together_PN[1, :4], set_loo(kernel_PNN[1:2, :4, :4])[0])
    assert (together_PN[2] == 0).all()


def test_float_noise_in_the_kernel_is_accepted():
    noise_PNN = torch.tensor([[[1.00005, 1.00005, -5e-5], [1.0, 0.99995, 0.0], [0.0, 0.0, 1.0]]])
    clean_PNN = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    torch.testing.assert_close(set_loo(noise_PNN), set_loo(clean_PNN), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float16, torch.float32)],
)
def test_dtype_of_the_credit_follows_the_kernel(given_dtype, expected):
    assert set_loo(torch.eye(4)[None].to(given_dtype)).dtype == expected


@pytest.mark.parametrize("shaping", sorted(SHAPINGS))
def test_credit_is_differentiable(shaping):
    rows, columns = torch.triu_indices(4, 4, 1)

    def credit(similarities):
        kernel_NN = torch.eye(4, dtype=torch.float64).index_put((rows, columns), similarities)
        return set_loo(kernel_NN.index_put((columns, rows), similarities)[None], shaping=shaping)

    similarities = torch.linspace(0.1, 0.9, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(credit, similarities)
