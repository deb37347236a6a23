"""TSN: temporal segment networks.

Wang et al., "Temporal segment networks: towards good practices for deep action recognition",
ECCV 2016. One frame, and one flow stack, of each of T segments goes through the same 2-D network;
a consensus of the segments' class scores is what is trained.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from models.registry import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

__all__ = ["Tsn", "TsnOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TsnOptions(SegmentOptions):
    """Options of ``tsn``, in addition to those of every segment network.

    Attributes:
        consensus: The segments' logits are averaged, or their maximum is taken class by class.
    """

    backbone: str = "bn_inception"
    streams: tuple[str, ...] = ("spatial", "temporal")
    consensus: Literal["average", "max"] = "average"
    dropout: float = 0.8


@register_model("tsn", TsnOptions)
class Tsn(SegmentNetwork):
    """Segment networks of one or two streams."""

    options: TsnOptions

    def _classify(self, stream: str, frames: Tensor) -> tuple[Tensor, Tensor]:
        if self.options.consensus == "average":
            return super()._classify(stream, frames)
        return frames.mean(dim=1), self._head(stream)(frames).amax(dim=1)
