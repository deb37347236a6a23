"""STILT: spatial-temporal interaction learning two-stream network.

Liu, Ma, Yang, Ji, Wang and Jiang, "Spatial-temporal interaction learning based two-stream network
for action recognition", Information Sciences 2022. Adaptively weighted fusion (§3.3) works on
scores and is in ``models.fusion``.

The backbones have torchvision's geometry; the paper's Table 2 swaps strides and prints a 7×7
max-pool.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.backbones import list_backbones
from models.checks import check_at_least, check_one_of, check_range, check_subset, check_types
from models.layers.attention import AlternatingCoAttention, place_code
from models.layers.head import mlp_head
from models.output import ModelOutput
from models.registry import STREAM_INPUTS, VideoModel, register_model

__all__ = ["Stilt", "StiltOptions"]

PLACE_FREQUENCIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class StiltOptions:
    """Options of ``stilt``.

    Attributes:
        backbone: Feature extractor of each stream; the paper's is ResNet-50, its Table 6 also has
            VGG-19 and ResNet-34.
        streams: ``("spatial", "temporal")``, or one of them without interaction.
        flow_length: Flow fields L in a stack.
        interaction: Alternating co-attention between the streams. Without it this is the plain
            two-stream net: pooled features, and streams that don't know of each other.
        attend_over: What co-attention weights: each frame's pooled features, as the paper draws
            it, or the cells of every frame's feature map (ours).
        place_code: Append sines and cosines of its place to every cell, so that the streams can
            tell each other where they look (ours; only for cells, and only with interaction).
        sharpness: Scale of the attention's scores at the start (ours). Trained from scratch over
            many cells, attention that starts uniform takes long to find anything; 7 doesn't.
        attention_dim: Hidden size of the attention (its ancestor's; the paper has no word of it).
        rounds: Times that the streams attend to each other.
        attention_dropout: Dropout inside the attention (likewise).
        head_dims: Sizes of the hidden layers of each stream's classifier (Table 3).
        dropout: Dropout after each hidden layer of the classifiers (ours).
        partial_bn: Freeze every BatchNorm of a backbone but the first.
    """

    backbone: str = "resnet50"
    streams: tuple[str, ...] = ("spatial", "temporal")
    flow_length: int = 10
    interaction: bool = True
    attend_over: Literal["frames", "cells"] = "frames"
    place_code: bool = False
    sharpness: float = 1.0
    attention_dim: int = 512
    rounds: int = 1
    attention_dropout: float = 0.5
    head_dims: tuple[int, ...] = (512, 1024)
    dropout: float = 0.5
    partial_bn: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        check_one_of(self, "backbone", list_backbones())
        check_subset(self, "streams", tuple(STREAM_INPUTS))
        for name in ("flow_length", "attention_dim", "rounds", "head_dims"):
            check_at_least(self, name, 1)
        check_at_least(self, "sharpness", 0)
        for name in ("attention_dropout", "dropout"):
            check_range(self, name, 0, 1)
        if self.interaction and len(self.streams) < 2:
            raise ValueError(
                "`interaction` needs both streams, 'spatial' and 'temporal', but `streams` is "
                f"{self.streams!r}; give interaction=False."
            )
        if self.place_code and self.attend_over != "cells":
            raise ValueError(
                f"`place_code` needs attend_over='cells', but got attend_over={self.attend_over!r}."
            )


@register_model("stilt", StiltOptions)
class Stilt(VideoModel):
    """Two backbones, alternating co-attention between them, one classifier for each.

    The output's ``attention`` has ``summary``, ``spatial`` and ``temporal`` over the n = T frames
    or n = T·h·w cells, frame by frame and row by row.
    """

    def __init__(self, options: StiltOptions, *, num_classes: int) -> None:
        super().__init__(
            num_classes=num_classes,
            streams=options.streams,
            independent_streams=not options.interaction,
            flow_length=options.flow_length,
            partial_bn=options.partial_bn,
        )
        self.options = options
        self.backbones = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for stream in options.streams:
            with self.own_seed(stream):
                backbone = self.new_backbone(options.backbone, stream)
                placed = options.interaction and options.place_code
                size = backbone.num_features + placed * 4 * PLACE_FREQUENCIES
                self.backbones[stream] = backbone
                self.heads[stream] = mlp_head(
                    size, options.head_dims, num_classes, dropout=options.dropout
                )
        self.interaction = None
        if options.interaction:
            with self.own_seed("interaction"):
                self.interaction = AlternatingCoAttention(
                    (size, size),
                    attention_dim=options.attention_dim,
                    rounds=options.rounds,
                    dropout=options.attention_dropout,
                    sharpness=options.sharpness,
                )

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        inputs = self.check_inputs(rgb, flow)
        features = {
            stream: self._extract(self.backbones[stream], inputs[STREAM_INPUTS[stream]])
            for stream in self.streams
        }  # each (B, n, D)
        if self.interaction is None:
            pooled = {stream: feature.mean(dim=1) for stream, feature in features.items()}
            attention: dict[str, Tensor] = {}
        else:
            pooled, attention = self.interaction(features["spatial"], features["temporal"])
        logits = {stream: self.heads[stream](pooled[stream]) for stream in self.streams}
        return ModelOutput(logits=logits, features=pooled, attention=attention)

    def _extract(self, backbone: nn.Module, x: Tensor) -> Tensor:
        """Features of what is attended: (B, T, C, H, W) → (B, T, D) or (B, T·h·w, D)."""
        clips, frames = x.shape[:2]
        maps = backbone(x.flatten(0, 1))  # (B·T, D, h, w)
        if self.interaction is None or self.options.attend_over == "frames":
            return maps.mean(dim=(2, 3)).unflatten(0, (clips, frames))
        cells = maps.flatten(2).transpose(1, 2)  # (B·T, h·w, D)
        if self.options.place_code:
            code = place_code(*maps.shape[2:], frequencies=PLACE_FREQUENCIES, like=maps)
            cells = torch.cat([cells, code.expand(cells.shape[0], -1, -1)], dim=-1)
        return cells.unflatten(0, (clips, frames)).flatten(1, 2)
