"""R(2+1)D: residual networks of spatial and temporal convolutions in turn.

Tran et al., "A closer look at spatiotemporal convolutions for action recognition", CVPR 2018. The
network is torchvision's, with the paper's number of channels between the two convolutions.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from models.checks import check_count, check_number
from models.registry import register_model
from models.volume_network import VolumeNetwork, VolumeOptions, scale_width

__all__ = ["R2Plus1d", "R2Plus1dOptions"]

FEATURES = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class R2Plus1dOptions(VolumeOptions):
    """Options of ``r2plus1d``, in addition to those of every 3-D network.

    Attributes:
        depths: Residual blocks of each stage: (2, 2, 2, 2) is R(2+1)D-18, (3, 4, 6, 3) the 34.
        middle: Channels between the convolution over cells and the one over frames: of each pair
            as many as give it the parameters of one over both (``paper``, §3.5: 33.4 million with
            400 classes at depth 18, 63.7 at 34), or those of a block's first pair for its second as
            well (``torchvision``, whose weights need it: 31.5 and 61.8).
        width: Factor on the stages' channels, not the stem's (ours; 1 is the paper's).
    """

    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    middle: Literal["paper", "torchvision"] = "paper"
    width: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        VolumeOptions.__post_init__(self)
        check_count("depths", self.depths)
        check_number("width", self.width, least=0)


@register_model("r2plus1d", R2Plus1dOptions)
class R2Plus1d(VolumeNetwork):
    """torchvision's R(2+1)D of basic blocks."""

    classifier_prefixes = ("fc.",)
    options: R2Plus1dOptions

    def _build_net(self, in_channels: int) -> tuple[nn.Module, int]:
        middle = self.options.middle
        if (self.options.depths, self.options.width, middle) == ((2, 2, 2, 2), 1, "torchvision"):
            self.kinetics_network = "r2plus1d_18"
        net = _scaled_network(self.options.width, self.options.depths, middle)
        if in_channels != 3:
            net.stem[0] = nn.Conv3d(
                in_channels, 45, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False
            )
            nn.init.kaiming_normal_(net.stem[0].weight, mode="fan_out", nonlinearity="relu")
        del net.avgpool, net.fc
        return nn.Sequential(OrderedDict(net.named_children())), scale_width(
            FEATURES, self.options.width
        )


def _scaled_network(width: float, depths: tuple[int, ...], middle: str) -> Any:
    """Returns torchvision's R(2+1)D with its stages' channels times a factor.

    By the paper's rule there are M = ⌊t·d²·N·N' / (d²·N + t·N')⌋ channels between the convolutions
    of every pair (§3.5).
    """
    from torchvision.models.video import resnet

    class OwnMiddle(resnet.Conv2Plus1D):  # type: ignore[misc, unused-ignore]
        def __init__(
            self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1
        ) -> None:
            middle = 27 * in_planes * out_planes // (9 * in_planes + 3 * out_planes)
            super().__init__(in_planes, out_planes, middle, stride, padding)

    class Scaled(resnet.VideoResNet):  # type: ignore[misc, unused-ignore]
        def _make_layer(
            self, block: Any, conv_builder: Any, planes: int, blocks: int, stride: int = 1
        ) -> nn.Sequential:
            scaled = scale_width(planes, width)
            layer: nn.Sequential = super()._make_layer(block, conv_builder, scaled, blocks, stride)
            return layer

    return Scaled(
        block=resnet.BasicBlock,
        conv_makers=[OwnMiddle if middle == "paper" else resnet.Conv2Plus1D] * 4,
        layers=list(depths),
        stem=resnet.R2Plus1dStem,
        num_classes=1,
    )
