"""Rounding noise reads as 0, so that a group without a signal shows exactly that."""

import torch
from torch import Tensor

# Work in float64 errs by about 1e-14 of the largest term here; nothing that a method means is this small.
NOISE = 1e-12


def clear_noise(values_PN: Tensor, scale_P1: Tensor) -> Tensor:
    """The values, with those below 1e-12 of the prompt's scale set to 0. Gradients pass as if nothing had happened."""
    noise_PN = torch.where(values_PN.abs() < NOISE * scale_P1, values_PN, 0.0)
    return values_PN - noise_PN.detach()


def subtract_mean(values_PN: Tensor, mask_PN: Tensor, scale_P1: Tensor | None = None) -> Tensor:
    """Values less their mean over the prompt's rollouts, 0 at masked places; the scale is the largest value if None."""
    mean_P1 = torch.where(mask_PN, values_PN, 0.0).sum(1, keepdim=True) / mask_PN.sum(1, keepdim=True).clamp(min=1)
    if scale_P1 is None:
        scale_P1 = largest(values_PN, mask_PN)
    return clear_noise(torch.where(mask_PN, values_PN - mean_P1, 0.0), scale_P1)


def largest(values_PN: Tensor, mask_PN: Tensor) -> Tensor:
    """scale_P1: the largest absolute value among the prompt's rollouts, 0 for a prompt without any."""
    if values_PN.shape[1] == 0:
        return values_PN.new_zeros(len(values_PN), 1)
    return torch.where(mask_PN, values_PN, 0.0).detach().abs().amax(1, keepdim=True)
