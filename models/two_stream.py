"""The classic two-stream network.

Simonyan and Zisserman, "Two-stream convolutional networks for action recognition in videos",
NeurIPS 2014: a network of single frames and one of flow stacks, fully connected layers and all,
that meet in their class scores only. It is trained on one frame of a video (clips of T = 1) and
tested on 25, whose class scores are averaged. The paper's temporal network leaves out the second
normalisation to save memory; here both networks have it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from models.backbones import Backbone
from models.checks import check_count
from models.layers.fully_connected import load_fully_connected, native_grid, pool_to_grid
from models.layers.head import ClassifierWithFeatures, mlp_head
from models.registry import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

__all__ = ["TwoStream", "TwoStreamOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoStreamOptions(SegmentOptions):
    """Options of ``two_stream``, in addition to those of every segment network.

    Attributes:
        head_dims: Hidden layers of each stream's classifier, fc6 and fc7 of VGG-M-2048; empty for
            backbones that average their last map.
        head_grid: Side of the grid of cells that it sees; None is the backbone's own.
    """

    backbone: str = "vgg_m_2048"
    streams: tuple[str, ...] = ("spatial", "temporal")
    head_dims: tuple[int, ...] = (4096, 2048)
    head_grid: int | None = None
    dropout: float = 0.9

    def __post_init__(self) -> None:
        SegmentOptions.__post_init__(self)
        check_count("head_dims", self.head_dims)
        if self.head_grid is not None:
            check_count("head_grid", self.head_grid)


@register_model("two_stream", TwoStreamOptions)
class TwoStream(SegmentNetwork):
    """Two networks without any exchange."""

    options: TwoStreamOptions

    def _grid(self) -> int:
        return self.options.head_grid or native_grid(self.options.backbone)

    def _build_head(self, backbone: Backbone) -> nn.Module:
        return ClassifierWithFeatures(
            *mlp_head(
                backbone.num_features * self._grid() ** 2,
                self.options.head_dims,
                self.num_classes,
                dropout=self.options.dropout,
            )
        )

    def _pool(self, stream: str, maps: Tensor) -> Tensor:
        return pool_to_grid(maps, self._grid())

    def _classify(self, stream: str, frames: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.heads[stream](frames)
        return features.mean(dim=1), logits.mean(dim=1)

    def load_backbone_weights(
        self, state_dict: Mapping[str, Tensor], streams: Collection[str] | None = None
    ) -> set[str]:
        """Starts the backbones, and fc6 and fc7 where they have the checkpoint's shape."""
        used = super().load_backbone_weights(state_dict, streams)
        for stream in self.streams if streams is None else streams:
            used |= load_fully_connected(self._head(stream), state_dict)
        return used
