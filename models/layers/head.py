"""Classifier heads."""

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["ClassifierWithFeatures", "mlp_head"]


def mlp_head(
    num_features: int, hidden: tuple[int, ...], num_classes: int, *, dropout: float
) -> nn.Sequential:
    """Builds fully connected layers with ReLU and dropout between them.

    With no hidden layer it is dropout and one linear layer. Hidden weights start as He et al.
    have it for ReLUs, the last layer's as Glorot and Bengio.

    Args:
        num_features: D, of the input ``(B, D)``.
        hidden: Sizes of the hidden layers.
        num_classes: N, of the logits ``(B, N)``.
        dropout: Probability, in [0, 1).
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


class ClassifierWithFeatures(nn.Sequential):
    """Layers of a classifier that also returns what the last of them sees."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (…, D) to features (…, D') and logits (…, N)."""
        *hidden, last = self
        for layer in hidden:
            x = layer(x)
        return x, last(x)
