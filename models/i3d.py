"""I3D: Inception-v1 inflated to three dimensions, in two streams.

Carreira and Zisserman, "Quo vadis, action recognition? A new model and the Kinetics dataset", CVPR
2017, on 64 frames of 224² and as many flow fields.

It is inflated from torchvision's GoogLeNet, which is Inception-v1 with BatchNorm and, like I3D, has
3×3 where the original has 5×5. Padding is the original's "same": where its zeros are odd in number,
the end has one more than the beginning.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.base import fold_normalisation
from models.checks import check_number
from models.registry import register_model
from models.volume_network import VolumeNetwork, VolumeOptions, scale_width

__all__ = ["I3d", "I3dOptions"]

# Channels of the branches: 1×1; 1×1 and 3×3; 1×1 and 3×3; 1×1 behind the pool.
BLOCKS = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}

# Our modules by GoogLeNet's names.
BRANCHES = {
    "branch1": "one",
    "branch2.0": "three_a.0",
    "branch2.1": "three_a.1",
    "branch3.0": "three_b.0",
    "branch3.1": "three_b.1",
    "branch4.1": "pooled.1",
}
GOOGLENET = {
    "conv1": "conv1",
    "conv2": "conv2a",
    "conv3": "conv2b",
    **{
        f"inception{theirs}.{branch}": f"mixed_{ours}.{module}"
        for ours, theirs in zip(
            BLOCKS, ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"), strict=True
        )
        for branch, module in BRANCHES.items()
    },
}
GOOGLENET_MEAN = GOOGLENET_STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class I3dOptions(VolumeOptions):
    """Options of ``i3d``, in addition to those of every 3-D network.

    Attributes:
        width: Factor on all channels (ours; 1 is the paper's).
    """

    streams: tuple[str, ...] = ("spatial", "temporal")
    width: float = 1.0

    def __post_init__(self) -> None:
        VolumeOptions.__post_init__(self)
        check_number("width", self.width, least=0)


@register_model("i3d", I3dOptions)
class I3d(VolumeNetwork):
    """Two inflated Inception networks, one of frames and one of flow fields.

    ``load_backbone_weights`` takes an I3D's weights, or GoogLeNet's: each 2-D kernel is repeated
    over time and divided by its length, so that a still video has the image's features (§2.4);
    GoogLeNet's own scaling of images is folded into the first convolution.
    """

    classifier_prefixes = ("fc.", "aux1.", "aux2.")
    head_window = (2, 7, 7)
    options: I3dOptions

    def _build_net(self, in_channels: int) -> tuple[nn.Module, int]:
        width = self.options.width
        if width == 1:
            self.imagenet_network = "googlenet"
        first, second, third = (scale_width(channels, width) for channels in (64, 64, 192))
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=_Unit(in_channels, first, 7, stride=2),
            pool1=_MaxPool((1, 3, 3), (1, 2, 2)),
            conv2a=_Unit(first, second, 1),
            conv2b=_Unit(second, third, 3),
            pool2=_MaxPool((1, 3, 3), (1, 2, 2)),
        )
        channels = third
        for name, published in BLOCKS.items():
            if name == "4b":
                layers["pool3"] = _MaxPool((3, 3, 3), (2, 2, 2))
            elif name == "5b":
                layers["pool4"] = _MaxPool((2, 2, 2), (2, 2, 2))
            block = _Inception(channels, tuple(scale_width(c, width) for c in published))
            layers[f"mixed_{name}"], channels = block, block.out_channels
        return nn.Sequential(layers), channels

    def _adapt_checkpoint(self, stream: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        if "inception3a.branch1.conv.weight" not in weights:
            return dict(weights)
        inflated = {}
        for key, value in weights.items():
            unit = key.rsplit(".", 2)[0]  # of a key such as conv1.bn.weight
            name = GOOGLENET.get(unit, unit) + key.removeprefix(unit)
            inflated[name] = _inflate(value) if value.ndim == 4 else value
        first, mean = "conv1.conv.weight", "conv1.bn.running_mean"
        if first in inflated and mean in inflated:
            folded, shift = fold_normalisation(
                weights[first], mean=GOOGLENET_MEAN, std=GOOGLENET_STD
            )
            inflated[first] = _inflate(folded)
            if stream == "spatial":
                inflated[mean] = inflated[mean] - shift
        return inflated


class _Unit(nn.Module):
    """Convolution, BatchNorm and ReLU."""

    def __init__(self, before: int, after: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.padded = stride > 1  # before the convolution, which only knows equal sides
        padding = 0 if self.padded else kernel // 2
        self.conv = nn.Conv3d(before, after, kernel, stride=stride, padding=padding, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.bn = nn.BatchNorm3d(after, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        if self.padded:
            around = _same_padding(x, self.conv.kernel_size, self.conv.stride)
            x = F.pad(x, [zeros for both in reversed(around) for zeros in both])
        return F.relu(self.bn(self.conv(x)))


class _Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, reduce_a, three_a, reduce_b, three_b, pooled = widths
        self.one = _Unit(channels, one, 1)
        self.three_a = nn.Sequential(_Unit(channels, reduce_a, 1), _Unit(reduce_a, three_a, 3))
        self.three_b = nn.Sequential(_Unit(channels, reduce_b, 1), _Unit(reduce_b, three_b, 3))
        self.pooled = nn.Sequential(
            nn.MaxPool3d(3, stride=1, padding=1), _Unit(channels, pooled, 1)
        )
        self.out_channels = one + three_a + three_b + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three_a(x), self.three_b(x), self.pooled(x)], dim=1)


class _MaxPool(nn.Module):
    """A max-pool with the original's padding, which no window over a real cell depends on."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        before = [first for first, _ in _same_padding(x, self.kernel, self.stride)]
        # Windows that reach over the end stand for its padding, without a padded copy.
        return F.max_pool3d(x, self.kernel, self.stride, before, ceil_mode=True)


def _same_padding(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Returns the zeros before and behind each dimension of volumes (B, C, T, H, W).

    With them a stride of s divides the dimension by s, rounded up. Where their number is odd, the
    end gets one more than the beginning.
    """
    padding = []
    for size, reach, step in zip(x.shape[2:], kernel, stride, strict=True):
        places = -(-size // step)
        zeros = max((places - 1) * step + reach - size, 0)
        padding.append((zeros // 2, zeros - zeros // 2))
    return padding


def _inflate(kernel: Tensor) -> Tensor:
    """Repeats kernels (C', C, k, k) over k frames, divided by k: (C', C, k, k, k)."""
    frames = kernel.shape[-1]
    return kernel.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames
