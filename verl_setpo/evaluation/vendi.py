"""The Vendi score: how many different samples a group holds, by how alike they are. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np

KERNEL_TOLERANCE = 1e-4
"""Kernels computed in float32 miss symmetry and the diagonal by about 1e-6."""


def vendi_score(kernel_PNN: Any, mask_PN: Any = None) -> np.ndarray:
    """Effective number of samples of each problem (Friedman and Dieng, arXiv 2210.02410, Definition 3.1).

    exp(-sum of l log l) over the eigenvalues l of K/n: n where all samples differ, 1 where all are alike, and with a
    kernel of equal clusters the exponential of the entropy of their shares. A kernel that is not positive semidefinite,
    as one of clamped cosines can be, has negative eigenvalues: they count as 0, the others are scaled to sum to 1.

    Args:
        kernel_PNN: (P, N, N) float, symmetric, 1 on the diagonal: a kernel of `verl_setpo.set_rl` on the CPU, say.
        mask_PN: (P, N) bool, true where there is a sample; None: everywhere. What is elsewhere is not read.

    Returns:
        (P,) float64, from 1 to the number of samples; NaN for a problem without samples.

    Raises:
        ValueError: wrong shape or dtype, and at an unmasked place a value that is not finite, not symmetric, or not 1
            on the diagonal.
    """
    kernel_PNN = np.asarray(kernel_PNN)
    if kernel_PNN.ndim != 3 or kernel_PNN.shape[1] != kernel_PNN.shape[2]:
        raise ValueError(f"kernel_PNN must have shape (problems, samples, samples), not {kernel_PNN.shape}")
    if not np.issubdtype(kernel_PNN.dtype, np.floating):
        raise ValueError(f"kernel_PNN must be floats, not {kernel_PNN.dtype}")
    mask_PN = np.ones(kernel_PNN.shape[:2], dtype=bool) if mask_PN is None else np.asarray(mask_PN)
    if mask_PN.shape != kernel_PNN.shape[:2] or mask_PN.dtype != np.bool_:
        raise ValueError(
            f"mask_PN must be true or false for each sample, of shape {kernel_PNN.shape[:2]}, "
            f"not {mask_PN.dtype} of shape {mask_PN.shape}"
        )
    kernel_PNN = np.where(mask_PN[:, :, None] & mask_PN[:, None, :], kernel_PNN, 0.0).astype(np.float64)
    if not np.isfinite(kernel_PNN).all():
        raise ValueError("kernel_PNN holds NaN or infinity at an unmasked place: mask the samples that have no kernel")
    transposed_PNN = kernel_PNN.swapaxes(1, 2)
    if (np.abs(kernel_PNN - transposed_PNN) > KERNEL_TOLERANCE).any():
        raise ValueError("kernel_PNN is not symmetric: give the mean of the kernel and its transpose")
    if (np.abs(kernel_PNN.diagonal(axis1=1, axis2=2) - mask_PN) > KERNEL_TOLERANCE).any():
        raise ValueError("kernel_PNN is not 1 on its diagonal: divide it by the square roots of the diagonal")

    # A masked sample is a row of zeros, so an eigenvalue of 0, which adds nothing to the entropy.
    eigenvalue_PN = np.linalg.eigvalsh((kernel_PNN + transposed_PNN) / 2).clip(min=0)
    there_P = mask_PN.any(axis=1)
    share_PN = eigenvalue_PN / np.where(there_P, eigenvalue_PN.sum(axis=1), 1.0)[:, None]
    entropy_P = -(share_PN * np.log(np.where(share_PN > 0, share_PN, 1.0))).sum(axis=1)
    return np.where(there_P, np.exp(entropy_P), np.nan)
