"""Convolutions that start as a weighted sum of two towers (Feichtenhofer et al., CVPR 2016)."""

import torch
from torch import Tensor

__all__ = ["gaussian_identity_"]

SPATIAL_WEIGHT, TEMPORAL_WEIGHT = 0.25, 0.75


def gaussian_identity_(weight: Tensor) -> Tensor:
    """Fills a kernel that fuses concatenated towers: [0.25·I | 0.75·I] times a Gaussian.

    The Gaussian has σ = 1 in cells and frames and is normalised to sum one, so that each output
    channel starts as a quarter of its spatial and three quarters of its temporal channel, smoothed.

    Args:
        weight: ``(D, 2D)`` or ``(D, 2D, *kernel)``, the spatial channels first.

    Returns:
        ``weight``, filled in place.

    Raises:
        ValueError: If there aren't twice as many input as output channels.
    """
    channels = weight.shape[0]
    if weight.shape[1] != 2 * channels:
        raise ValueError(
            f"the kernel must have twice as many input as output channels, got "
            f"{weight.shape[1]} and {channels}"
        )
    gaussian = torch.ones(())
    for size in weight.shape[2:]:
        offsets = torch.arange(size) - (size - 1) / 2
        bell = (-(offsets**2) / 2).exp()
        gaussian = gaussian.unsqueeze(-1) * (bell / bell.sum())
    identity = torch.eye(channels)
    towers = torch.cat([SPATIAL_WEIGHT * identity, TEMPORAL_WEIGHT * identity], dim=1)
    with torch.no_grad():
        weight.copy_(towers.reshape(*towers.shape, *[1] * gaussian.ndim) * gaussian)
    return weight
