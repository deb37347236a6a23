"""What segment networks share: a 2-D network on each frame, and the frames' consensus.

Wang et al., "Temporal segment networks: towards good practices for deep action recognition",
ECCV 2016. Networks that mix frames inside the backbone differ from it only in
``_prepare_backbone`` or ``_extract``.
"""

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from models.backbone_options import BackboneOptions
from models.backbones import Backbone
from models.checks import check_subset
from models.layers.frames import set_frames, split_clips
from models.layers.head import mlp_head
from models.output import ModelOutput
from models.video_model import STREAM_INPUTS, VideoModel

__all__ = ["SegmentNetwork", "SegmentOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentOptions(BackboneOptions):
    """Options that every segment network has, in addition to those of its backbones.

    Attributes:
        streams: ``("spatial",)``, ``("temporal",)`` or both; they train independently.
    """

    streams: tuple[str, ...] = ("spatial",)

    def __post_init__(self) -> None:
        BackboneOptions.__post_init__(self)
        check_subset("streams", self.streams, tuple(STREAM_INPUTS))


class SegmentNetwork(VideoModel):
    """A backbone and a classifier for each stream; the frames' class scores are averaged.

    Args:
        options: The options that all segment networks have.
        num_classes: Number of classes N.
    """

    options: SegmentOptions

    def __init__(self, options: SegmentOptions, *, num_classes: int) -> None:
        super().__init__(
            num_classes=num_classes,
            streams=options.streams,
            independent_streams=True,
            flow_length=options.flow_length,
            partial_bn=options.partial_bn,
        )
        self.options = options
        self.backbones = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for stream in options.streams:
            with self.own_seed(stream):
                backbone = self.new_backbone(options.backbone, stream)
                self._prepare_backbone(backbone)
                self.backbones[stream] = backbone
                self.heads[stream] = self._build_head(backbone)

    def _prepare_backbone(self, backbone: Backbone) -> None:
        """Inserts what mixes frames; here nothing."""

    def _build_head(self, backbone: Backbone) -> nn.Module:
        """Returns a frame's classifier."""
        return mlp_head(backbone.num_features, (), self.num_classes, dropout=self.options.dropout)

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        """Classifies B clips; see `VideoModel.forward`."""
        inputs = self.check_inputs(rgb, flow)
        output = ModelOutput(logits={}, features={})
        for stream in self.streams:
            x = inputs[STREAM_INPUTS[stream]]
            frames = self._pool(stream, self._extract(stream, x, output))
            features, logits = self._classify(stream, split_clips(frames, x.shape[1]))
            output.features[stream], output.logits[stream] = features, logits
        return output

    def _extract(self, stream: str, x: Tensor, output: ModelOutput) -> Tensor:
        """Maps an input (B, T, C, H, W) to maps (B·T, D, h, w); may add to the output."""
        backbone = cast(Backbone, self.backbones[stream])
        set_frames(backbone, x.shape[1])
        return cast(Tensor, backbone(x.flatten(0, 1)))

    def _pool(self, stream: str, maps: Tensor) -> Tensor:
        """Pools maps (B·T, D, h, w) to what the classifier sees of a frame, (B·T, D)."""
        return maps.mean(dim=(2, 3))

    def _classify(self, stream: str, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Turns frames (B, T, D) into features (B, D) and logits (B, N), here by averages."""
        return frames.mean(dim=1), self._head(stream)(frames).mean(dim=1)

    def _head(self, stream: str) -> nn.Sequential:
        return cast(nn.Sequential, self.heads[stream])
