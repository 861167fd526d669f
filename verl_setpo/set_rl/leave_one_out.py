"""SetPO (arXiv 2602.01062): what the group's diversity loses when a rollout leaves it."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from verl_setpo.set_rl.checks import check_kernel, check_kernel_shape, check_mask, output_dtype
from verl_setpo.set_rl.noise import clear_noise, subtract_mean

Shaping = Callable[[Tensor], Tensor]

SHAPINGS: dict[str, Shaping] = {
    "neg_log1p": lambda mass: -torch.log1p(mass),  # the paper's choice
    "linear": lambda mass: 1 - mass,
    "neg_square": lambda mass: -mass.square(),
    "exp": lambda mass: torch.exp(-mass),
}
"""Shapings g by name. The theory asks for continuously differentiable and strictly decreasing on [0, 1]."""

# Kernel entries worked on at once. The temporaries of a block, 4 MiB each in float64, stay in a CPU's cache.
_BLOCK = {"cpu": 2**19}
_BLOCK_ELSEWHERE = 2**24


def set_loo(
    kernel_PNN: Tensor,
    mask_PN: Tensor | None = None,
    shaping: str | Shaping = "neg_log1p",
    *,
    center: bool = False,
    check: bool = True,
) -> Tensor:
    """SetPO's leave-one-out credit s_i = D(S) - D(S without i), arXiv 2602.01062, Eq. 3 and 4.

        m(y; S) = 1/(|S|-1) sum_{z in S, z != y} k(y, z)         local mass
        D(S)    = 1/|S| sum_{y in S} g(m(y; S))                  set diversity

    SetPO adds `coef * s_i` to the advantage of the base method. All credits together cost O(N^2) by Lemma D.1,
    m_j(S without i) = ((N-1) m_j - k_ji) / (N-2). A credit has the unit of g: with -log(1+m) it lies within
    log(2) of 0. Differentiable in the kernel; the derivative of Theorem 4.4, in which k_it = k_ti is one variable,
    is the sum of the gradient's entries (i, t) and (t, i).

    Args:
        kernel_PNN: (P, N, N) float similarities in [0, 1], symmetric, 1 on the diagonal. A deviation of up to 1e-4
            is taken for float noise; values are clamped to [0, 1].
        mask_PN: (P, N), true where there is a rollout; None: everywhere. The kernel may hold anything elsewhere.
        shaping: g, a name in `SHAPINGS`, or a function from masses in [0, 1] to values of the same shape.
        center: whether to subtract the mean credit of the prompt. The paper does not: its credits have no zero sum,
            so they also move the probability of the group as a whole.
        check: whether to look at the kernel's values, which reads it several times more. Without, a kernel that is
            not as described gives a credit without meaning; those of `verl_setpo.set_rl.kernels` are as described.

    Returns:
        credit_PN: (P, N), float64 for a float64 kernel, else float32. 0 at masked places. 0 for a prompt with fewer
        than 3 rollouts: with one rollout left there is nobody to be similar to, so D(S without i) is not defined.

    Raises:
        ValueError: wrong shape, not floating point, unknown shaping, or a kernel that is not as described.
    """
    shape, dtype = find_shaping(shaping), output_dtype(kernel_PNN)
    blocks: list[Tensor] = []
    for masses in local_masses(kernel_PNN, mask_PN, check):
        diversity_P1 = masses.diversity(shape)
        defined_PN = masses.mask_PN & (masses.count_P1 >= 3)
        credit_PN = torch.where(defined_PN, diversity_P1 - masses.diversity_without(shape), 0.0)
        credit_PN = clear_noise(credit_PN, diversity_P1.detach().abs().clamp(min=1))  # logarithms err by 1e-16 of 1
        blocks.append((subtract_mean(credit_PN, defined_PN) if center else credit_PN).to(dtype))
    return torch.cat(blocks)


def group_diversity(
    kernel_PNN: Tensor,
    mask_PN: Tensor | None = None,
    shaping: str | Shaping = "neg_log1p",
    *,
    check: bool = True,
) -> Tensor:
    """SetPO's set diversity D(S) of each group, arXiv 2602.01062, Eq. 3; not Poly-EPO's, for which see `set_diversity`.

    Args:
        kernel_PNN, mask_PN, shaping, check: as in `set_loo`.

    Returns:
        diversity_P: (P,) in units of g, float64 for a float64 kernel, else float32. 0 for a prompt masked as a whole.

    Raises:
        ValueError: as `set_loo`.
    """
    shape, dtype = find_shaping(shaping), output_dtype(kernel_PNN)
    parts = [masses.diversity(shape)[:, 0] for masses in local_masses(kernel_PNN, mask_PN, check)]
    return torch.cat(parts).to(dtype)


class LocalMasses(NamedTuple):
    """The local masses of a block of prompts. kernel_PNN is float64, and 0 at masked pairs."""

    kernel_PNN: Tensor
    mask_PN: Tensor
    ragged: bool
    count_P1: Tensor
    sum_PN: Tensor  # similarity to the other rollouts

    @property
    def mass_PN(self) -> Tensor:
        """m_j(S)."""
        return self.sum_PN / (self.count_P1 - 1).clamp(min=1)

    @property
    def mass_without_PNN(self) -> Tensor:
        """m_j(S without i) in row j, column i, by Lemma D.1; without meaning where i = j."""
        return (self.sum_PN[:, :, None] - self.kernel_PNN) / self.rest_P1[:, :, None]

    @property
    def rest_P1(self) -> Tensor:
        """|S| - 2, over which a mass without i averages; 1 where there are fewer than 3 rollouts."""
        return (self.count_P1 - 2).clamp(min=1)

    def shaped_PN(self, shape: Shaping) -> Tensor:
        """g(m_j(S)), 0 at masked places."""
        return _shape_masses(self.mass_PN, self.mask_PN, shape)

    def diversity(self, shape: Shaping) -> Tensor:
        """(P, 1) D(S)."""
        return self.shaped_PN(shape).sum(1, keepdim=True) / self.count_P1.clamp(min=1)

    def diversity_without(self, shape: Shaping) -> Tensor:
        """(P, N) D(S without i)."""
        if shape is SHAPINGS["neg_log1p"]:
            # The sum of logarithms is the logarithm of a product: N of them instead of N^2. A factor is
            # (|S|-2)(1 + m), at most 2N, and a part's product at most 2^1000.
            factor_PNN = torch.where(self.mask_PN, self.sum_PN + self.rest_P1, 1.0)[:, :, None] - self.kernel_PNN
            factor_PNN.diagonal(dim1=1, dim2=2).fill_(1.0)
            width = max(factor_PNN.shape[1], 1)
            parts = factor_PNN.split(int(1000 / math.log2(2 * width)), 1)
            log_PN = torch.stack([part_PNN.prod(1).log() for part_PNN in parts]).sum(0)
            return self.rest_P1.log() - log_PN / (self.count_P1 - 1).clamp(min=1)
        other_PNN = ~torch.eye(self.mask_PN.shape[1], dtype=torch.bool, device=self.mask_PN.device)[None]
        if self.ragged:
            other_PNN = other_PNN & self.mask_PN[:, :, None] & self.mask_PN[:, None, :]
        return _shape_masses(self.mass_without_PNN, other_PNN, shape).sum(1) / (self.count_P1 - 1).clamp(min=1)


def local_masses(kernel_PNN: Tensor, mask_PN: Tensor | None, check: bool) -> Iterator[LocalMasses]:
    """Check the kernel and give its masses, a block of prompts at a time."""
    check_kernel_shape(kernel_PNN)
    mask_PN = check_mask(mask_PN, kernel_PNN, "kernel_PNN")
    prompts = max(1, _BLOCK.get(kernel_PNN.device.type, _BLOCK_ELSEWHERE) // max(1, kernel_PNN.shape[1] ** 2))
    for block_PNN, block_PN in zip(kernel_PNN.split(prompts), mask_PN.split(prompts), strict=True):
        block_PNN, ragged = block_PNN.to(torch.float64), not bool(block_PN.all())
        if ragged:
            block_PNN = torch.where(block_PN[:, :, None] & block_PN[:, None, :], block_PNN, 0.0)
        if check:
            block_PNN = check_kernel(block_PNN, block_PN)
        sum_PN = block_PNN.sum(2) - block_PNN.diagonal(dim1=1, dim2=2)
        count_P1 = block_PN.sum(1, keepdim=True, dtype=torch.float64)
        yield LocalMasses(block_PNN, block_PN, ragged, count_P1, sum_PN)


def find_shaping(shaping: str | Shaping) -> Shaping:
    if callable(shaping):
        return shaping
    if not isinstance(shaping, str) or shaping not in SHAPINGS:
        raise ValueError(f"shaping {shaping!r} is not known: use one of {', '.join(SHAPINGS)}, or give a function.")
    return SHAPINGS[shaping]


def _shape_masses(mass: Tensor, valid: Tensor, shape: Shaping) -> Tensor:
    """g(mass) where valid, else 0."""
    # An inner point keeps a g with a pole at 0 or 1 from leaking NaN gradients out of places that are not valid.
    mass = torch.where(valid, mass, 0.5)
    low, high = mass.detach().aminmax() if mass.numel() else (mass.new_zeros(()), mass.new_ones(()))
    if low < 0 or high > 1:
        # Rounding can carry a mass past 0 or 1 by a bit, where a caller's g may be undefined. Only the value is
        # clamped: a clamp in the graph would cut the gradient there.
        mass = mass + (mass.clamp(0, 1) - mass).detach()
    shaped = shape(mass)
    if shaped.shape != mass.shape:
        raise ValueError(
            f"shaping returned shape {tuple(shaped.shape)} for masses of shape {tuple(mass.shape)}: "
            "give a function that works element by element."
        )
    return torch.where(valid, shaped, 0.0)
