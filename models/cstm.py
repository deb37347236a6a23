"""CSTM: collaborative spatial-temporal module, and the other arms of its ablation.

Zheng and Zhang, "Collaborative spatial-temporal networks for action recognition": a 3-D
convolution and a 2-D convolution behind a temporal shift, side by side, and an attention that
reweights the two, in BN-Inception or Inception-v3 on 8 or 16 RGB frames.

Public of it are the abstract and the tables. That the two branches replace the 2-D
convolutions where gate-shift networks have their gates, and how the attention is computed, is our
reading.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from models.backbones import Backbone
from models.checks import check_count, check_number, check_one_of
from models.layers.temporal_conv import MIXING_BACKBONES, TemporalConv2d, insert_temporal_convs
from models.registry import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

__all__ = ["Cstm", "CstmOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CstmOptions(SegmentOptions):
    """Options of ``cstm``, in addition to those of every segment network.

    Attributes:
        module: What the chosen convolutions become: left as they are (``2d``),
            behind a temporal shift (``shift``), 3-D (``3d``), the sum of the last two
            (``3d_shift_sum``), before a gated shift (``gsm``), that under the attention
            (``gsm_attention``), or the collaborative module (``cstm``).
        shift_fraction: Share of the channels that the temporal shift moves each way.
        attention_reduction: Factor by which the attention's hidden layer is narrower.
    """

    backbone: str = "bn_inception"
    module: Literal["2d", "shift", "3d", "3d_shift_sum", "gsm", "gsm_attention", "cstm"] = "cstm"
    shift_fraction: float = 0.125
    attention_reduction: int = 16

    def __post_init__(self) -> None:
        SegmentOptions.__post_init__(self)
        check_count("attention_reduction", self.attention_reduction)
        check_number("shift_fraction", self.shift_fraction, above=0, most=0.5)
        if self.module != "2d":
            check_one_of("backbone", self.backbone, MIXING_BACKBONES)

    def without_effect(self) -> frozenset[str]:
        """Returns the options that make no difference beside the others."""
        unused: set[str] = set()
        if self.module not in ("shift", "3d_shift_sum", "cstm"):
            unused |= {"shift_fraction"}
        if self.module not in ("gsm_attention", "cstm"):
            unused |= {"attention_reduction"}
        return frozenset(unused)


@register_model("cstm", CstmOptions)
class Cstm(SegmentNetwork):
    """A segment network whose backbone mixes frames as ``module`` says."""

    options: CstmOptions

    def _prepare_backbone(self, backbone: Backbone) -> None:
        options = self.options
        if options.module != "2d":
            insert_temporal_convs(
                backbone,
                options.module,
                shift_fraction=options.shift_fraction,
                reduction=options.attention_reduction,
            )

    def load_backbone_weights(
        self, state_dict: Mapping[str, Tensor], streams: Collection[str] | None = None
    ) -> set[str]:
        """Starts the backbones from 2-D weights, and the 3-D branches from the same, inflated."""
        used = super().load_backbone_weights(state_dict, streams)
        for module in self.modules_of(TemporalConv2d, streams):
            module.inflate()
        return used
