"""STM: spatiotemporal and motion encoding.

Jiang et al., "STM: spatiotemporal and motion encoding for video action recognition", ICCV 2019,
as in the authors' code: in every residual block, the 3×3 convolution comes behind a convolution of
each channel over time (channel-wise spatiotemporal module), and to what it gives is added the
difference of consecutive frames' features (channel-wise motion module).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import Backbone
from models.checks import check_count, check_one_of
from models.layers.frames import ClipModule, fold_frames, unfold_frames
from models.registry import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

__all__ = ["ChannelwiseMotion", "ChannelwiseTemporal", "Stm", "StmBlock", "StmOptions", "StmStage"]

BACKBONES = ("small", "resnet18", "resnet34", "resnet50", "resnet101")


@dataclass(frozen=True, kw_only=True, slots=True)
class StmOptions(SegmentOptions):
    """Options of ``stm``, in addition to those of every segment network.

    Attributes:
        motion_reduction: Factor by which the motion module is narrower than its block.
    """

    motion_reduction: int = 16

    def __post_init__(self) -> None:
        SegmentOptions.__post_init__(self)
        check_one_of("backbone", self.backbone, BACKBONES)
        check_count("motion_reduction", self.motion_reduction)


class ChannelwiseTemporal(ClipModule):
    """A convolution of each channel over three frames.

    It starts as a shift: the first quarter of the channels comes from the frame before, the last
    from the next, and the half between stays.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            channels, channels, (3, 1, 1), padding=(1, 0, 0), groups=channels, bias=False
        )
        quarter = channels // 4
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:quarter, :, 0] = 1
            self.conv.weight[quarter : channels - quarter, :, 1] = 1
            self.conv.weight[channels - quarter :, :, 2] = 1

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B·T, C, h, w) to the same shape."""
        return fold_frames(self.conv(unfold_frames(x, self.frames)))


class ChannelwiseMotion(ClipModule):
    """The change from each frame to the next.

    X is narrowed to Z, with BatchNorm; frame t is K(Z_{t+1}) − Z_t with K a 3×3 convolution of each
    channel, the last frame zero; and it is widened, then max-pooled where the block halves its map,
    over the far edge of an odd one (ours).
    """

    def __init__(self, conv: nn.Conv2d, reduction: int) -> None:
        super().__init__()
        channels, narrow = conv.in_channels, max(1, conv.in_channels // reduction)
        self.narrow = nn.Conv2d(channels, narrow, 1, bias=False)
        self.norm = nn.BatchNorm2d(narrow)
        self.ahead = nn.Conv2d(narrow, narrow, 3, padding=1, groups=narrow, bias=False)
        self.widen = nn.Conv2d(narrow, conv.out_channels, 1, bias=False)
        self.stride = int(conv.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B·T, C, h, w) to (B·T, C', h', w')."""
        z = self.norm(self.narrow(x))
        ahead, now = unfold_frames(self.ahead(z), self.frames), unfold_frames(z, self.frames)
        change = F.pad(ahead[:, :, 1:] - now[:, :, :-1], (0, 0, 0, 0, 0, 1))
        motion: Tensor = self.widen(fold_frames(change))
        return motion if self.stride == 1 else F.max_pool2d(motion, self.stride, ceil_mode=True)


class StmBlock(nn.Module):
    """A residual block with both modules at its second convolution, its layers under their names.

    In a bottleneck motion is added behind the second ReLU. A basic block has no ReLU there; it is
    added before the sum with the shortcut (ours).
    """

    def __init__(self, block: "BasicBlock | Bottleneck", reduction: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = block.conv1, block.bn1
        self.conv2, self.bn2 = block.conv2, block.bn2
        self.conv3 = self.bn3 = None
        if hasattr(block, "conv3"):
            self.conv3, self.bn3 = block.conv3, block.bn3
        self.downsample = block.downsample
        self.over_time = ChannelwiseTemporal(block.conv2.in_channels)
        self.motion = ChannelwiseMotion(block.conv2, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B·T, C, h, w) to (B·T, C', h', w')."""
        seen = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(self.over_time(seen)))
        motion = self.motion(seen)
        if self.conv3 is None or self.bn3 is None:
            y = y + motion
        else:
            y = self.bn3(self.conv3(F.relu(y) + motion))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class StmStage(nn.Sequential):
    """Convolution, norm and ReLU of the small network with both modules (ours)."""

    def __init__(self, stage: nn.Sequential, reduction: int) -> None:
        super().__init__(*stage)
        conv = cast(nn.Conv2d, stage[0])
        self.over_time = ChannelwiseTemporal(conv.in_channels)
        self.motion = ChannelwiseMotion(conv, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B·T, C, h, w) to (B·T, C', h', w')."""
        conv, norm, relu = self[0], self[1], self[2]
        y, motion = relu(norm(conv(self.over_time(x)))), self.motion(x)
        return cast(Tensor, y + motion)


@register_model("stm", StmOptions)
class Stm(SegmentNetwork):
    """A segment network of STM blocks. In the small network all stages but the first are."""

    options: StmOptions

    def _prepare_backbone(self, backbone: Backbone) -> None:
        reduction = self.options.motion_reduction
        for name in backbone.stages[1:]:
            stage = cast(nn.Sequential, backbone.get_submodule(name))
            if backbone.name == "small":
                backbone.set_submodule(name, StmStage(stage, reduction))
                continue
            for i, block in enumerate(stage):
                stage[i] = StmBlock(cast("Bottleneck", block), reduction)
