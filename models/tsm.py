"""TSM: temporal shift module.

Lin, Gan and Han, "TSM: temporal shift module for efficient video understanding", ICCV 2019. In
every residual branch an eighth of the channels comes from the next frame and an eighth from the
one before; the network is a temporal segment network in all else.
"""

from dataclasses import dataclass

from models.backbones import Backbone
from models.checks import check_number, check_one_of
from models.layers.temporal_conv import MIXING_BACKBONES, insert_temporal_convs
from models.registry import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

__all__ = ["Tsm", "TsmOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TsmOptions(SegmentOptions):
    """Options of ``tsm``, in addition to those of every segment network.

    Attributes:
        shift_fraction: Share of the channels that is shifted each way.
    """

    shift_fraction: float = 0.125

    def __post_init__(self) -> None:
        SegmentOptions.__post_init__(self)
        check_one_of("backbone", self.backbone, MIXING_BACKBONES)
        check_number("shift_fraction", self.shift_fraction, above=0, most=0.5)


@register_model("tsm", TsmOptions)
class Tsm(SegmentNetwork):
    """A segment network with shifted residual branches; it adds no parameters."""

    options: TsmOptions

    def _prepare_backbone(self, backbone: Backbone) -> None:
        insert_temporal_convs(backbone, "shift", shift_fraction=self.options.shift_fraction)
