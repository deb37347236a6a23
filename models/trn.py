"""TRN: multi-scale temporal relation networks.

Zhou, Andonian, Oliva and Torralba, "Temporal relational reasoning in videos", ECCV 2018. A small
network sees ordered pairs of frames, another one triples, and so on; their class scores add up.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.backbones import Backbone
from models.checks import check_count
from models.registry import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

__all__ = ["RelationHead", "Trn", "TrnOptions", "relation_frames"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrnOptions(SegmentOptions):
    """Options of ``trn``, in addition to those of every segment network.

    Attributes:
        frames: Largest number of frames in a relation, two or more; clips of fewer frames use the
            scales that they can fill.
        relations: Sets of frames at each scale.
        relation_dim: Size of a frame's features and of a relation's hidden layer.
    """

    backbone: str = "bn_inception"
    frames: int = 8
    relations: int = 3
    relation_dim: int = 256
    dropout: float = 0.8

    def __post_init__(self) -> None:
        SegmentOptions.__post_init__(self)
        check_count("frames", self.frames, least=2)
        for name in ("relations", "relation_dim"):
            check_count(name, getattr(self, name))


def relation_frames(frames: int, scale: int, relations: int) -> list[tuple[int, ...]]:
    """Returns ordered sets of ``scale`` of a clip's frames, evenly spread and each once.

    The paper draws them at random; that these are fixed is ours, so that a clip has one score.

    Returns:
        At most ``relations`` increasing tuples; one where ``scale`` is ``frames``.
    """
    chosen = []
    for r in range(relations):
        # A frame of each of `scale` equal parts, at the same place in each.
        numerators = [2 * relations * i + 2 * r + 1 for i in range(scale)]
        chosen.append(tuple(n * frames // (2 * relations * scale) for n in numerators))
    return list(dict.fromkeys(chosen))


class RelationHead(nn.Module):
    """Σ_k Σ_r W_k ReLU(U_k [f_r1; …; f_rk] + u_k) + w_k over scales k = 2 … K (eqs. 1–3)."""

    def __init__(self, num_features: int, options: TrnOptions, num_classes: int) -> None:
        super().__init__()
        dim = options.relation_dim
        self.relations = options.relations
        self.dropout = nn.Dropout(options.dropout)
        self.project = nn.Linear(num_features, dim)
        scales = range(2, options.frames + 1)
        self.relate = nn.ModuleDict({str(k): nn.Linear(k * dim, dim) for k in scales})
        self.classify = nn.ModuleDict({str(k): nn.Linear(dim, num_classes) for k in scales})

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, T, D) to each scale's summed relations, (B, (K−1)·d), and logits (B, N)."""
        projected = self.project(self.dropout(frames)).relu()  # (B, T, d)
        features, logits = [], []
        for scale, relate in self.relate.items():
            k, count = int(scale), frames.shape[1]
            if k > count:
                features.append(torch.zeros_like(projected[:, 0]))
                continue
            chosen = relation_frames(count, k, self.relations)
            hidden = torch.stack([relate(projected[:, list(r)].flatten(1)).relu() for r in chosen])
            features.append(hidden.sum(dim=0))
            logits.append(self.classify[scale](hidden).sum(dim=0))
        return torch.cat(features, dim=1), torch.stack(logits).sum(dim=0)


@register_model("trn", TrnOptions)
class Trn(SegmentNetwork):
    """A segment network whose consensus is the sum of its relations; clips of two frames or more.

    The w_k of a scale counts once for each of its relations, as in public code of it. A frame's
    features are means over its cells, so that relations of frames see no motion within them.
    """

    options: TrnOptions

    def __init__(self, options: TrnOptions, *, num_classes: int) -> None:
        super().__init__(options, num_classes=num_classes)
        self.min_frames = 2

    def _build_head(self, backbone: Backbone) -> nn.Module:
        return RelationHead(backbone.num_features, self.options, self.num_classes)

    def _classify(self, stream: str, frames: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.heads[stream](frames)
        return features, logits
