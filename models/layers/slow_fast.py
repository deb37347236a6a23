"""The two pathways of SlowFast networks (Feichtenhofer et al., ICCV 2019)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["STAGES", "Lateral", "Pathway"]

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
EXPANSION = 4


class Pathway(nn.Module):
    """A ResNet over volumes (B, C, T, H, W) that keeps its number of frames.

    Its modules have torchvision's names for a ResNet, so that 2-D weights can be inflated.

    Args:
        width: Channels of the stem; stage i of the four has 4·width·2^i.
        depths: Bottleneck blocks of each stage.
        stem_frames: Frames of the stem's kernel.
        block_frames: Frames of the first kernel of each stage's blocks.
        lateral: Channels that come into each stage in addition to those of the stage before.
    """

    def __init__(
        self,
        width: int,
        depths: tuple[int, int, int, int],
        *,
        stem_frames: int,
        block_frames: tuple[int, int, int, int],
        lateral: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> None:
        super().__init__()
        self.conv1 = _conv(3, width, (stem_frames, 7, 7), stride=2)
        self.bn1 = nn.BatchNorm3d(width)
        self.stage_channels = {"stem": width}
        channels = width
        for i, stage in enumerate(STAGES[1:]):
            inner, blocks = width * 2**i, []
            channels += lateral[i]
            for j in range(depths[i]):
                stride = 2 if i and not j else 1
                blocks.append(_Bottleneck(channels, inner, frames=block_frames[i], stride=stride))
                channels = inner * EXPANSION
            self.add_module(stage, nn.Sequential(*blocks))
            self.stage_channels[stage] = channels

    def forward_stage(self, stage: str, x: Tensor) -> Tensor:
        """Runs one of ``STAGES`` on the output of the stage before.

        The stem divides rows and columns by 4, each stage from ``layer2`` on by 2.
        """
        if stage == "stem":
            x = F.relu(self.bn1(self.conv1(x)))
            return F.max_pool3d(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        result: Tensor = self.get_submodule(stage)(x)
        return result

    def inflate(self, state_dict: Mapping[str, Tensor]) -> set[str]:
        """Starts from a 2-D ResNet's weights, spread evenly over the frames of each kernel.

        Kernels of as many frames, as of a pathway of its own, stay as they are. Those that take
        lateral channels as well keep their start.

        Returns:
            The keys of the tensors that are used.

        Raises:
            ValueError: If the weights aren't those of a ResNet of these depths.
        """
        own = self.state_dict()
        given = {key: value for key, value in state_dict.items() if not key.startswith("fc.")}
        if missing := sorted(own.keys() - given.keys() - _counters(own)):
            raise ValueError(
                f"the weights don't fit the pathway: {len(missing)} keys are missing "
                f"({', '.join(missing[:3])} …); give a state dict of torchvision's resnet50"
            )
        if unknown := sorted(given.keys() - own.keys()):
            raise ValueError(
                f"the weights don't fit the pathway: {len(unknown)} keys are unknown "
                f"({', '.join(unknown[:3])} …); give a state dict of torchvision's resnet50"
            )
        used = set()
        for key, value in given.items():
            if value.ndim == 4:
                frames = own[key].shape[2]
                value = value.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames
            if value.shape == own[key].shape:
                own[key].copy_(value)
                used.add(key)
        return used


class Lateral(nn.Module):
    """Fast to slow: a convolution over 5 frames of time stride α, to twice the channels."""

    def __init__(self, channels: int, speed_ratio: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            channels,
            2 * channels,
            (5, 1, 1),
            stride=(speed_ratio, 1, 1),
            padding=(2, 0, 0),
            bias=False,
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.bn = nn.BatchNorm3d(2 * channels)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        """Joins slow (B, C, ⌈T/α⌉, h, w) and fast (B, C', T, h, w) to (B, C + 2C', ⌈T/α⌉, h, w)."""
        return torch.cat([slow, F.relu(self.bn(self.conv(fast)))], dim=1)


class _Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, the first over ``frames`` frames, around a shortcut.

    The last BatchNorm starts at zero, and with it the block as its shortcut (§4).
    """

    def __init__(self, channels: int, inner: int, *, frames: int, stride: int) -> None:
        super().__init__()
        outer = inner * EXPANSION
        self.conv1 = _conv(channels, inner, (frames, 1, 1))
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = _conv(inner, inner, (1, 3, 3), stride=stride)
        self.bn2 = nn.BatchNorm3d(inner)
        self.conv3 = _conv(inner, outer, (1, 1, 1))
        self.bn3 = nn.BatchNorm3d(outer)
        nn.init.zeros_(self.bn3.weight)
        self.downsample = None
        if stride > 1 or channels != outer:
            conv = _conv(channels, outer, (1, 1, 1), stride=stride)
            self.downsample = nn.Sequential(conv, nn.BatchNorm3d(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _conv(before: int, after: int, kernel: tuple[int, int, int], *, stride: int = 1) -> nn.Conv3d:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    conv = nn.Conv3d(before, after, kernel, stride=(1, stride, stride), padding=padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _counters(state: Mapping[str, Tensor]) -> set[str]:
    """Returns the keys that checkpoints older than PyTorch 0.4.1 lack."""
    return {key for key in state if key.endswith("num_batches_tracked")}
