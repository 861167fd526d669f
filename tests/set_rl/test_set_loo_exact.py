"""SetPO's credit against Eq. 3 and 4 in 40 decimal digits, one leave-one-out set after the other, N up to 1100."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_loo_reference import (
    GRAIN,
    IN_DECIMALS,
    as_kernel,
    assert_close,
    credit_by_definition,
    diversity,
    ragged,
    random_grains,
    shaping_of,
)
from set_rl_reference import quick

from verl_setpo.set_rl import SHAPINGS, group_diversity, leave_one_out, set_loo


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", IN_DECIMALS)
@pytest.mark.parametrize("kind", ["any", "near", "far", "clusters"])
@pytest.mark.parametrize("count", [3, 4, 5, 8, 17])
def test_small_groups(count, kind, name, check):
    for seed in range(3):
        grains_NN = random_grains(count, seed, kind)
        got_N = set_loo(as_kernel(grains_NN)[None], shaping=shaping_of(name), check=check)[0]
        assert_close(got_N.tolist(), credit_by_definition(name, grains_NN))


@pytest.mark.parametrize("name", IN_DECIMALS)
@pytest.mark.parametrize(("count", "kind"), [(64, "clusters"), (101, "any"), (256, "any"), (256, "near")])
def test_large_groups(count, kind, name):
    grains_NN = random_grains(count, 0, kind)
    got_N = set_loo(as_kernel(grains_NN)[None], shaping=shaping_of(name))[0]
    some = list(range(count)) if count < 65 else [0, 1, count // 2, count - 1]
    assert_close(got_N[some].tolist(), credit_by_definition(name, grains_NN, some))


@pytest.mark.parametrize("kind", ["any", "near", "far", "clusters"])
@pytest.mark.parametrize("check", [True, False])
def test_group_of_1100_does_not_overflow(kind, check):
    """The product of 1100 factors of up to 2200 has more than 3600 digits; their logarithms are an ordinary sum."""
    count = 1100
    grains_NN = random_grains(count, 0, kind)
    kernel_NN = as_kernel(grains_NN)
    got_N = set_loo(kernel_NN[None], check=check)[0]
    sum_N = (grains_NN.sum(1) - GRAIN).double() / GRAIN  # exact
    whole = -math.fsum(torch.log1p(sum_N / (count - 1)).tolist()) / count
    without_NN = torch.log1p((sum_N[:, None] - kernel_NN) / (count - 2)).fill_diagonal_(0)  # j without i
    for i in range(0, count, 11):
        assert got_N[i].item() == pytest.approx(whole + math.fsum(without_NN[:, i].tolist()) / (count - 1), abs=1e-14)
    assert_close(got_N[[0, 549, 1099]].tolist(), credit_by_definition("neg_log1p", grains_NN, [0, 549, 1099]), 0.1)


@pytest.mark.parametrize("count", [1024, 1100])
def test_equal_rollouts_of_a_huge_group_get_exactly_no_credit(count):
    for similarity in (0.0, 0.37, 1.0):
        kernel_NN = torch.full((count, count), similarity, dtype=torch.float64).fill_diagonal_(1)
        assert (set_loo(kernel_NN[None]) == 0).all()


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("junk", [math.nan, math.inf, -3.0])
@pytest.mark.parametrize("name", IN_DECIMALS)
def test_ragged_groups_beside_junk(name, junk, check):
    kernel_PNN, mask_PN, prompts = ragged([5, 3, 0, 9, 1, 2, 4, 12], width=12, seed=3, junk=junk)
    options = {"shaping": shaping_of(name), "check": check}
    credit_PN = set_loo(kernel_PNN, mask_PN, **options)
    diversity_P = group_diversity(kernel_PNN, mask_PN, **options)
    centred_PN = set_loo(kernel_PNN, mask_PN, center=True, **options)
    assert (credit_PN[~mask_PN] == 0).all()
    assert (centred_PN[~mask_PN] == 0).all()
    for p, (columns, grains_NN) in enumerate(prompts):
        count = len(columns)
        if count >= 2:
            assert_close([diversity_P[p].item()], [diversity(name, grains_NN)])
        if count < 3:
            assert (credit_PN[p] == 0).all()
            assert (centred_PN[p] == 0).all()
            continue
        truth = credit_by_definition(name, grains_NN)
        mean = sum(truth) / count
        assert_close(credit_PN[p, columns].tolist(), truth)
        assert_close(centred_PN[p, columns].tolist(), [value - mean for value in truth])


@quick
@given(
    counts=st.lists(st.integers(0, 8), min_size=1, max_size=5),
    seed=st.integers(0, 999),
    name=st.sampled_from(sorted(IN_DECIMALS)),
)
def test_centred_credit_sums_to_zero_over_each_prompt(counts, seed, name):
    kernel_PNN, mask_PN, _ = ragged(counts, width=8, seed=seed, junk=math.nan)
    raw_PN, centred_PN = (set_loo(kernel_PNN, mask_PN, shaping_of(name), center=center) for center in (False, True))
    assert (centred_PN.sum(1).abs() < 1e-14).all()
    shift_PN = torch.where(mask_PN, raw_PN - centred_PN, 0.0)
    mean_P1 = raw_PN.sum(1, keepdim=True) / mask_PN.sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(shift_PN, torch.where(mask_PN, mean_P1, 0.0), rtol=0, atol=1e-14)


def test_raw_credit_does_not_sum_to_zero():
    """Or centring would change nothing."""
    credit_N = set_loo(as_kernel(random_grains(6, 0, "clusters"))[None])[0]
    assert credit_N.sum().abs() > 1e-3


@quick
@given(count=st.integers(3, 12), seed=st.integers(0, 999), name=st.sampled_from(sorted(IN_DECIMALS)))
def test_a_valid_kernel_needs_no_check(count, seed, name):
    kernel_PNN, mask_PN, _ = ragged([count, 3, max(count - 2, 0)], width=count, seed=seed, junk=math.nan)
    for function in (set_loo, group_diversity):
        checked, unchecked = (function(kernel_PNN, mask_PN, shaping_of(name), check=check) for check in (True, False))
        assert torch.equal(checked, unchecked)


@pytest.mark.parametrize("block", [1, 7 * 7, 3 * 7 * 7, 3 * 7 * 7 + 5, 2**30])
@pytest.mark.parametrize("name", IN_DECIMALS)
def test_results_do_not_depend_on_the_split_into_blocks(monkeypatch, name, block):
    kernel_PNN, mask_PN, _ = ragged([7, 4, 0, 7, 3, 6, 7, 5, 2, 7], width=7, seed=9, junk=math.nan)
    arguments = (kernel_PNN, mask_PN, shaping_of(name))

    def results():
        return set_loo(*arguments), set_loo(*arguments, center=True), group_diversity(*arguments)

    whole = results()
    monkeypatch.setattr(leave_one_out, "_BLOCK", {"cpu": block})
    for split, together in zip(results(), whole, strict=True):
        torch.testing.assert_close(split, together, rtol=0, atol=1e-16)
    assert whole[0].abs().max() > 0.01


def test_blocks_share_one_gradient(monkeypatch):
    kernel_PNN, mask_PN, _ = ragged([5, 4, 3, 5, 0], width=5, seed=2, junk=math.nan)

    def gradient():
        leaf_PNN = kernel_PNN.clone().requires_grad_()
        set_loo(leaf_PNN, mask_PN).square().sum().backward()
        return leaf_PNN.grad

    whole_PNN = gradient()
    monkeypatch.setattr(leave_one_out, "_BLOCK", {"cpu": 50})
    torch.testing.assert_close(gradient(), whole_PNN, rtol=0, atol=1e-16)
    assert torch.isfinite(whole_PNN).all()
    assert whole_PNN.abs().max() > 0.001


def test_the_kernel_that_was_given_is_left_as_it_was():
    kernel_PNN, mask_PN, _ = ragged([5, 4, 3], width=5, seed=2, junk=7.0)
    for dtype in (torch.float32, torch.float64):
        for mask, part in ((mask_PN, slice(None)), (None, slice(0, 1))):
            given_PNN = kernel_PNN[part].to(dtype)
            before_PNN = given_PNN.clone()
            for shaping in SHAPINGS:
                set_loo(given_PNN, mask, shaping, center=True)
                set_loo(given_PNN, mask, shaping, check=False)
            assert torch.equal(given_PNN, before_PNN)


def test_diversity_of_one_and_two_rollouts_by_hand():
    """One rollout has nobody to be similar to: mass 0. Of two, each has the other's similarity as mass."""
    kernel_PNN = torch.tensor([[[1.0, 0.5], [0.5, 1.0]], [[1.0, 9.0], [9.0, 9.0]], [[9.0] * 2] * 2])
    mask_PN = torch.tensor([[True, True], [True, False], [False, False]])
    expected = {
        "neg_log1p": [-math.log(1.5), 0],
        "linear": [0.5, 1],
        "neg_square": [-0.25, 0],
        "exp": [math.exp(-0.5), 1],
    }
    for name, values in expected.items():
        got_P = group_diversity(kernel_PNN, mask_PN, name)
        assert got_P.tolist() == pytest.approx([*values, 0], abs=1e-7)
