"""Parameters that learn at another rate than the rest, as some originals train them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from models import VideoModel
from study.training.hyperparameters import RateMultipliers

__all__ = ["parameter_groups"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Multipliers:
    """What a parameter's learning rate is multiplied by.

    Biases, and what a normalisation scales and shifts by, have no weight decay.

    Attributes:
        flow_input: Weight and bias of the first convolution of a network of flow.
        linear: Weights and biases of fully connected layers.
        bias: Biases other than a normalisation's.
        norm_scale: What a normalisation scales by.
    """

    flow_input: float = 1.0
    linear: float = 1.0
    bias: float = 2.0
    norm_scale: float = 1.0


MULTIPLIERS: dict[RateMultipliers, _Multipliers] = {
    "tsn": _Multipliers(flow_input=5.0),
    "tsm": _Multipliers(flow_input=5.0, linear=5.0),
    "st_resnet": _Multipliers(norm_scale=2.0),
}


def parameter_groups(model: VideoModel, multipliers: RateMultipliers) -> list[dict[str, Any]]:
    """Returns a network's parameters as an optimiser takes them, those of one rate together.

    ``tsn`` is of the public code of Wang et al., "Temporal segment networks", ECCV 2016, which
    gate-shift networks (Sudhakaran, Escalera and Lanz, CVPR 2020) train with too: biases at twice
    the rate, the first convolution of a network of flow at five times it, its bias at ten times.
    ``tsm`` is of the public code of Lin, Gan and Han, "TSM", ICCV 2019: in addition, fully
    connected layers at five times the rate, their biases at ten times. ``st_resnet`` is of the
    public code of Feichtenhofer, Pinz and Wildes (NeurIPS 2016 and CVPR 2017) and of
    convolutional two-stream fusion (CVPR 2016): biases and the scales of BatchNorm at twice the
    rate. With all three only weights decay.

    Args:
        model: The network.
        multipliers: Whose.

    Returns:
        ``params`` of each group, its ``rate``, which multiplies the learning rate, and, where its
        parameters don't decay, ``weight_decay`` 0.
    """
    if multipliers == "none":
        return [{"params": list(model.parameters()), "rate": 1.0}]
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter, rate, decays in _rated(model, MULTIPLIERS[multipliers]):
        groups.setdefault((rate, decays), []).append(parameter)
    return [
        {"params": parameters, "rate": rate} | ({} if decays else {"weight_decay": 0.0})
        for (rate, decays), parameters in groups.items()
    ]


def _rated(
    model: VideoModel, multipliers: _Multipliers
) -> Iterator[tuple[nn.Parameter, float, bool]]:
    """Yields each parameter once, what multiplies its rate, and whether it decays."""
    first = _first_of_flow(model)
    seen: set[nn.Parameter] = set()
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            if isinstance(layer, NORMS):
                yield parameter, multipliers.norm_scale if name == "weight" else 1.0, False
                continue
            rate = multipliers.flow_input if layer is first else 1.0
            rate *= multipliers.linear if isinstance(layer, nn.Linear) else 1.0
            bias = "bias" in name
            yield parameter, rate * multipliers.bias if bias else rate, not bias


def _first_of_flow(model: VideoModel) -> nn.Module | None:
    """Returns the convolution that sees the flow; None in a network that sees none."""
    if "flow" not in model.inputs:
        return None
    layers = (
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, CONVOLUTIONS) and "temporal" in name.split(".")
    )
    return next(layers, None)
