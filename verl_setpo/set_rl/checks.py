"""What every function of this package asks of its arguments, each refusal one sentence with the cure."""

import math
import operator

import torch
from torch import Tensor

# Kernels computed in float32 miss symmetry, the diagonal and the unit interval by about 1e-6.
KERNEL_TOLERANCE = 1e-4


def output_dtype(tensor: Tensor) -> torch.dtype:
    """float64 stays float64; float32, half precision, integers and bool become float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite, in one pass without a temporary: aminmax hands a NaN on."""
    if values.numel() == 0:
        return True
    low, high = values.detach().aminmax()
    return bool(low > -math.inf) and bool(high < math.inf)


def check_mask(mask_PN: Tensor | None, like_PN: Tensor, name: str) -> Tensor:
    """The mask as bool of shape (P, N), all true when there is none. `like_PN` is called `name` in an error."""
    shape = like_PN.shape[:2]
    if mask_PN is None:
        return torch.ones(shape, dtype=torch.bool, device=like_PN.device)
    if mask_PN.shape != shape:
        raise ValueError(
            f"mask_PN has shape {tuple(mask_PN.shape)} but {name} has {tuple(shape)} prompts and rollouts: "
            "give one mask entry per rollout."
        )
    if mask_PN.dtype != torch.bool and not ((mask_PN == 0) | (mask_PN == 1)).all():
        raise ValueError("mask_PN holds something other than 0 and 1: give true where there is a rollout.")
    return mask_PN.bool()


def check_rewards(rewards_PN: Tensor, mask_PN: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rewards in float64 with 0 at masked places, and the mask as bool."""
    if rewards_PN.ndim != 2:
        raise ValueError(
            f"rewards_PN must have shape (prompts, rollouts), got {tuple(rewards_PN.shape)}: "
            "give one row per prompt, and a mask when groups differ in size."
        )
    if rewards_PN.is_complex():
        raise ValueError(f"rewards_PN must be real numbers, got {rewards_PN.dtype}: convert them to float.")
    mask_PN = check_mask(mask_PN, rewards_PN, "rewards_PN")
    rewards_PN = torch.where(mask_PN, rewards_PN.to(torch.float64), 0.0)
    if not all_finite(rewards_PN):
        raise ValueError(
            "rewards_PN holds NaN or infinity at an unmasked place: mend the reward function, or mask those rollouts."
        )
    return rewards_PN, mask_PN


def check_clusters(clusters_PN: Tensor, shape: torch.Size | None = None) -> Tensor:
    """Clusters as int64, of the shape of the rewards where there are some."""
    if clusters_PN.ndim != 2 and shape is None:
        raise ValueError(
            f"clusters_PN must have shape (prompts, rollouts), got {tuple(clusters_PN.shape)}: give one row per prompt."
        )
    if shape is not None and clusters_PN.shape != shape:
        raise ValueError(
            f"clusters_PN has shape {tuple(clusters_PN.shape)} but there are {tuple(shape)} prompts and rollouts: "
            "give one cluster id per rollout."
        )
    if clusters_PN.is_floating_point() or clusters_PN.is_complex():
        raise ValueError(f"clusters_PN must hold integer ids, got {clusters_PN.dtype}: convert them with .long().")
    return clusters_PN.to(torch.int64)


def check_count(value: int, name: str) -> int:
    """A whole number of at least 1."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}: set {name} to 1 or more.")
    return count


def check_set_size(set_size: int, mask_PN: Tensor) -> int:
    """A set size that every prompt with rollouts can fill."""
    set_size = check_count(set_size, "set_size")
    count_P = mask_PN.sum(1)
    too_small_P = (count_P > 0) & (count_P < set_size)
    if too_small_P.any():
        raise ValueError(
            f"set_size is {set_size} but a prompt has only {int(count_P[too_small_P].min())} rollouts: "
            "lower set_size, sample more rollouts, or mask that prompt as a whole."
        )
    return set_size


def check_kernel_shape(kernel_PNN: Tensor, shape: torch.Size | None = None) -> None:
    """Floats of shape (P, N, N), for the rewards of this shape where there are some."""
    square = kernel_PNN.ndim == 3 and kernel_PNN.shape[1] == kernel_PNN.shape[2]
    if not square or not kernel_PNN.is_floating_point():
        raise ValueError(
            f"kernel_PNN must be floats of shape (prompts, rollouts, rollouts), got {kernel_PNN.dtype} "
            f"{tuple(kernel_PNN.shape)}: for one prompt give kernel[None]."
        )
    if shape is not None and kernel_PNN.shape[:2] != shape:
        raise ValueError(
            f"kernel_PNN has shape {tuple(kernel_PNN.shape)} but there are {tuple(shape)} prompts and rollouts: "
            "give one similarity per pair of rollouts."
        )


def check_kernel(kernel_PNN: Tensor, mask_PN: Tensor) -> Tensor:
    """The kernel clamped to [0, 1]; it is 0 at masked pairs."""
    values = kernel_PNN.detach()
    if values.numel() == 0:
        return kernel_PNN
    low, high = (value.item() for value in values.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            "kernel_PNN holds NaN or infinity at an unmasked place: "
            "check the embeddings, or mask the rollouts that have none."
        )
    if low < -KERNEL_TOLERANCE or high > 1 + KERNEL_TOLERANCE:
        raise ValueError(
            f"kernel_PNN has values from {low:.4g} to {high:.4g}, outside [0, 1]: "
            "clamp the similarities, as cosine_kernel does."
        )
    if (values - values.mT).abs_().amax() > KERNEL_TOLERANCE:
        raise ValueError("kernel_PNN is not symmetric: give (kernel + kernel.mT) / 2, or use cosine_kernel.")
    if ((values.diagonal(dim1=1, dim2=2) - mask_PN.to(values.dtype)).abs() > KERNEL_TOLERANCE).any():
        raise ValueError("kernel_PNN is not 1 on its diagonal: normalise the embeddings, or use cosine_kernel.")
    return kernel_PNN.clamp(0, 1) if low < 0 or high > 1 else kernel_PNN
