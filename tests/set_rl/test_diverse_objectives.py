"""smooth_polychromic and vendi: values by hand, bounds, and the advantages that come of them."""

import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from set_rl_reference import quick

from verl_setpo.set_rl import cosine_kernel, equality_kernel, get_objective, marginal_set_advantage

smooth, vendi = (get_objective(name).function for name in ("smooth_polychromic", "vendi"))


def effective_number(shares):
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def smooth_by_definition(rewards, clusters):
    """Mean reward x exp(entropy of the cluster shares) / n, where -1 has no share."""
    labelled = [c for c in clusters if c != -1]
    effective = effective_number([k / len(labelled) for k in Counter(labelled).values()]) if labelled else 0.0
    return sum(rewards) / len(rewards) * effective / len(rewards)


def kernel_of(similarities):
    """A kernel from its upper triangle."""
    count = round((1 + math.sqrt(1 + 8 * len(similarities))) / 2)
    kernel_NN = torch.eye(count, dtype=torch.float64)
    for (i, j), similarity in zip(combinations(range(count), 2), similarities, strict=True):
        kernel_NN[i, j] = kernel_NN[j, i] = similarity
    return kernel_NN


def ones(count):
    return torch.ones(count, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rewards", "clusters", "value"),
    [
        ([1.0, 1, 1, 1], [0, 1, 2, 3], 1.0),
        ([1.0, 1, 1, 1], [2, 2, 2, 2], 1 / 4),
        ([1.0, 1, 1, 1], [0, 0, 1, 1], 2 / 4),
        ([1.0, 1, 0, 0], [0, 0, 1, 1], 0.5 * 2 / 4),
        ([1.0, 1, 1, 1], [0, 0, 0, 1], 4 / 3**0.75 / 4),  # entropy log 4 - 3/4 log 3
        ([1.0, 1, 1, 1], [0, 0, -1, -1], 1 / 4),
        ([1.0, 1, 1, 0], [0, 1, -1, -1], 0.75 * 2 / 4),
        ([1.0, 1, 1, 1], [-1, -1, -1, -1], 0.0),
        ([-2.0, -2], [0, 1], -2.0),
        ([0.5], [3], 0.5),
        ([0.5], [-1], 0.0),
    ],
)
def test_smooth_polychromic_by_hand(rewards, clusters, value):
    got = smooth(torch.tensor(rewards, dtype=torch.float64), torch.tensor(clusters))
    assert got.item() == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("similarities", "effective"),
    [
        ([0, 0, 0], 3.0),
        ([1, 1, 1], 1.0),
        ([0.5], effective_number([0.75, 0.25])),
        ([0.5, 0.5, 0.5], effective_number([2 / 3, 1 / 6, 1 / 6])),
        ([1, 0, 0], effective_number([2 / 3, 1 / 3])),
        ([0.6, 0.8, 0.0], effective_number([2 / 3, 1 / 3])),  # eigenvalues 1 and 1 +- sqrt(0.36 + 0.64), over 3
    ],
)
def test_vendi_by_hand(similarities, effective):
    """The eigenvalues of the kernel / n, as one finds them on paper."""
    kernel_NN = kernel_of(similarities)
    count = len(kernel_NN)
    for reward in (1.0, 0.25, -1.0):
        got = vendi(reward * ones(count), None, kernel_NN)
        assert got.item() == pytest.approx(reward * effective / count, abs=1e-12)


def test_three_and_one_is_less_diverse_than_two_and_two():
    assert smooth(ones(4), torch.tensor([0, 0, 0, 1])) < smooth(ones(4), torch.tensor([0, 0, 1, 1]))


@quick
@given(st.lists(st.tuples(st.floats(-2, 2), st.integers(-1, 3)), min_size=1, max_size=8))
def test_smooth_polychromic_equals_its_definition(rollouts):
    rewards, clusters = zip(*rollouts, strict=True)
    got = smooth(torch.tensor(rewards, dtype=torch.float64), torch.tensor(clusters))
    assert got.item() == pytest.approx(smooth_by_definition(rewards, clusters), abs=1e-13)


@quick
@given(st.lists(st.tuples(st.floats(-2, 2), st.integers(0, 4)), min_size=1, max_size=8))
def test_vendi_with_equality_kernel_is_smooth_polychromic(rollouts):
    """Where nobody is degenerate: clusters of sizes m_c have the eigenvalues m_c / n."""
    rewards, clusters = zip(*rollouts, strict=True)
    rewards_n, clusters_n = torch.tensor(rewards, dtype=torch.float64), torch.tensor(clusters)
    by_kernel = vendi(rewards_n, None, equality_kernel(clusters_n[None])[0].double())
    assert by_kernel.item() == pytest.approx(smooth(rewards_n, clusters_n).item(), abs=1e-12)


@quick
@given(st.integers(1, 7), st.data())
def test_vendi_of_correct_rollouts_lies_between_one_rollout_and_all(count, data):
    """Also for kernels of judges and edit distances, which may have negative eigenvalues."""
    similarity = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
    pairs = count * (count - 1) // 2
    kernel_NN = kernel_of(data.draw(st.lists(similarity, min_size=pairs, max_size=pairs))) if pairs else torch.eye(1)
    value = vendi(ones(count), None, kernel_NN.double()).item()
    assert 1 / count - 1e-12 <= value <= 1 + 1e-12


