"""Spatiotemporal multiplier networks, and spatiotemporal residual networks.

Feichtenhofer, Pinz and Wildes, "Spatiotemporal multiplier networks for video action recognition",
CVPR 2017: the motion stream gates the residual branches of the appearance stream, and the frames
of a clip are pooled by their maximum, cell by cell. Its additive form is Feichtenhofer, Pinz and
Wildes, "Spatiotemporal residual networks for video action recognition", NeurIPS 2016.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from models.backbone_options import BackboneOptions
from models.backbones import Backbone
from models.checks import check_one_of
from models.layers.frames import fold_frames, split_clips, unfold_frames
from models.layers.head import mlp_head
from models.output import ModelOutput
from models.registry import register_model
from models.video_model import VideoModel

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

__all__ = ["SpatiotemporalMultiplier", "SpatiotemporalMultiplierOptions", "residual_sum"]

BACKBONES = ("small", "resnet18", "resnet34", "resnet50", "resnet101")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpatiotemporalMultiplierOptions(BackboneOptions):
    """Options of ``spatiotemporal_multiplier``, in addition to those of its backbones.

    Attributes:
        interaction: What motion does to the input of appearance's residual branches: multiply it,
            add to it, or nothing.
        temporal_conv: Mix frames by a convolution over three that starts as the identity. That it
            stands behind the last maps only is ours.
    """

    interaction: Literal["multiply", "add", "none"] = "multiply"
    temporal_conv: bool = True

    def __post_init__(self) -> None:
        BackboneOptions.__post_init__(self)
        check_one_of("backbone", self.backbone, BACKBONES)


def residual_sum(block: "BasicBlock | Bottleneck", x: Tensor, seen: Tensor) -> Tensor:
    """Returns x + F(seen) of a residual block, before its last ReLU (eq. 5)."""
    shortcut = x if block.downsample is None else block.downsample(x)
    y = block.relu(block.bn1(block.conv1(seen)))
    y = block.bn2(block.conv2(y))
    if hasattr(block, "conv3"):
        y = block.bn3(block.conv3(block.relu(y)))
    return cast(Tensor, y + shortcut)


@register_model("spatiotemporal_multiplier", SpatiotemporalMultiplierOptions)
class SpatiotemporalMultiplier(VideoModel):
    """Two ResNets; motion enters the second residual block of each of appearance's stages.

    With x_a and x_m the sums of both streams' blocks before, and f the ReLU, that block is
    f(f(x_a) + F(x_a ⊙ f(x_m))) (eq. 5): what is multiplied is appearance before its ReLU. The small
    network has no residual branch; there motion multiplies what every stage but the first sees
    (ours).
    """

    def __init__(self, options: SpatiotemporalMultiplierOptions, *, num_classes: int) -> None:
        super().__init__(
            num_classes=num_classes,
            independent_streams=options.interaction == "none",
            flow_length=options.flow_length,
            partial_bn=options.partial_bn,
        )
        self.options = options
        self.interacts = options.interaction != "none"
        self.backbones = nn.ModuleDict()
        self.mixers = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for stream in self.streams:
            with self.own_seed(stream):
                backbone = self.new_backbone(options.backbone, stream)
                size = backbone.num_features
                self.backbones[stream] = backbone
                self.heads[stream] = mlp_head(size, (), num_classes, dropout=options.dropout)
                if options.temporal_conv:
                    self.mixers[stream] = _identity_over_time(size)

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        """Classifies B clips; see `VideoModel.forward`."""
        inputs = self.check_inputs(rgb, flow)
        frames = inputs["rgb"].shape[1]
        spatial, temporal = inputs["rgb"].flatten(0, 1), inputs["flow"].flatten(0, 1)
        for stage in cast(Backbone, self.backbones["spatial"]).stages:
            spatial, temporal = self._run_stage(stage, spatial, temporal)
        output = ModelOutput(logits={}, features={})
        for stream, maps in (("spatial", spatial), ("temporal", temporal)):
            if stream in self.mixers:
                maps = fold_frames(self.mixers[stream](unfold_frames(maps, frames)))
            pooled = split_clips(maps, frames).amax(dim=1).mean(dim=(2, 3))
            output.features[stream] = pooled
            output.logits[stream] = self.heads[stream](pooled)
        return output

    def _run_stage(self, stage: str, spatial: Tensor, temporal: Tensor) -> tuple[Tensor, Tensor]:
        """Runs both streams through a stage, (B·T, C, h, w) each."""
        appearance, motion = (cast(Backbone, self.backbones[stream]) for stream in self.streams)
        if self.options.backbone == "small":
            gated = self.interacts and stage != appearance.stages[0]
            seen = self._gate(spatial, temporal) if gated else spatial
            return appearance.forward_stage(stage, seen), motion.forward_stage(stage, temporal)
        if not stage.startswith("layer"):
            return appearance.forward_stage(stage, spatial), motion.forward_stage(stage, temporal)
        blocks = zip(
            cast(nn.Sequential, appearance.get_submodule(stage)),
            cast(nn.Sequential, motion.get_submodule(stage)),
            strict=True,
        )
        before = spatial  # its ReLU
        for i, (a, m) in enumerate(blocks):
            seen = self._gate(before, temporal) if i == 1 and self.interacts else spatial
            before = residual_sum(cast("Bottleneck", a), spatial, seen)
            spatial, temporal = before.relu(), m(temporal)
        return spatial, temporal

    def _gate(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        if self.options.interaction == "multiply":
            return spatial * temporal
        return spatial + temporal


def _identity_over_time(channels: int) -> nn.Conv3d:
    conv = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0), bias=False)
    with torch.no_grad():
        conv.weight.zero_()[:, :, 1, 0, 0] = torch.eye(channels)
    return conv
