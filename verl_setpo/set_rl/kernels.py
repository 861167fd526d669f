"""Similarity kernels of the rollouts of a prompt: symmetric, in [0, 1], 1 on the diagonal (SetPO, section 3)."""

import math

import torch
from torch import Tensor

from verl_setpo.set_rl.checks import all_finite, check_clusters, check_mask, output_dtype


def cosine_kernel(embeddings_PND: Tensor, mask_PN: Tensor | None = None) -> Tensor:
    """SetPO's kernel k(y, y') = clamp(cos(e(y), e(y')), 0, 1), arXiv 2602.01062, section 3.

    A zero vector (an empty answer, say) has similarity 1 to itself and to other zero vectors, 0 to all others.

    Args:
        embeddings_PND: (P, N, D) float, one embedding per rollout, of any length.
        mask_PN: (P, N), true where there is a rollout; None: everywhere.

    Returns:
        kernel_PNN: (P, N, N), exactly symmetric, exactly 1 on the diagonal, 0 in masked rows and columns.
        float64 for float64 embeddings, else float32.

    Raises:
        ValueError: wrong shape, not floating point, or NaN or infinity in an unmasked embedding.
    """
    vectors_PND, mask_PN = _check_embeddings(embeddings_PND, mask_PN)
    largest_PN1 = vectors_PND.detach().abs().amax(-1, keepdim=True)
    zero_PN = largest_PN1[..., 0] == 0
    # The cosine knows no length. With largest entry 1 no square under- or overflows.
    vectors_PND = vectors_PND / largest_PN1.masked_fill(largest_PN1 == 0, 1.0)
    product_PNN = vectors_PND @ vectors_PND.mT
    norm_PN = product_PNN.diagonal(dim1=1, dim2=2).masked_fill(zero_PN, 1.0).sqrt()
    # A matrix product need not be symmetric to the last bit; the mean with its transpose is.
    kernel_PNN = (product_PNN + product_PNN.mT) / (2 * norm_PN[:, :, None] * norm_PN[:, None, :])
    kernel_PNN = kernel_PNN.clamp(0, 1)
    return _finish(torch.where(zero_PN[:, :, None] & zero_PN[:, None, :], 1.0, kernel_PNN), mask_PN, embeddings_PND)


def rbf_kernel(embeddings_PND: Tensor, mask_PN: Tensor | None = None, *, bandwidth: float) -> Tensor:
    """The Gaussian kernel k(y, y') = exp(-|e(y) - e(y')|^2 / (2 bandwidth^2)).

    Unlike the cosine kernel it sees the length of an embedding, and tells near neighbours apart as finely as its
    bandwidth says. A fixed bandwidth, not the median distance in the group: with that a collapsed group would look as
    diverse as any other.

    Args:
        embeddings_PND: (P, N, D) float, one embedding per rollout.
        mask_PN: (P, N), true where there is a rollout; None: everywhere.
        bandwidth: distance at which the similarity is exp(-1/2), about 0.61. Vectors of length 1 are at most 2 apart.

    Returns:
        kernel_PNN: (P, N, N), exactly symmetric, exactly 1 on the diagonal, 0 in masked rows and columns.
        float64 for float64 embeddings, else float32.

    Raises:
        ValueError: wrong shape, not floating point, NaN or infinity in an unmasked embedding, or a bandwidth that is
            not above 0.
    """
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"bandwidth must be a number above 0, got {bandwidth}: try 0.5 for vectors of length 1.")
    vectors_PND, mask_PN = _check_embeddings(embeddings_PND, mask_PN)
    # Differences themselves, not |a|^2 + |b|^2 - 2ab, which loses all digits between near neighbours.
    # The bound, whose square float64 still holds, changes no similarity of vectors that mean anything.
    vectors_PND = vectors_PND.clamp(-1e150, 1e150)
    distance_PNN = torch.cdist(vectors_PND, vectors_PND, compute_mode="donot_use_mm_for_euclid_dist")
    kernel_PNN = torch.exp(-0.5 * (distance_PNN / bandwidth).square())
    return _finish((kernel_PNN + kernel_PNN.mT) / 2, mask_PN, embeddings_PND)


def equality_kernel(clusters_PN: Tensor, mask_PN: Tensor | None = None) -> Tensor:
    """Kernel of hard clusters: 1 for two rollouts of one cluster, else 0. It makes SetPO run on answers or a judge.

    No id is special: degenerate rollouts that share an id are alike.

    Args:
        clusters_PN: (P, N) integer ids.
        mask_PN: (P, N), true where there is a rollout; None: everywhere.

    Returns:
        kernel_PNN: (P, N, N) float32, 0 in masked rows and columns.

    Raises:
        ValueError: wrong shape or ids that are not integers.
    """
    clusters_PN = check_clusters(clusters_PN)
    mask_PN = check_mask(mask_PN, clusters_PN, "clusters_PN")
    pair_PNN = mask_PN[:, :, None] & mask_PN[:, None, :]
    return (pair_PNN & (clusters_PN[:, :, None] == clusters_PN[:, None, :])).to(torch.float32)


def _check_embeddings(embeddings_PND: Tensor, mask_PN: Tensor | None) -> tuple[Tensor, Tensor]:
    """The embeddings in float64 with 0 at masked places, and the mask as bool."""
    if embeddings_PND.ndim != 3 or embeddings_PND.shape[2] == 0 or not embeddings_PND.is_floating_point():
        raise ValueError(
            f"embeddings_PND must be floats of shape (prompts, rollouts, dimension), got {embeddings_PND.dtype} "
            f"{tuple(embeddings_PND.shape)}: stack one embedding per rollout."
        )
    mask_PN = check_mask(mask_PN, embeddings_PND, "embeddings_PND")
    # float64 also keeps products clear of TF32, which trainers switch on and which errs by 1e-3.
    vectors_PND = torch.where(mask_PN[..., None], embeddings_PND, 0.0).to(torch.float64)
    if not all_finite(vectors_PND):
        raise ValueError(
            "embeddings_PND holds NaN or infinity at an unmasked place: "
            "check the embedding model, or mask the rollouts that have no embedding."
        )
    return vectors_PND, mask_PN


def _finish(kernel_PNN: Tensor, mask_PN: Tensor, embeddings_PND: Tensor) -> Tensor:
    """1 on the diagonal, 0 at masked pairs, and the dtype that the embeddings lead to."""
    same_NN = torch.eye(mask_PN.shape[1], dtype=torch.bool, device=mask_PN.device)
    pair_PNN = mask_PN[:, :, None] & mask_PN[:, None, :]
    return torch.where(pair_PNN, kernel_PNN.masked_fill(same_NN, 1.0), 0.0).to(output_dtype(embeddings_PND))
