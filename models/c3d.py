"""C3D: eight layers of 3×3×3 convolutions.

Tran et al., "Learning spatiotemporal features with 3D convolutional networks", ICCV 2015, on 16
frames of 112².
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.checks import check_count, check_number
from models.layers.head import ClassifierWithFeatures, mlp_head
from models.registry import register_model
from models.volume_network import VolumeNetwork, VolumeOptions, scale_width

__all__ = ["C3d", "C3dOptions"]

LAYERS = {
    "1a": 64, "2a": 128, "3a": 256, "3b": 256, "4a": 512, "4b": 512, "5a": 512, "5b": 512,
}  # fmt: skip
POOLED = ("1a", "2a", "3b", "4b", "5b")


@dataclass(frozen=True, kw_only=True, slots=True)
class C3dOptions(VolumeOptions):
    """Options of ``c3d``, in addition to those of every 3-D network.

    Attributes:
        head_dims: Hidden layers fc6 and fc7.
        head_grid: Side of the grid of cells that fc6 sees; 4 is that of 112² frames.
        width: Factor on the convolutions' channels (ours; 1 is the paper's).
    """

    head_dims: tuple[int, ...] = (4096, 4096)
    head_grid: int = 4
    width: float = 1.0

    def __post_init__(self) -> None:
        VolumeOptions.__post_init__(self)
        for name in ("head_dims", "head_grid"):
            check_count(name, getattr(self, name))
        check_number("width", self.width, least=0)


@register_model("c3d", C3dOptions)
class C3d(VolumeNetwork):
    """Convolutions and max-pools, then fc6, fc7 and fc8.

    A pooling's last window may be smaller than the others, so that short clips pass; clips of
    other sizes are averaged to the grid of fc6 (ours).
    """

    options: C3dOptions

    def _build_net(self, in_channels: int) -> tuple[nn.Module, int]:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for name, published in LAYERS.items():
            width = scale_width(published, self.options.width)
            conv = nn.Conv3d(channels, width, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.get_parameter("bias"))
            layers[f"conv{name}"], layers[f"relu{name}"] = conv, nn.ReLU(inplace=True)
            if name in POOLED:
                size = (1, 2, 2) if name == "1a" else (2, 2, 2)
                layers[f"pool{name[0]}"] = nn.MaxPool3d(size, ceil_mode=True)
            channels = width
        return nn.Sequential(layers), channels

    def _build_head(self, features: int) -> nn.Sequential:
        return ClassifierWithFeatures(
            *mlp_head(
                features * self.options.head_grid**2,
                self.options.head_dims,
                self.num_classes,
                dropout=self.options.dropout,
            )
        )

    def _classify(self, stream: str, maps: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.options.head_grid
        pooled = F.adaptive_avg_pool2d(maps.mean(dim=2), grid)
        x = pooled.clone(memory_format=torch.contiguous_format).flatten(1)
        features, logits = self.heads[stream](x)
        return features, logits
