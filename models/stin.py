"""STIN: spatial-temporal injection network.

Cao, Wu, Lu et al., "Spatial-temporal injection network: exploiting auxiliary losses for action
recognition with apparent difference and self-attention", Signal, Image and Video Processing 2023.

Public of it is the abstract: an *apparent difference module* puts temporal constraints on the
spatial features, *self-attention* makes the temporal stream attend to the areas of interest, and
each adds an auxiliary loss. What the two modules compute, where they stand and how they are
injected is our reading, from the works that it cites (segment networks, non-local networks).
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import Backbone
from models.checks import check_count
from models.layers.frames import over_frames, split_clips
from models.layers.head import mlp_head
from models.layers.non_local import NonLocal
from models.output import ModelOutput
from models.registry import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

__all__ = ["ApparentDifference", "Stin", "StinOptions", "TemporalSelfAttention"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StinOptions(SegmentOptions):
    """Options of ``stin``, in addition to those of every segment network.

    Attributes:
        stage: Stage of the backbone whose map is injected into; None for the last (ours).
        difference: What the apparent difference is taken of: features of consecutive segments, or
            their pixels (ours).
        rectified: Keep only the positive part of the difference (ours). Without it the mean over
            the segments telescopes to the last map minus the first.
        injection: Add both modules' maps to the stream's. Without it they have only their losses.
        difference_loss: Have the auxiliary classifier of the apparent difference, whose logits
            are ``auxiliary_logits["apparent_difference"]``; its loss weight is α.
        attention_loss: Have the auxiliary classifier of the self-attention, whose logits are
            ``auxiliary_logits["self_attention"]``; its loss weight is β.
        attention_dim: Channels of the self-attention's embeddings.
        attend_within: Whether a cell attends to the cells of its own frame or of the whole clip
            (ours).
    """

    streams: tuple[str, ...] = ("spatial", "temporal")
    stage: str | None = None
    difference: Literal["features", "pixels"] = "features"
    rectified: bool = True
    injection: bool = True
    difference_loss: bool = True
    attention_loss: bool = True
    attention_dim: int = 512
    attend_within: Literal["frame", "clip"] = "frame"

    def __post_init__(self) -> None:
        SegmentOptions.__post_init__(self)
        check_count("attention_dim", self.attention_dim)

    def without_effect(self) -> frozenset[str]:
        """Returns the options that make no difference beside the others."""
        unused: set[str] = set()
        if "spatial" not in self.streams:
            unused |= {"difference_loss"}
        if "temporal" not in self.streams:
            unused |= {"attention_loss"}
        if "spatial" not in self.streams or not (self.injection or self.difference_loss):
            unused |= {"difference", "rectified"}
        if "temporal" not in self.streams or not (self.injection or self.attention_loss):
            unused |= {"attention_dim", "attend_within"}
        return frozenset(unused)


class ApparentDifference(nn.Module):
    """What changes from one segment to the next: D_t = φ(F_{t+1}) − φ(F_t), φ a 1×1 convolution.

    The last segment has no next one: D_T = 0. Of pixels, D_t = φ(pool(|x_{t+1} − x_t|)), pooled to
    the map's cells; the absolute value keeps the two signs of a moving edge from cancelling.
    """

    def __init__(
        self, channels: int, difference: Literal["features", "pixels"], *, rectified: bool
    ) -> None:
        super().__init__()
        self.difference = difference
        self.rectified = rectified
        in_channels = channels if difference == "features" else 3
        # A bias would cancel in the difference.
        self.project = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, maps: Tensor, rgb: Tensor) -> Tensor:
        """Returns D, (B, T, C, h, w), of the maps (B, T, C, h, w) of frames (B, T, 3, H, W)."""
        if self.difference == "features":
            change = _step(over_frames(self.project, maps))
        else:
            pool = nn.AdaptiveAvgPool2d((maps.shape[-2], maps.shape[-1]))
            change = over_frames(lambda step: self.project(pool(step)), _step(rgb).abs())
        return change.relu() if self.rectified else change


def _step(x: Tensor) -> Tensor:
    """Returns x_{t+1} − x_t along the second of five dimensions; zero for the last t."""
    return F.pad(x[:, 1:] - x[:, :-1], (0, 0, 0, 0, 0, 0, 0, 1))


class TemporalSelfAttention(nn.Module):
    """Embedded-Gaussian self-attention among the cells of each flow map, or of all maps of a clip.

    Args:
        channels: C of the maps.
        attention_dim: Channels of the embeddings.
        within: Whether a cell attends to the cells of its own frame or of the whole clip.
    """

    def __init__(self, channels: int, attention_dim: int, within: Literal["frame", "clip"]) -> None:
        super().__init__()
        self.within = within
        self.attention = NonLocal(channels, attention_dim)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Lets the cells attend to each other.

        Args:
            maps: ``(B, T, C, h, w)``.

        Returns:
            The attended maps ``(B, T, C, h, w)``, and the attention that each of the T·h·w cells
            receives, ``(B, T·h·w)``, frame by frame and row by row.
        """
        clips, frames, _, height, width = maps.shape
        cells = maps.flatten(3)  # (B, T, C, h·w)
        if self.within == "frame":
            attended, received = self.attention(cells.flatten(0, 1))
            attended = attended.unflatten(0, (clips, frames))
            received = received.unflatten(0, (clips, frames)).flatten(1) / frames
        else:
            attended, received = self.attention(cells.transpose(1, 2).flatten(2))
            attended = attended.unflatten(2, (frames, -1)).transpose(1, 2)
        return attended.unflatten(3, (height, width)), received


