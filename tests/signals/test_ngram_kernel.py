"""The kernel of wording: the cosine of counts of token n-grams."""

from __future__ import annotations

from collections import Counter
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_setpo.set_rl import set_loo
from verl_setpo.signals import NgramKernel, Rollout, ngram

responses = st.lists(st.integers(0, 4), max_size=12)
groups = st.lists(responses, min_size=1, max_size=6)


def rollouts(*tokens: list[int], uid: str = "p") -> list[Rollout]:
    return [Rollout(uid, s, torch.tensor(t, dtype=torch.int64), "", lambda: "") for s, t in enumerate(tokens)]


def kernel(*tokens: list[int], n: int = 3) -> torch.Tensor:
    return NgramKernel(n).collect([rollouts(*tokens)]).kernel_PNN[0]


def cosine(one: list[int], other: list[int], n: int) -> float:
    """By counting."""
    counts = [
        Counter(tuple(t[i : i + size]) for size in range(1, n + 1) for i in range(len(t) - size + 1))
        for t in (one, other)
    ]
    if not one or not other:
        return float(not one and not other)
    norms = [sqrt(sum(c * c for c in count.values())) for count in counts]
    return sum(c * counts[1][gram] for gram, c in counts[0].items()) / (norms[0] * norms[1])


@settings(deadline=None)
@given(groups, st.integers(1, 4))
def test_the_kernel_is_the_cosine_of_ngram_counts(tokens, n):
    expected = [[cosine(a, b, n) for b in tokens] for a in tokens]
    torch.testing.assert_close(kernel(*tokens, n=n), torch.tensor(expected), rtol=0, atol=1e-6)


@settings(deadline=None)
@given(groups)
def test_the_kernel_is_what_set_loo_takes(tokens):
    kernel_NN = kernel(*tokens)
    assert torch.equal(kernel_NN, kernel_NN.mT)
    assert torch.equal(kernel_NN.diagonal(), torch.ones(len(tokens)))
    assert ((kernel_NN >= 0) & (kernel_NN <= 1)).all()
    assert set_loo(kernel_NN[None]).isfinite().all()


@settings(deadline=None)
@given(st.lists(groups, min_size=1, max_size=4), st.integers(1, 4), st.sampled_from([1, 30, ngram.TOKENS_AT_ONCE]))
def test_a_group_among_others_has_the_kernel_that_it_has_alone(tokens, n, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram, "TOKENS_AT_ONCE", at_once)
        batch = NgramKernel(n).collect([rollouts(*group) for group in tokens]).kernel_PNN
    assert batch.shape[1] == max(map(len, tokens))
    for kernel_NN, group in zip(batch, tokens, strict=True):
        assert torch.equal(kernel_NN[: len(group), : len(group)], kernel(*group, n=n))


def test_identical_responses_are_1_and_disjoint_ones_0():
    assert kernel([5, 6, 7], [5, 6, 7], [8, 9])[0].tolist() == pytest.approx([1, 1, 0])


def test_order_of_tokens_counts_only_from_two_grams_on():
    assert kernel([5, 6], [6, 5], n=1)[0, 1].item() == pytest.approx(1)
    assert kernel([5, 6], [6, 5], n=2)[0, 1].item() == pytest.approx(2 / 3)


def test_two_empty_responses_are_alike_and_an_empty_one_is_like_no_other():
    assert kernel([], [], [5]).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert kernel([], []).tolist() == [[1, 1], [1, 1]]


def test_a_response_shorter_than_n_has_its_shorter_grams():
    assert kernel([5], [5, 6, 7], n=3)[0, 1].item() == pytest.approx(1 / sqrt(6))


def test_ragged_groups_do_not_see_each_other():
    batch = NgramKernel().collect([rollouts([5, 6]), rollouts([5, 6], [7], [5])])
    assert batch.kernel_PNN.shape == (2, 3, 3)
    assert batch.kernel_PNN[0, 0, 0] == 1
    assert torch.equal(batch.kernel_PNN[1], kernel([5, 6], [7], [5]))
    assert not any(batch.failures)


def test_token_0_is_a_token():
    """The id of many a padding token, and of "!" in GPT-2's vocabulary."""
    assert kernel([0, 0, 0], [0, 0, 0], [1])[0].tolist() == pytest.approx([1, 1, 0])


def test_token_ids_of_any_integer_type():
    group = [
        Rollout("p", s, torch.tensor([5, 6, 7], dtype=dtype), "", lambda: "")
        for s, dtype in enumerate([torch.int32, torch.int64])
    ]
    assert NgramKernel().collect([group]).kernel_PNN[0, 0, 1].item() == pytest.approx(1)


def test_eight_long_responses_without_a_shared_gram():
    """8 x 8,192 distinct tokens: 196,000 columns of counts."""
    long = [list(range(i * 8192, (i + 1) * 8192)) for i in range(8)]
    torch.testing.assert_close(kernel(*long), torch.eye(8))


@pytest.mark.parametrize("n", [0, 9, -1, 2.0, "3", True, None])
def test_n_out_of_range_is_refused(n):
    with pytest.raises(ValueError, match=r"signal\.n is .*, but must be an integer from 1 to 8"):
        NgramKernel(n)
