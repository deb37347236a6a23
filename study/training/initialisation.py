"""A network as its training begins."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models import VideoModel, create_model

__all__ = ["initial_network"]


def initial_network(
    model: str,
    options: Mapping[str, Any],
    *,
    num_classes: int,
    seed: int,
    weights: Mapping[str, Tensor] | None = None,
) -> VideoModel:
    """Returns a network at its initial weights.

    Args:
        model: The model's name.
        options: Its options.
        num_classes: Number of classes N.
        seed: Of what is drawn.
        weights: An image classifier's state dict that its backbones start from; None draws all.

    Raises:
        ValueError: If the model or an option isn't valid, or the weights don't fit.
    """
    torch.manual_seed(seed)
    network = create_model(model, num_classes=num_classes, **options)
    if weights is not None:
        network.load_backbone_weights(weights)
    return network
