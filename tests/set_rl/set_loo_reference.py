"""Slow and exact: SetPO's Eq. 3 and 4 in 40 decimal digits, on kernels whose sums float64 holds exactly."""

from collections.abc import Callable, Sequence
from decimal import Decimal, getcontext
from functools import cache

import torch

getcontext().prec = 40
GRAIN = 64  # similarities are multiples of 1/64, whose sums float64 holds exactly


def user_shaping(mass):
    """A user's g: decreasing, differentiable, and none of the built-in ones."""
    return 2 - mass / 4 - mass * mass * mass


IN_DECIMALS: dict[str, Callable[[Decimal], Decimal]] = {
    "neg_log1p": lambda m: -(1 + m).ln(),
    "linear": lambda m: 1 - m,
    "neg_square": lambda m: -m * m,
    "exp": lambda m: (-m).exp(),
    "user": user_shaping,
}


def shaping_of(name: str):
    return user_shaping if name == "user" else name


@cache
def shaped(name: str, similarity: int, others: int) -> Decimal:
    """g of the mass similarity / GRAIN over so many others."""
    return IN_DECIMALS[name](Decimal(similarity) / (GRAIN * others))


def diversity(name: str, grains_NN: torch.Tensor) -> Decimal:
    """D(S) of Eq. 3 for the whole of the given kernel, in integer grains."""
    count = len(grains_NN)
    similarities = (grains_NN.sum(1) - grains_NN.diagonal()).tolist()
    return sum((shaped(name, s, count - 1) for s in similarities), Decimal(0)) / count


def credit_by_definition(name: str, grains_NN: torch.Tensor, members: list[int] | None = None) -> list[Decimal]:
    """Eq. 4 for the members, or for everyone: the kernel without row and column i, as a group of its own."""
    everyone = list(range(len(grains_NN)))
    whole = diversity(name, grains_NN)
    without = ([j for j in everyone if j != i] for i in (everyone if members is None else members))
    return [whole - diversity(name, grains_NN[rest][:, rest]) for rest in without]


def random_grains(count: int, seed: int, kind: str = "any") -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * count + seed)
    if kind == "clusters":
        clusters_N = torch.randint(0, max(count // 4, 2), (count,), generator=generator)
        return (clusters_N[:, None] == clusters_N) * GRAIN
    low, high = {"any": (0, GRAIN + 1), "near": (GRAIN - 2, GRAIN + 1), "far": (0, 3)}[kind]
    upper_NN = torch.randint(low, high, (count, count), generator=generator).triu(1)
    return (upper_NN + upper_NN.T).fill_diagonal_(GRAIN)


def as_kernel(grains_NN: torch.Tensor) -> torch.Tensor:
    return grains_NN.to(torch.float64) / GRAIN


def assert_close(got: list[float], truth: list[Decimal], scale: float = 1.0) -> None:
    """Within 3e-14 of g's unit: credits are differences of means of g, each known to about 1e-16."""
    for value, true in zip(got, truth, strict=True):
        assert abs(Decimal(value) - true) < Decimal(3e-14 * scale), (value, float(true))


def ragged(
    counts: Sequence[int], width: int, seed: int, junk: float
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Prompts of their own sizes at random columns, `junk` in every masked row and column."""
    generator = torch.Generator().manual_seed(seed)
    kernel_PNN = torch.full((len(counts), width, width), junk, dtype=torch.float64)
    mask_PN = torch.zeros(len(counts), width, dtype=torch.bool)
    prompts = []
    for p, count in enumerate(counts):
        columns = torch.randperm(width, generator=generator)[:count].sort().values
        grains_NN = random_grains(count, seed + p, "clusters" if p % 2 else "any") if count else torch.zeros(0, 0)
        kernel_PNN[p, columns[:, None], columns] = as_kernel(grains_NN)
        mask_PN[p, columns] = True
        prompts.append((columns, grains_NN))
    return kernel_PNN, mask_PN, prompts
