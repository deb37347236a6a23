"""ARTNet: appearance-and-relation networks.

Wang, Li, Li and Van Gool, "Appearance-and-relation networks for video classification", CVPR 2018:
a 3-D ResNet-18 on 16 frames of 112² in which SMART blocks model appearance by a 2-D and relations
between frames by a squared 3-D convolution. The layers are those of the authors' published network,
less the biases in front of its norms, which make no difference.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.checks import check_count, check_number
from models.registry import register_model
from models.volume_network import VolumeNetwork, VolumeOptions, scale_width

__all__ = ["Artnet", "ArtnetOptions", "Smart"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtnetOptions(VolumeOptions):
    """Options of ``artnet``, in addition to those of every 3-D network.

    Attributes:
        smart: SMART blocks in the first layer and as the second convolution of every residual block
            but the last stage's (``deep``), in the first layer only (``first``), or nowhere: the
            3-D ResNet (``none``).
        depths: Residual blocks of each stage.
        width: Factor on all channels (ours; 1 is the paper's).
    """

    smart: Literal["deep", "first", "none"] = "deep"
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    width: float = 1.0
    dropout: float = 0.2

    def __post_init__(self) -> None:
        VolumeOptions.__post_init__(self)
        check_count("depths", self.depths)
        check_number("width", self.width, least=0)


class Smart(nn.Module):
    """A SMART block: appearance and relation, side by side and reduced to C' channels (§3).

    Appearance is a convolution over cells; relation one over frames and cells that is squared and
    averaged over pairs of channels, the energy of a quadrature pair. BatchNorm follows each
    convolution and the energy, and one ReLU all that is reduced.

    Args:
        before: Input channels.
        after: Channels C', even.
        kernel: Frames, rows and columns of the relation's kernel.
        stride: Of frames, rows and columns.
    """

    def __init__(
        self, before: int, after: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]
    ) -> None:
        super().__init__()
        padding = tuple(size // 2 for size in kernel)
        self.appearance = _conv(
            before, after, (1, *kernel[1:]), stride=stride, padding=(0, *padding[1:])
        )
        self.appearance_norm = nn.BatchNorm3d(after)
        self.relation = _conv(before, after, kernel, stride=stride, padding=padding)
        self.relation_norm = nn.BatchNorm3d(after)
        self.energy_norm = nn.BatchNorm3d(after // 2)
        self.reduce = _conv(after + after // 2, after, (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, T, H, W) to (B, C', T', H', W')."""
        appearance = self.appearance_norm(self.appearance(x))
        response = self.relation_norm(self.relation(x)).square()
        energy = self.energy_norm(response.unflatten(1, (-1, 2)).mean(dim=2))
        reduced: Tensor = self.reduce(F.relu(torch.cat([appearance, energy], dim=1)))
        return reduced


@register_model("artnet", ArtnetOptions)
class Artnet(VolumeNetwork):
    """The 3-D ResNet-18 of pre-activation blocks with SMART blocks."""

    options: ArtnetOptions

    def _build_net(self, in_channels: int) -> tuple[nn.Module, int]:
        options = self.options
        widths = [2 * scale_width(c // 2, options.width) for c in (64, 128, 256, 512)]
        stem = _layer(in_channels, widths[0], (3, 7, 7), (2, 2, 2), smart=options.smart != "none")
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=stem)
        channels = widths[0]
        for i, (width, depth) in enumerate(zip(widths, options.depths, strict=True)):
            smart = options.smart == "deep" and i < len(widths) - 1
            blocks = []
            for j in range(depth):
                blocks.append(_Block(channels, width, stride=2 if i and not j else 1, smart=smart))
                channels = width
            layers[f"layer{i + 1}"] = nn.Sequential(*blocks)
        layers["bn"], layers["relu"] = nn.BatchNorm3d(channels), nn.ReLU(inplace=True)
        return nn.Sequential(layers), channels


class _Block(nn.Module):
    """Two 3×3×3 convolutions, each behind BatchNorm and ReLU, around a shortcut.

    The second is a SMART block where asked. A shortcut to another size is a 3×3×3 convolution of
    what the first sees.
    """

    def __init__(self, before: int, after: int, *, stride: int, smart: bool) -> None:
        super().__init__()
        steps = (stride, stride, stride)
        self.bn1 = nn.BatchNorm3d(before)
        self.conv1 = _layer(before, after, (3, 3, 3), steps, smart=False)
        self.bn2 = nn.BatchNorm3d(after)
        self.conv2 = _layer(after, after, (3, 3, 3), (1, 1, 1), smart=smart)
        self.shortcut = None
        if stride > 1 or before != after:
            self.shortcut = _layer(before, after, (3, 3, 3), steps, smart=False)

    def forward(self, x: Tensor) -> Tensor:
        seen = F.relu(self.bn1(x))
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(seen))))
        return y + (x if self.shortcut is None else self.shortcut(seen))


def _layer(
    before: int,
    after: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    *,
    smart: bool,
) -> nn.Module:
    if smart:
        return Smart(before, after, kernel, stride)
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return _conv(before, after, kernel, stride=stride, padding=padding)


def _conv(
    before: int,
    after: int,
    kernel: tuple[int, ...],
    *,
    stride: tuple[int, ...] = (1, 1, 1),
    padding: tuple[int, ...] = (0, 0, 0),
) -> nn.Conv3d:
    conv = nn.Conv3d(
        before,
        after,
        (kernel[0], kernel[1], kernel[2]),
        stride=(stride[0], stride[1], stride[2]),
        padding=(padding[0], padding[1], padding[2]),
        bias=False,
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
