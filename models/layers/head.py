"""Classifier heads."""

from itertools import pairwise

from torch import nn

__all__ = ["mlp_head"]


def mlp_head(
    num_features: int, hidden: tuple[int, ...], num_classes: int, *, dropout: float
) -> nn.Sequential:
    """Fully connected layers with ReLU and dropout between them, ``(B, D)`` to ``(B, N)``.

    With no hidden layer it is dropout and one linear layer. Hidden weights start as He et al.
    have it for ReLUs, the last layer's as Glorot and Bengio.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise((num_features, *hidden)):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(inplace=True), nn.Dropout(dropout)]
    if not hidden:
        layers.append(nn.Dropout(dropout))
    last = nn.Linear((num_features, *hidden)[-1], num_classes)
    nn.init.xavier_normal_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
