"""On a GPU: the same sets are drawn as on the CPU, and the results agree and stay where their inputs are."""

import functools
import math

import pytest
import torch

from verl_setpo.set_rl import (
    SHAPINGS,
    advantage_from_sets,
    cosine_kernel,
    count_left_out,
    equality_kernel,
    group_diversity,
    grpo_div,
    marginal_set_advantage,
    objective_names,
    polychromic_decomposition,
    rbf_kernel,
    sample_sets,
    set_diversity,
    set_loo,
    set_loo_decomposition,
)


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device("cuda")


class Batch:
    """Ragged groups with NaN at the masked places, on the device asked for."""

    def __init__(self, device: str | torch.device, prompts: int = 5, width: int = 9) -> None:
        generator = torch.Generator().manual_seed(0)
        mask_PN = torch.rand(prompts, width, generator=generator) < 0.8
        mask_PN[:, :4], mask_PN[1] = True, False
        rewards_PN = torch.rand(prompts, width, generator=generator, dtype=torch.float64)
        vectors_PND = torch.randn(prompts, width, 16, generator=generator, dtype=torch.float64)
        self.mask_PN = mask_PN.to(device)
        self.rewards_PN = rewards_PN.masked_fill(~mask_PN, math.nan).to(device)
        self.clusters_PN = torch.randint(-1, 4, (prompts, width), generator=generator).to(device)
        self.vectors_PND = vectors_PND.masked_fill(~mask_PN[..., None], math.nan).to(device)
        self.kernel_PNN = cosine_kernel(self.vectors_PND, self.mask_PN)

    def marginal(self, **options) -> torch.Tensor:
        options = {"mask_PN": self.mask_PN, "kernel_PNN": self.kernel_PNN, "set_size": 3} | options
        return marginal_set_advantage(self.rewards_PN, self.clusters_PN, **options)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


FUNCTIONS = {
    **{f"all sets {name}": functools.partial(Batch.marginal, objective=name) for name in objective_names()},
    "paying singles": functools.partial(Batch.marginal, zero_single_cluster=False),
    "summed": functools.partial(Batch.marginal, reduction="sum"),
    **{
        f"drawn sets {name}": lambda b, name=name: b.marginal(objective=name, num_sets=4, generator=seeded())
        for name in objective_names()
    },
    "far ids": lambda b: marginal_set_advantage(
        b.rewards_PN, b.clusters_PN * 2**60, set_size=3, mask_PN=b.mask_PN, degenerate_cluster=-(2**60)
    ),
    "from sets": lambda b: advantage_from_sets(
        b.rewards_PN, b.clusters_PN, sample_sets(b.mask_PN, 3, 4, seeded()), mask_PN=b.mask_PN
    ),
    "left out": lambda b: count_left_out(sample_sets(b.mask_PN, 3, 1, seeded()), b.mask_PN),
    "product": lambda b: polychromic_decomposition(b.rewards_PN, b.clusters_PN, set_size=3, mask_PN=b.mask_PN)[0],
    "covariance": lambda b: polychromic_decomposition(b.rewards_PN, b.clusters_PN, set_size=3, mask_PN=b.mask_PN)[1],
    "set_diversity": lambda b: set_diversity(b.clusters_PN, set_size=3, mask_PN=b.mask_PN),
    "grpo_div": lambda b: grpo_div(b.rewards_PN, b.clusters_PN, 0.5, b.mask_PN),
    **{f"set_loo {name}": lambda b, name=name: set_loo(b.kernel_PNN, b.mask_PN, name) for name in SHAPINGS},
    "centred": lambda b: set_loo(b.kernel_PNN, b.mask_PN, center=True),
    "unchecked": lambda b: set_loo(b.kernel_PNN, b.mask_PN, check=False),
    "terms": lambda b: torch.stack(tuple(set_loo_decomposition(b.kernel_PNN, b.mask_PN))),
    "group_diversity": lambda b: group_diversity(b.kernel_PNN, b.mask_PN),
    "cosine": lambda b: b.kernel_PNN,
    "rbf": lambda b: rbf_kernel(b.vectors_PND, b.mask_PN, bandwidth=2.0),
    "equality": lambda b: equality_kernel(b.clusters_PN, b.mask_PN),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_those_of_the_cpu(cuda, name):
    on_cuda, on_cpu = FUNCTIONS[name](Batch(cuda)), FUNCTIONS[name](Batch("cpu"))
    assert on_cuda.device.type == "cuda"
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-10, atol=1e-12 if on_cpu.dtype == torch.float64 else 1e-6)
    assert (on_cpu != 0).any()


@pytest.mark.parametrize(("width", "num_sets"), [(9, 4), (24, 30)], ids=["from the list", "from a stream"])
def test_the_same_sets_are_drawn(cuda, width, num_sets):
    on_cuda, on_cpu = (
        sample_sets(Batch(device, width=width).mask_PN, 3, num_sets, seeded()) for device in (cuda, "cpu")
    )
    assert on_cuda.device.type == "cpu"
    assert torch.equal(on_cuda, on_cpu)


def test_large_groups_agree(cuda):
    """N = 256 and N = 1100: beyond what a GPU's atomics and TF32 would leave of the digits."""
    generator = torch.Generator().manual_seed(0)
    rewards_PN = torch.rand(2, 256, generator=generator, dtype=torch.float64)
    clusters_PN = torch.randint(0, 40, (2, 256), generator=generator)
    for set_size in (8, 128, 254):
        on_cpu, on_cuda = (
            marginal_set_advantage(rewards_PN.to(device), clusters_PN.to(device), set_size=set_size).cpu()
            for device in ("cpu", cuda)
        )
        torch.testing.assert_close(on_cuda, on_cpu, rtol=1e-8, atol=1e-15)
    vectors_PND = torch.randn(1, 1100, 64, generator=generator)
    on_cpu, on_cuda = (set_loo(cosine_kernel(vectors_PND.to(device).double())).cpu() for device in ("cpu", cuda))
    torch.testing.assert_close(on_cuda, on_cpu, rtol=0, atol=1e-13)


def test_kernel_keeps_clear_of_tf32(cuda):
    vectors_PND = torch.randn(2, 8, 1024, generator=torch.Generator().manual_seed(0))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        on_cuda = cosine_kernel(vectors_PND.to(cuda)).cpu()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    torch.testing.assert_close(on_cuda, cosine_kernel(vectors_PND), rtol=0, atol=1e-7)


def test_generator_on_the_gpu_is_refused(cuda):
    with pytest.raises(ValueError, match="generator must be on the CPU, so that all devices draw the same sets"):
        sample_sets(torch.ones(1, 4, device=cuda), 2, 1, torch.Generator(device=cuda))
