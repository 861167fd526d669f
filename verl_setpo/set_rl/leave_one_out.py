"""SetPO (arXiv 2602.01062): what the group's diversity loses when a rollout leaves it."""

from collections.abc import Callable

import torch
from torch import Tensor

from verl_setpo.set_rl.checks import check_mask, output_dtype
from verl_setpo.set_rl.noise import clear_noise

Shaping = Callable[[Tensor], Tensor]

SHAPINGS: dict[str, Shaping] = {
    "neg_log1p": lambda mass: -torch.log1p(mass),  # the paper's choice
    "linear": lambda mass: 1 - mass,
    "neg_square": lambda mass: -mass.square(),
    "exp": lambda mass: torch.exp(-mass),
}
"""Shapings g by name. The theory asks for continuously differentiable and strictly decreasing on [0, 1]."""

# Kernels computed in float32 miss symmetry, the diagonal and the unit interval by about 1e-6.
KERNEL_TOLERANCE = 1e-4


def set_loo(kernel_PNN: Tensor, mask_PN: Tensor | None = None, shaping: str | Shaping = "neg_log1p") -> Tensor:
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

    Returns:
        credit_PN: (P, N), float64 for a float64 kernel, else float32. 0 at masked places. 0 for a prompt with fewer
        than 3 rollouts: with one rollout left there is nobody to be similar to, so D(S without i) is not defined.

    Raises:
        ValueError: wrong shape, not floating point, unknown shaping, or a kernel that is not as described.
    """
    if kernel_PNN.ndim != 3 or kernel_PNN.shape[1] != kernel_PNN.shape[2] or not kernel_PNN.is_floating_point():
        raise ValueError(
            f"kernel_PNN must be floats of shape (prompts, rollouts, rollouts), got {kernel_PNN.dtype} "
            f"{tuple(kernel_PNN.shape)}: for one prompt give kernel[None]."
        )
    shape = _find_shaping(shaping)
    mask_PN = check_mask(mask_PN, kernel_PNN, "kernel_PNN")
    other_PNN = mask_PN[:, :, None] & mask_PN[:, None, :]
    kernel = _check_kernel(kernel_PNN.to(torch.float64), other_PNN)
    same_NN = torch.eye(mask_PN.shape[1], dtype=torch.bool, device=mask_PN.device)
    other_PNN = other_PNN & ~same_NN
    count_P1 = mask_PN.sum(1, keepdim=True)

    # Row j: the similarities of rollout j to the others. Column i of the mass: rollout i has left.
    kernel = torch.where(other_PNN, kernel, 0.0)
    sum_PN = kernel.sum(2)
    mass_PN = sum_PN / (count_P1 - 1).clamp(min=1)
    mass_without_PNN = (sum_PN[:, :, None] - kernel) / (count_P1 - 2).clamp(min=1)[:, :, None]

    diversity_P1 = _shape_masses(mass_PN, mask_PN, shape).sum(1, keepdim=True) / count_P1.clamp(min=1)
    shaped_PNN = _shape_masses(mass_without_PNN, other_PNN, shape)
    diversity_without_PN = shaped_PNN.sum(1) / (count_P1 - 1).clamp(min=1)
    credit_PN = torch.where(mask_PN & (count_P1 >= 3), diversity_P1 - diversity_without_PN, 0.0)
    credit_PN = clear_noise(credit_PN, diversity_P1.detach().abs())
    return credit_PN.to(output_dtype(kernel_PNN))


def _find_shaping(shaping: str | Shaping) -> Shaping:
    if callable(shaping):
        return shaping
    if not isinstance(shaping, str) or shaping not in SHAPINGS:
        raise ValueError(f"shaping {shaping!r} is not known: use one of {', '.join(SHAPINGS)}, or give a function.")
    return SHAPINGS[shaping]


def _check_kernel(kernel_PNN: Tensor, pair_PNN: Tensor) -> Tensor:
    """The kernel clamped to [0, 1], with 0 at masked pairs."""
    kernel_PNN = torch.where(pair_PNN, kernel_PNN, 0.0)
    values = kernel_PNN.detach()
    if not torch.isfinite(values).all():
        raise ValueError(
            "kernel_PNN holds NaN or infinity at an unmasked place: "
            "check the embeddings, or mask the rollouts that have none."
        )
    if (values < -KERNEL_TOLERANCE).any() or (values > 1 + KERNEL_TOLERANCE).any():
        raise ValueError(
            f"kernel_PNN has values from {values.min().item():.4g} to {values.max().item():.4g}, outside [0, 1]: "
            "clamp the similarities, as cosine_kernel does."
        )
    if ((values - values.mT).abs() > KERNEL_TOLERANCE).any():
        raise ValueError("kernel_PNN is not symmetric: give (kernel + kernel.mT) / 2, or use cosine_kernel.")
    off_PN = (values.diagonal(dim1=1, dim2=2) - 1).abs() > KERNEL_TOLERANCE
    if (off_PN & pair_PNN.diagonal(dim1=1, dim2=2)).any():
        raise ValueError("kernel_PNN is not 1 on its diagonal: normalise the embeddings, or use cosine_kernel.")
    return kernel_PNN.clamp(0, 1)


def _shape_masses(mass: Tensor, valid: Tensor, shape: Shaping) -> Tensor:
    """g(mass) where valid, else 0."""
    # Rounding can carry a mass past 1 by a bit, where a caller's g may be undefined. Only the value is clamped:
    # a clamp in the graph would cut the gradient there.
    mass = mass + (mass.clamp(0, 1) - mass).detach()
    # An inner point keeps a g with a pole at 0 or 1 from leaking NaN gradients out of masked places.
    shaped = shape(torch.where(valid, mass, 0.5))
    if shaped.shape != mass.shape:
        raise ValueError(
            f"shaping returned shape {tuple(shaped.shape)} for masses of shape {tuple(mass.shape)}: "
            "give a function that works element by element."
        )
    return torch.where(valid, shaped, 0.0)
