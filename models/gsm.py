"""GSM: gate-shift networks.

Sudhakaran, Escalera and Lanz, "Gate-shift networks for video action recognition", CVPR 2020. One
branch of every Inception block sends its features through a learned gate to the next or the
previous frame.
"""

from dataclasses import dataclass

from models.backbones import Backbone
from models.checks import check_one_of
from models.layers.temporal_conv import MIXING_BACKBONES, insert_temporal_convs
from models.registry import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

__all__ = ["Gsm", "GsmOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GsmOptions(SegmentOptions):
    """Options of ``gsm``: those of every segment network."""

    backbone: str = "bn_inception"

    def __post_init__(self) -> None:
        SegmentOptions.__post_init__(self)
        check_one_of("backbone", self.backbone, MIXING_BACKBONES)


@register_model("gsm", GsmOptions)
class Gsm(SegmentNetwork):
    """A segment network with a gated shift after the chosen convolutions."""

    def _prepare_backbone(self, backbone: Backbone) -> None:
        insert_temporal_convs(backbone, "gsm")
