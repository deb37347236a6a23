"""The fully connected layers of image classifiers: what they see, and their weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["load_fully_connected", "native_grid", "pool_to_grid"]


def native_grid(backbone: str) -> int:
    """Returns the side of the grid that the backbone's own first fully connected layer sees.

    7 for the VGGs, 6 for VGG-M, and 1 for networks that average their last map.
    """
    if backbone.startswith("vgg_m"):
        return 6
    return 7 if backbone.startswith("vgg") else 1


def pool_to_grid(maps: Tensor, grid: int) -> Tensor:
    """Averages maps (N, D, h, w) to a grid and flattens it, (N, D·grid²)."""
    if grid == 1:
        return maps.mean(dim=(2, 3))
    # Always a copy: a compiled graph may take a channels-last map for contiguous.
    pooled = F.adaptive_avg_pool2d(maps, grid).clone(memory_format=torch.contiguous_format)
    return pooled.flatten(1)


def load_fully_connected(head: nn.Sequential, state_dict: Mapping[str, Tensor]) -> set[str]:
    """Takes fc6 and fc7 of a VGG's checkpoint for a head's hidden layers of the same shape.

    Args:
        head: Linear, ReLU and dropout in turn, and the last linear layer, which keeps its start.
        state_dict: Where they are called ``classifier.0`` and ``classifier.3``.

    Returns:
        The keys of the tensors that are used.
    """
    used: set[str] = set()
    for i, layer in enumerate(head[:-1]):
        weight = state_dict.get(f"classifier.{i}.weight")
        bias = state_dict.get(f"classifier.{i}.bias")
        if not isinstance(layer, nn.Linear) or weight is None or bias is None:
            continue
        if layer.weight.shape == weight.shape:
            layer.load_state_dict({"weight": weight, "bias": bias})
            used |= {f"classifier.{i}.weight", f"classifier.{i}.bias"}
    return used