@register_model("stin", StinOptions)
class Stin(SegmentNetwork):
    """A segment network of two streams, each with its injection: F + γ·module(F), γ from zero.

    The output's ``attention`` has ``temporal`` over the n = T·h·w cells of the flow maps.
    """

    options: StinOptions

    def __init__(self, options: StinOptions, *, num_classes: int) -> None:
        super().__init__(options, num_classes=num_classes)
        self.injections = nn.ModuleDict()
        self.scales = nn.ParameterDict()
        self.auxiliary_heads = nn.ModuleDict()
        for stream in options.streams:
            with self.own_seed(f"{stream}/injection"):
                self._build_injection(stream)

    def _build_injection(self, stream: str) -> None:
        options, backbone = self.options, cast(Backbone, self.backbones[stream])
        self.stage = backbone.stages[-1] if options.stage is None else options.stage
        if self.stage not in backbone.stages:
            raise ValueError(
                f"model 'stin': stage must be one of {', '.join(backbone.stages)} with backbone "
                f"{options.backbone!r}, got {self.stage!r}"
            )
        channels = backbone.stage_channels[self.stage]
        has_loss = options.difference_loss if stream == "spatial" else options.attention_loss
        if options.injection or has_loss:
            self.injections[stream] = (
                ApparentDifference(channels, options.difference, rectified=options.rectified)
                if stream == "spatial"
                else TemporalSelfAttention(channels, options.attention_dim, options.attend_within)
            )
        if options.injection:
            self.scales[stream] = nn.Parameter(torch.zeros(()))
        if has_loss:
            self.auxiliary_heads[stream] = mlp_head(
                channels, (), self.num_classes, dropout=options.dropout
            )

    def _extract(self, stream: str, x: Tensor, output: ModelOutput) -> Tensor:
        maps, backbone = x.flatten(0, 1), cast(Backbone, self.backbones[stream])
        for stage in backbone.stages:
            maps = backbone.forward_stage(stage, maps)
            if stage == self.stage and stream in self.injections:
                maps = self._inject(stream, split_clips(maps, x.shape[1]), x, output)
        return maps

    def _inject(self, stream: str, maps: Tensor, x: Tensor, output: ModelOutput) -> Tensor:
        """Runs the stream's module on maps (B, T, C, h, w); returns maps (B·T, C, h, w)."""
        if stream == "spatial":
            added, name = self.injections[stream](maps, x), "apparent_difference"
            pooled = added.mean(dim=(3, 4)).sum(dim=1) / max(maps.shape[1] - 1, 1)
        else:
            added, received = self.injections[stream](maps)
            output.attention[stream] = received
            pooled, name = added.mean(dim=(1, 3, 4)), "self_attention"
        if stream in self.auxiliary_heads:
            output.auxiliary_logits[name] = self.auxiliary_heads[stream](pooled)
        if stream in self.scales:
            maps = maps + self.scales[stream] * added
        return maps.flatten(0, 1)
