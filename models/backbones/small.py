"""A small network of ours for small images (about 64 px) without pretrained weights."""

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone
from models.backbones.registry import register_backbone

__all__ = ["Small"]

CHANNELS = (24, 48, 96, 96)


@register_backbone("small")
class Small(Backbone):
    """Four 3×3 convolutions of stride 2, each with GroupNorm and ReLU.

    GroupNorm keeps frames independent of each other and works at any batch size.
    """

    first_conv = "stage1.0"

    def __init__(self, name: str, *, in_channels: int = 3) -> None:
        super().__init__()
        self.name = name
        self.in_channels = in_channels
        self.stages = tuple(f"stage{i + 1}" for i in range(len(CHANNELS)))
        self.stage_channels = dict(zip(self.stages, CHANNELS, strict=True))
        inputs = (in_channels, *CHANNELS)
        for stage, before, after in zip(self.stages, inputs, CHANNELS, strict=False):
            conv = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            norm = nn.GroupNorm(after // 12, after)
            self.add_module(stage, nn.Sequential(conv, norm, nn.ReLU(inplace=True)))

    def forward_stage(self, stage: str, x: Tensor) -> Tensor:
        """Runs one stage; see `Backbone.forward_stage`."""
        if stage == self.stages[0]:
            # Twice as fast on a CPU when a flow stack has 20 channels, never slower.
            x = x.contiguous(memory_format=torch.channels_last)
        maps: Tensor = self.get_submodule(stage)(x)
        return maps
