"""P3D: pseudo-3-D residual networks, whose blocks divide space from time in three ways.

Qiu, Yao and Mei, "Learning spatio-temporal representation with pseudo-3D residual networks",
ICCV 2017: a ResNet of bottlenecks in whose first three stages each 3×3 convolution becomes a
1×3×3 one over cells, S, and a 3×1×1 one over frames, T. P3D-199 is ResNet-152 with its 47 T.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from models.checks import check_count, check_number
from models.registry import register_model
from models.volume_network import VolumeNetwork, VolumeOptions, scale_width

__all__ = ["WAYS", "P3d", "P3dBlock", "P3dOptions", "Way"]

Way = Literal["A", "B", "C"]
WAYS: tuple[Way, ...] = ("A", "B", "C")
EXPANSION = 4
HALVE_TIME = (2, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class P3dOptions(VolumeOptions):
    """Options of ``p3d``, in addition to those of every 3-D network.

    Attributes:
        depths: Bottlenecks of each stage: (3, 8, 36, 3) is P3D-199, (3, 4, 6, 3) P3D-63.
        width: Factor on all channels (ours; 1 is the paper's).
    """

    depths: tuple[int, int, int, int] = (3, 8, 36, 3)
    width: float = 1.0

    def __post_init__(self) -> None:
        VolumeOptions.__post_init__(self)
        check_count("depths", self.depths)
        check_number("width", self.width, least=0)


class P3dBlock(nn.Module):
    """A bottleneck around S and T (§3.2).

    With x reduced: ``A`` is T(S(x)), ``B`` is S(x) + T(x), ``C`` is S(x) + T(S(x)); S and T each
    end in normalisation and ReLU. Without a way it has S alone.

    Args:
        before: Input channels.
        middle: Channels of S and T; the output has four times as many.
        stride: Of rows and columns.
        way: ``A``, ``B`` or ``C``, or None.
    """

    def __init__(self, before: int, middle: int, *, stride: int, way: Way | None) -> None:
        super().__init__()
        after = EXPANSION * middle
        self.way = way
        self.reduce = _conv(before, middle, (1, 1, 1), stride=stride)
        self.space = _conv(middle, middle, (1, 3, 3))
        self.time = None if way is None else _conv(middle, middle, (3, 1, 1))
        self.expand = _conv(middle, after, (1, 1, 1))
        self.shortcut = None
        if stride > 1 or before != after:
            self.shortcut = _conv(before, after, (1, 1, 1), stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, T, H, W) to (B, 4·middle, T, H', W')."""
        reduced = F.relu(self.reduce(x))
        y = F.relu(self.space(reduced))
        if self.time is not None:
            seen = F.relu(self.time(reduced if self.way == "B" else y))
            y = seen if self.way == "A" else y + seen
        return F.relu(self.expand(y) + (x if self.shortcut is None else self.shortcut(x)))


@register_model("p3d", P3dOptions)
class P3d(VolumeNetwork):
    """The residual network whose blocks take the three ways in turn.

    Time is halved by the first pooling and behind each of the first three stages, so that 16 frames
    are one in the last stage, which has no T. Poolings of time reach over the end, so that clips
    of any length pass (ours).
    """

    options: P3dOptions

    def _build_net(self, in_channels: int) -> tuple[nn.Module, int]:
        options = self.options
        channels = scale_width(64, options.width)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=_conv(in_channels, channels, (1, 7, 7), stride=2),
            relu=nn.ReLU(inplace=True),
            pool1=nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            pool1_time=nn.MaxPool3d(HALVE_TIME, ceil_mode=True),
        )
        number = 0
        for stage, depth in enumerate(options.depths):
            middle = scale_width(64 * 2**stage, options.width)
            blocks = []
            for block in range(depth):
                way = WAYS[number % len(WAYS)] if stage < 3 else None
                stride = 2 if stage and not block else 1
                blocks.append(P3dBlock(channels, middle, stride=stride, way=way))
                channels = EXPANSION * middle
                number += 1
            layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
            if stage < 3:
                layers[f"pool{stage + 2}_time"] = nn.MaxPool3d(HALVE_TIME, ceil_mode=True)
        return nn.Sequential(layers), channels


def _conv(
    before: int, after: int, kernel: tuple[int, int, int], *, stride: int = 1
) -> nn.Sequential:
    """Returns a convolution, with a stride of rows and columns, and its normalisation."""
    conv = nn.Conv3d(
        before,
        after,
        kernel,
        stride=(1, stride, stride),
        padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2),
        bias=False,
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm3d(after))
