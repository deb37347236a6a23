"""Inception with batch normalisation (Ioffe and Szegedy, ICML 2015)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.base import Backbone
from models.backbones.registry import register_backbone

__all__ = ["BNInception"]

PUBLISHED_MEAN = (128.0, 117.0, 104.0)  # red, green, blue


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Channels of one Inception block's units; a block without ``one`` halves the resolution."""

    one: int = 0
    three: tuple[int, int]
    double: tuple[int, int]
    pool: Literal["average", "max"]
    projection: int = 0

    @property
    def stride(self) -> int:
        return 1 if self.one else 2


BLOCKS = {
    "inception_3a": Block(one=64, three=(64, 64), double=(64, 96), pool="average", projection=32),
    "inception_3b": Block(one=64, three=(64, 96), double=(64, 96), pool="average", projection=64),
    "inception_3c": Block(three=(128, 160), double=(64, 96), pool="max"),
    "inception_4a": Block(
        one=224, three=(64, 96), double=(96, 128), pool="average", projection=128
    ),
    "inception_4b": Block(
        one=192, three=(96, 128), double=(96, 128), pool="average", projection=128
    ),
    "inception_4c": Block(
        one=160, three=(128, 160), double=(128, 160), pool="average", projection=128
    ),
    "inception_4d": Block(
        one=96, three=(128, 192), double=(160, 192), pool="average", projection=128
    ),
    "inception_4e": Block(three=(128, 192), double=(192, 256), pool="max"),
    "inception_5a": Block(
        one=352, three=(192, 320), double=(160, 224), pool="average", projection=128
    ),
    "inception_5b": Block(one=352, three=(192, 320), double=(192, 224), pool="max", projection=128),
}


@register_backbone("bn_inception")
class BNInception(Backbone):
    """BN-Inception under the layer names of its public checkpoints.

    Every convolution ``X`` has a bias and a BatchNorm ``X_bn``, and a ReLU follows. The stages are
    ``pool1`` (÷4), ``pool2`` (÷8) and the last block at each resolution, ``inception_3b`` (÷8),
    ``inception_4d`` (÷16) and ``inception_5b`` (÷32). The halving max-pools reach over an odd
    map's edge (ours), so that they match the parallel convolutions at any size.

    The public checkpoints take blue, green, red in 0..255 less a mean. ``load_weights`` folds
    that into the first convolution, so that images are red, green, blue in ImageNet's
    normalisation here as for every backbone; only within three pixels of the border, where the
    padding's colour differs, do the results differ. It also takes the (1, C) shape that old
    checkpoints give BatchNorm.
    """

    first_conv = "conv1_7x7_s2"
    classifier_prefixes = ("fc.", "last_linear.")
    min_size = 32
    stages = ("pool1", "pool2", "inception_3b", "inception_4d", "inception_5b")

    def __init__(self, name: str, *, in_channels: int = 3) -> None:
        super().__init__()
        self.name = name
        self.in_channels = in_channels
        self._add("conv1_7x7_s2", in_channels, 64, 7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        self.stage_channels = {"pool1": 64, "pool2": 192}
        channels = 192
        for block in BLOCKS:
            channels = self._add_block(block, channels)
            if block in self.stages:
                self.stage_channels[block] = channels

    def _add(self, unit: str, before: int, after: int, kernel: int, *, stride: int = 1) -> None:
        conv = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self.add_module(unit, conv)
        self.add_module(f"{unit}_bn", nn.BatchNorm2d(after))

    def _add_block(self, name: str, channels: int) -> int:
        """Adds a block's units; returns the channels of its output."""
        block = BLOCKS[name]
        if block.one:
            self._add(f"{name}_1x1", channels, block.one, 1)
        self._add(f"{name}_3x3_reduce", channels, block.three[0], 1)
        self._add(f"{name}_3x3", *block.three, 3, stride=block.stride)
        reduced, double = block.double
        self._add(f"{name}_double_3x3_reduce", channels, reduced, 1)
        self._add(f"{name}_double_3x3_1", reduced, double, 3)
        self._add(f"{name}_double_3x3_2", double, double, 3, stride=block.stride)
        if block.projection:
            self._add(f"{name}_pool_proj", channels, block.projection, 1)
        return block.one + block.three[1] + double + (block.projection or channels)

    def forward_stage(self, stage: str, x: Tensor) -> Tensor:
        """Runs one stage; see `Backbone.forward_stage`."""
        if stage == "pool1":
            return F.max_pool2d(self._unit("conv1_7x7_s2", x), 3, stride=2, ceil_mode=True)
        if stage == "pool2":
            x = self._unit("conv2_3x3", self._unit("conv2_3x3_reduce", x))
            return F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        names = list(BLOCKS)
        before = self.stages[self.stages.index(stage) - 1]
        start = names.index(before) + 1 if before in names else 0
        for name in names[start : names.index(stage) + 1]:
            x = self._block(name, x)
        return x

    def _unit(self, name: str, x: Tensor) -> Tensor:
        x = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
        return F.relu(x, inplace=True)

    def _block(self, name: str, x: Tensor) -> Tensor:
        block = BLOCKS[name]
        three = self._unit(f"{name}_3x3", self._unit(f"{name}_3x3_reduce", x))
        double = self._unit(f"{name}_double_3x3_reduce", x)
        double = self._unit(f"{name}_double_3x3_1", double)
        double = self._unit(f"{name}_double_3x3_2", double)
        if block.stride == 2:
            return torch.cat([three, double, _halve(x)], dim=1)
        if block.pool == "average":
            pooled = F.avg_pool2d(x, 3, stride=1, padding=1)
        else:
            pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        one, pooled = self._unit(f"{name}_1x1", x), self._unit(f"{name}_pool_proj", pooled)
        return torch.cat([one, three, double, pooled], dim=1)

    def _adapt_checkpoint(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        adapted = {
            key: value[0] if "_bn." in key and value.ndim == 2 and len(value) == 1 else value
            for key, value in weights.items()
        }
        self._fold_caffe_images(adapted, PUBLISHED_MEAN)
        return adapted


def _halve(x: Tensor) -> Tensor:
    """Max-pools 3×3 at stride 2, ``(N, C, h, w)`` to ``(N, C, ⌈h/2⌉, ⌈w/2⌉)``."""
    down, across = x.shape[-2] % 2, x.shape[-1] % 2
    if down or across:
        # Zeros can't win: x comes from a ReLU.
        x = F.pad(x, (0, across, 0, down))
    return F.max_pool2d(x, 3, stride=2, ceil_mode=True)
