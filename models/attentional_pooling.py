"""Attentional pooling.

Girdhar and Ramanan, "Attentional pooling for action recognition", NeurIPS 2017. Second-order
pooling with class weights of low rank, Tr(XᵀX W_kᵀ) with W_k = Σ_p a_kp b_pᵀ, is a product of two
attention maps: X b says where to look for any class, X a_k for class k.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import Backbone
from models.checks import check_count
from models.layers.head import mlp_head
from models.registry import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

__all__ = ["AttentionalPooling", "AttentionalPoolingOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionalPoolingOptions(SegmentOptions):
    """Options of ``attentional_pooling``, in addition to those of every segment network.

    Attributes:
        rank: Pairs of attention maps P; the paper's is 1.
        bias: Where the classes' biases c_k are added: to the score, or as in the authors' code to
            the map of class k, inside the product: mean_i Σ_p (x_i·a_kp + c_kp)(x_i·b_p).
    """

    backbone: str = "resnet101"
    rank: int = 1
    bias: Literal["score", "map"] = "score"

    def __post_init__(self) -> None:
        SegmentOptions.__post_init__(self)
        check_count("rank", self.rank)


@register_model("attentional_pooling", AttentionalPoolingOptions)
class AttentionalPooling(SegmentNetwork):
    """A segment network with score_k = mean_i Σ_p (x_i·a_kp)(x_i·b_p) over a frame's cells i.

    It is computed as a_k · mean_i (x_i·b) x_i: the classifier's weights are a, and its features
    the P weighted means side by side. For a bias of the maps each x_i has a one more, whose weight
    is c_k. A score is a mean over cells of one frame: no motion shows in it.
    """

    options: AttentionalPoolingOptions

    def __init__(self, options: AttentionalPoolingOptions, *, num_classes: int) -> None:
        super().__init__(options, num_classes=num_classes)
        self.saliency = nn.ModuleDict()
        for stream in self.streams:
            with self.own_seed(f"{stream}/saliency"):
                self.saliency[stream] = nn.Conv2d(self._channels(stream), options.rank, 1)

    def _channels(self, stream: str) -> int:
        backbone = self.backbones[stream]
        assert isinstance(backbone, Backbone)
        return backbone.num_features

    def _build_head(self, backbone: Backbone) -> nn.Module:
        in_maps = self.options.bias == "map"
        size = (backbone.num_features + in_maps) * self.options.rank
        head = mlp_head(size, (), self.num_classes, dropout=self.options.dropout)
        if in_maps:
            head[-1].register_parameter("bias", None)
        return head

    def _pool(self, stream: str, maps: Tensor) -> Tensor:
        cells = maps.flatten(2)  # (B·T, D, n)
        if self.options.bias == "map":
            cells = F.pad(cells, (0, 0, 0, 1), value=1)
        where = self.saliency[stream](maps).flatten(2)  # (B·T, P, n)
        return torch.einsum("bpn,bdn->bpd", where, cells).flatten(1) / cells.shape[2]
