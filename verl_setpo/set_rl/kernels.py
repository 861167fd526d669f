"""Similarity kernels of the rollouts of a prompt: symmetric, in [0, 1], 1 on the diagonal (SetPO, section 3)."""

import torch
from torch import Tensor

from verl_setpo.set_rl.checks import check_clusters, check_mask, output_dtype


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
    if embeddings_PND.ndim != 3 or embeddings_PND.shape[2] == 0 or not embeddings_PND.is_floating_point():
        raise ValueError(
            f"embeddings_PND must be floats of shape (prompts, rollouts, dimension), got {embeddings_PND.dtype} "
            f"{tuple(embeddings_PND.shape)}: stack one embedding per rollout."
        )
    mask_PN = check_mask(mask_PN, embeddings_PND, "embeddings_PND")
    # float64 also keeps the product clear of TF32, which trainers switch on and which errs by 1e-3.
    vectors_PND = torch.where(mask_PN[..., None], embeddings_PND, 0.0).to(torch.float64)
    largest_PN1 = vectors_PND.detach().abs().amax(-1, keepdim=True)
    if not torch.isfinite(largest_PN1).all():
        raise ValueError(
            "embeddings_PND holds NaN or infinity at an unmasked place: "
            "check the embedding model, or mask the rollouts that have no embedding."
        )
    zero_PN = largest_PN1[..., 0] == 0
    # The cosine knows no length. With largest entry 1 no square under- or overflows.
    vectors_PND = vectors_PND / largest_PN1.masked_fill(largest_PN1 == 0, 1.0)
    product_PNN = vectors_PND @ vectors_PND.mT
    norm_PN = product_PNN.diagonal(dim1=1, dim2=2).masked_fill(zero_PN, 1.0).sqrt()
    # A matrix product need not be symmetric to the last bit; the mean with its transpose is.
    kernel_PNN = (product_PNN + product_PNN.mT) / (2 * norm_PN[:, :, None] * norm_PN[:, None, :])
    kernel_PNN = kernel_PNN.clamp(0, 1)
    same_NN = torch.eye(mask_PN.shape[1], dtype=torch.bool, device=mask_PN.device)
    kernel_PNN = torch.where(same_NN | (zero_PN[:, :, None] & zero_PN[:, None, :]), 1.0, kernel_PNN)
    pair_PNN = mask_PN[:, :, None] & mask_PN[:, None, :]
    return torch.where(pair_PNN, kernel_PNN, 0.0).to(output_dtype(embeddings_PND))


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
