"""STM: spatiotemporal and motion encoding.

Jiang et al., "STM: spatiotemporal and motion encoding for video action recognition", ICCV 2019.
The 3×3 convolution of every residual block becomes two modules side by side: a temporal
convolution of each channel before the spatial one (channel-wise spatiotemporal module), and the
difference of consecutive frames' features (channel-wise motion module).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import Backbone
from models.checks import check_count, check_one_of
from models.layers.frames import fold_frames, unfold_frames
from models.layers.temporal_conv import FrameConv2d, pair
from models.registry import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

__all__ = ["Stm", "StmConv2d", "StmOptions"]

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


class StmConv2d(FrameConv2d):
    """Conv2d(Temporal(X)) + Motion(X), instead of a block's spatial convolution.

    Temporal is a convolution of each channel over three frames that starts as the identity.
    Motion narrows X to Z; its frame t is K(Z_{t+1}) − Z_t with K a 3×3 convolution of each
    channel, its last frame zero; and it is widened again, by weights from zero (ours), so that the
    block starts as the 2-D one.
    """

    def __init__(self, conv: nn.Conv2d, reduction: int) -> None:
        super().__init__(conv)
        channels, narrow = conv.in_channels, max(1, conv.in_channels // reduction)
        self.over_time = nn.Conv3d(
            channels, channels, (3, 1, 1), padding=(1, 0, 0), groups=channels, bias=False
        )
        with torch.no_grad():
            self.over_time.weight.zero_()[:, :, 1] = 1
        self.narrow = nn.Conv2d(channels, narrow, 1, bias=False)
        self.ahead = nn.Conv2d(narrow, narrow, 3, padding=1, groups=narrow, bias=False)
        self.widen = nn.Conv2d(narrow, conv.out_channels, 1, stride=pair(conv.stride), bias=False)
        nn.init.zeros_(self.widen.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B·T, C, H, W) to (B·T, C', H', W')."""
        mixed = fold_frames(self.over_time(unfold_frames(x, self.frames)))
        z = self.narrow(x)
        ahead, now = unfold_frames(self.ahead(z), self.frames), unfold_frames(z, self.frames)
        change = F.pad(ahead[:, :, 1:] - now[:, :, :-1], (0, 0, 0, 0, 0, 1))
        motion: Tensor = self.widen(fold_frames(change))
        return super().forward(mixed) + motion


def _spatial_convs(backbone: Backbone) -> tuple[str, ...]:
    names = [name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)]
    if backbone.name == "small":
        return tuple(names[1:])
    return tuple(n for n in names if n.startswith("layer") and n.endswith(".conv2"))


@register_model("stm", StmOptions)
class Stm(SegmentNetwork):
    """A segment network of STM blocks. In the small network all but its first convolution are."""

    options: StmOptions

    def _prepare_backbone(self, backbone: Backbone) -> None:
        for name in _spatial_convs(backbone):
            conv = backbone.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            backbone.set_submodule(name, StmConv2d(conv, self.options.motion_reduction))
