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

from models.backbone_options import BackboneOptions
from models.checks import check_count, check_number, check_subset
from models.layers.attention import AlternatingCoAttention, positional_encoding
from models.layers.frames import split_clips
from models.layers.head import mlp_head
from models.output import ModelOutput
from models.registry import register_model
from models.video_model import STREAM_INPUTS, VideoModel

__all__ = ["Stilt", "StiltOptions"]

FREQUENCIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class StiltOptions(BackboneOptions):
    """Options of ``stilt``, in addition to those of its backbones.

    The paper's backbone is ResNet-50; its Table 6 also has VGG-19 and ResNet-34. Dropout follows
    each hidden layer of the classifiers (ours).

    Attributes:
        streams: ``("spatial", "temporal")``, or one of them without interaction.
        interaction: Alternating co-attention between the streams. Without it this is the plain
            two-stream net: pooled features, and streams without any exchange.
        attend_over: What co-attention weights: each frame's pooled features, as the paper draws
            it, or the cells of every frame's feature map (ours).
        positional_encoding: Append sines and cosines of its position to every cell, so that the
            streams can tell each other where they look (ours; only for cells, and only with
            interaction).
        sharpness: Scale of the attention's scores at the start (ours).
        attention_dim: Hidden size of the attention (its ancestor's; the paper doesn't give it).
        rounds: Times that the streams attend to each other.
        attention_dropout: Dropout inside the attention (likewise).
        head_dims: Sizes of the hidden layers of each stream's classifier (Table 3).
    """

    streams: tuple[str, ...] = ("spatial", "temporal")
    interaction: bool = True
    attend_over: Literal["frames", "cells"] = "frames"
    positional_encoding: bool = False
    sharpness: float = 1.0
    attention_dim: int = 512
    rounds: int = 1
    attention_dropout: float = 0.5
    head_dims: tuple[int, ...] = (512, 1024)

    def __post_init__(self) -> None:
        BackboneOptions.__post_init__(self)
        check_subset("streams", self.streams, tuple(STREAM_INPUTS))
        for name in ("attention_dim", "rounds", "head_dims"):
            check_count(name, getattr(self, name))
        check_number("sharpness", self.sharpness, least=0)
        check_number("attention_dropout", self.attention_dropout, least=0, below=1)
        if self.interaction and len(self.streams) < 2:
            raise ValueError(
                "interaction needs both streams, 'spatial' and 'temporal', got "
                f"streams={self.streams!r}; give interaction=False"
            )
        if self.positional_encoding and self.attend_over != "cells":
            raise ValueError(
                "positional_encoding needs attend_over='cells', got "
                f"attend_over={self.attend_over!r}"
            )

    def without_effect(self) -> frozenset[str]:
        """Returns the options that make no difference beside the others."""
        if self.interaction:
            return frozenset()
        attention = ("attention_dim", "rounds", "attention_dropout", "sharpness")
        return frozenset({"attend_over", "positional_encoding", *attention})


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
                encoded = options.interaction and options.positional_encoding
                size = backbone.num_features + encoded * 4 * FREQUENCIES
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
        """Classifies B clips; see `VideoModel.forward`."""
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
        """Maps (B, T, C, H, W) to the features of what is attended, (B, T, D) or (B, T·h·w, D)."""
        frames = x.shape[1]
        maps: Tensor = backbone(x.flatten(0, 1))  # (B·T, D, h, w)
        if self.interaction is None or self.options.attend_over == "frames":
            return split_clips(maps.mean(dim=(2, 3)), frames)
        cells = maps.flatten(2).transpose(1, 2)  # (B·T, h·w, D)
        if self.options.positional_encoding:
            encoding = positional_encoding(*maps.shape[2:], frequencies=FREQUENCIES, like=maps)
            cells = torch.cat([cells, encoding.expand(cells.shape[0], -1, -1)], dim=-1)
        return split_clips(cells, frames).flatten(1, 2)