def test_vendi_of_a_kernel_with_a_negative_eigenvalue_does_not_exceed_the_number_of_rollouts():
    """One rollout like all the others, which are unlike each other: eigenvalues 1 - sqrt(15), 1 + sqrt(15) and 1."""
    kernel_NN = torch.eye(16, dtype=torch.float64)
    kernel_NN[0, :] = kernel_NN[:, 0] = 1
    value = vendi(ones(16), None, kernel_NN).item()
    assert value < 1  # not even those who share nothing count for more than themselves


@quick
@given(seed=st.integers(0, 9999), count=st.integers(3, 24))
def test_vendi_of_embeddings_lies_between_one_rollout_and_all(seed, count):
    vectors_PND = torch.randn(1, count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert 1 / count <= vendi(ones(count), None, cosine_kernel(vectors_PND)[0]).item() <= 1


@quick
@given(
    st.lists(st.tuples(st.floats(-2, 2), st.integers(-1, 3)), min_size=2, max_size=7), st.randoms(), st.integers(0, 99)
)
def test_order_within_a_set_does_not_matter(rollouts, rng, seed):
    order = list(range(len(rollouts)))
    rng.shuffle(order)
    rewards, clusters = zip(*rollouts, strict=True)
    rewards_n, clusters_n = torch.tensor(rewards, dtype=torch.float64), torch.tensor(clusters)
    vectors_PND = torch.randn(1, len(rollouts), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kernel_nn = cosine_kernel(vectors_PND)[0]
    assert smooth(rewards_n[order], clusters_n[order]).item() == pytest.approx(
        smooth(rewards_n, clusters_n).item(), abs=1e-14
    )
    assert vendi(rewards_n[order], None, kernel_nn[order][:, order]).item() == pytest.approx(
        vendi(rewards_n, None, kernel_nn).item(), abs=1e-13
    )


def marginal_by_definition(value_of, count, set_size):
    """Eq. 8 in floats: one set after the other."""
    chosen = list(combinations(range(count), set_size))
    values = [value_of(list(one)) for one in chosen]
    baseline = math.fsum(values) / len(values)
    own = [[f - baseline for f, one in zip(values, chosen, strict=True) if i in one] for i in range(count)]
    return [math.fsum(some) / len(some) for some in own]


@pytest.mark.parametrize("set_size", [1, 2, 3, 5])
@pytest.mark.parametrize("objective", ["smooth_polychromic", "vendi"])
def test_advantage_equals_one_set_after_the_other(objective, set_size):
    """Ragged: the rollouts of the second prompt are columns 0, 2, 3, 5 and 6; junk stands between them."""
    rewards_PN = torch.tensor([[1.0, 0, 1, 1, 0.5, -1, 0], [1, math.nan, 0, 0.75, math.inf, 1, 0]], dtype=torch.float64)
    clusters_PN = torch.tensor([[0, 0, 1, 2, -1, 1, 0], [40, 40, 7, 40, 7, -1, 9]])
    vectors_PND = torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask_PN = torch.tensor([[True] * 7, [True, False, True, True, False, True, True]])
    kernel_PNN = cosine_kernel(vectors_PND)
    kernel_PNN[1, 1], kernel_PNN[1, :, 4] = math.nan, -9
    options = {"set_size": set_size, "objective": objective, "mask_PN": mask_PN, "kernel_PNN": kernel_PNN}
    got_PN = marginal_set_advantage(rewards_PN, clusters_PN, **options)
    assert (got_PN[~mask_PN] == 0).all()
    for p in range(2):
        columns = mask_PN[p].nonzero()[:, 0].tolist()

        def value_of(places, p=p, columns=columns):
            some = [columns[place] for place in places]
            rewards = rewards_PN[p, some].tolist()
            if objective == "smooth_polychromic":
                return smooth_by_definition(rewards, clusters_PN[p, some].tolist())
            part_nn = kernel_PNN[p][some][:, some] / len(some)
            eigenvalues = torch.linalg.svdvals(
                part_nn
            ).tolist()  # positive embeddings: no cosine to clamp, none below 0
            return sum(rewards) / len(rewards) * effective_number(eigenvalues) / len(rewards)

        expected = marginal_by_definition(value_of, len(columns), set_size)
        assert got_PN[p, columns].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("clusters", [[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 2, 2, 3, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("objective", ["smooth_polychromic", "vendi"])
def test_rollouts_that_differ_in_nothing_get_exactly_no_advantage(objective, clusters):
    """Clusters of one size, every reward 1: a group without a signal, which a dashboard counts by its zeros."""
    clusters_PN = torch.tensor([clusters])
    rewards_PN, kernel_PNN = torch.ones_like(clusters_PN).double(), equality_kernel(clusters_PN)
    for set_size in range(1, len(clusters) + 1):
        options = {"set_size": set_size, "objective": objective, "kernel_PNN": kernel_PNN}
        assert (marginal_set_advantage(rewards_PN, clusters_PN, **options) == 0).all()
