"""Attention-consistency loss between two branch-independent streams.

"Exploiting attention-consistency loss for spatial-temporal stream action recognition", ACM
Transactions on Multimedia Computing, Communications, and Applications 18 (2s), 2022.

Public of it is the abstract: two streams without lateral connections, and a loss on multi-level
attention that makes the temporal stream attend to the regions of the spatial one in the same
period, added to the cross-entropy. The streams' networks, the attention and the distance are our
reading. Its figures fit SlowFast-R50 4×16 without its lateral connections: an inference.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbone_options import BackboneOptions
from models.backbones import Backbone, create_backbone
from models.checks import check_count, check_one_of
from models.layers.frames import unfold_frames
from models.layers.head import mlp_head
from models.layers.slow_fast import STAGES, Lateral, Pathway
from models.output import ModelOutput
from models.registry import register_model
from models.video_model import STREAM_INPUTS, VideoModel

__all__ = [
    "AttentionConsistency",
    "AttentionConsistencyOptions",
    "activation_energy",
    "attention_distance",
    "class_activation",
]

# Width and blocks of the slow pathway.
PATHWAYS = {"resnet50": (64, (3, 4, 6, 3)), "small": (24, (1, 1, 1, 1))}
Distance = Literal["mse", "cosine", "kl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConsistencyOptions(BackboneOptions):
    """Options of ``attention_consistency``, in addition to those of its backbones.

    ``slow_fast`` takes the backbones ``resnet50`` and ``small``; ``flow_length`` is for
    ``two_stream``.

    Attributes:
        form: ``slow_fast`` has a slow and a fast pathway over RGB frames; ``two_stream`` an RGB
            and a flow stream of 2-D networks.
        lateral: Connect the fast to the slow pathway and classify both together: the SlowFast
            network that is the baseline (``slow_fast``).
        levels: Stages whose attention is compared. Empty for no loss; None for the last three, or
            with ``cam`` the last.
        map: Attention as activation energy, or as class-activation map of the class that the
            spatial stream predicts; the latter only at the last stage.
        distance: Between the maps: mean squared, one minus cosine, or Kullback–Leibler.
        stop_gradient: Let the loss change the temporal stream only.
        speed_ratio: Frames of the fast pathway for each of the slow one, α (``slow_fast``).
        channel_ratio: Channels of the slow pathway for each of the fast one, 1/β (``slow_fast``).
    """

    form: Literal["slow_fast", "two_stream"] = "slow_fast"
    lateral: bool = False
    levels: tuple[str, ...] | None = None
    map: Literal["activation", "cam"] = "activation"
    distance: Distance = "mse"
    stop_gradient: bool = True
    speed_ratio: int = 8
    channel_ratio: int = 8

    def __post_init__(self) -> None:
        BackboneOptions.__post_init__(self)
        slow_fast = self.form == "slow_fast"
        if slow_fast:
            check_one_of("backbone", self.backbone, PATHWAYS)
        for name in ("speed_ratio", "channel_ratio"):
            check_count(name, getattr(self, name))
        if self.lateral and not slow_fast:
            raise ValueError("lateral needs form='slow_fast', got form='two_stream'")
        if self.lateral and self.map == "cam":
            raise ValueError("map='cam' needs a classifier for each stream, got lateral=True")

    def without_effect(self) -> frozenset[str]:
        """Returns the options that make no difference beside the others."""
        unused: set[str] = set()
        if self.form == "two_stream":
            unused |= {"speed_ratio", "channel_ratio"}
        if self.levels == ():
            unused |= {"map", "distance", "stop_gradient"}
        return frozenset(unused)


def activation_energy(maps: Tensor) -> Tensor:
    """Returns mean_c F²: (B, C, T, h, w) → (B, T, h, w) in float32."""
    return maps.float().square().mean(dim=1)


def class_activation(maps: Tensor, weight: Tensor) -> Tensor:
    """Returns ReLU(Σ_c w_c F_c) with each clip's class weights w.

    Args:
        maps: F, ``(B, C, T, h, w)``.
        weight: w, ``(B, C)``.

    Returns:
        ``(B, T, h, w)``.
    """
    return torch.einsum("bcthw,bc->bthw", maps.float(), weight.float()).relu()


def attention_distance(spatial: Tensor, temporal: Tensor, distance: Distance) -> Tensor:
    """Returns how far the temporal attention is from the spatial one, averaged over frames.

    Each frame's map is flattened to n cells: divided by its L2 norm for ``mse`` (mean over cells
    of the squared difference) and ``cosine`` (one minus it), by its sum for ``kl`` (the spatial
    distribution's divergence from the temporal one).

    Args:
        spatial: Non-negative maps, ``(B, T, h, w)``.
        temporal: ``(B, T, h, w)``.
        distance: ``mse``, ``cosine`` or ``kl``.

    Returns:
        ``(B,)``.
    """
    if distance == "kl":
        p, q = _distribution(spatial.flatten(2)), _distribution(temporal.flatten(2))
        return (p * (p / q).log()).sum(dim=2).mean(dim=1)
    a = F.normalize(spatial.flatten(2), dim=2)
    b = F.normalize(temporal.flatten(2), dim=2)
    if distance == "cosine":
        return (1 - (a * b).sum(dim=2)).mean(dim=1)
    return (a - b).square().mean(dim=(1, 2))


def _distribution(x: Tensor) -> Tensor:
    """Divides by the last dimension's sum; uniform where all is zero."""
    x = x + 1e-8 + 1e-4 * x.mean(dim=-1, keepdim=True)
    return x / x.sum(dim=-1, keepdim=True)


@register_model("attention_consistency", AttentionConsistencyOptions)
class AttentionConsistency(VideoModel):
    """Two streams that meet in their attention only.

    ``auxiliary_losses["attention_consistency"]`` is the distance summed over the levels; its loss
    weight is λ. The output's ``attention`` has each stream's map of the last level
    over its frames and cells, frame by frame and row by row. ``slow_fast`` calls the slow pathway
    ``spatial`` and the fast one ``temporal``; with lateral connections the one classifier is
    ``spatial``.
    """

    def __init__(self, options: AttentionConsistencyOptions, *, num_classes: int) -> None:
        slow_fast = options.form == "slow_fast"
        stages = STAGES if slow_fast else create_backbone(options.backbone).stages
        levels = options.levels
        if levels is None:
            levels = stages[-1:] if options.map == "cam" else stages[-3:]
        super().__init__(
            num_classes=num_classes,
            streams=("spatial",) if options.lateral else ("spatial", "temporal"),
            inputs=("rgb",) if slow_fast else None,
            independent_streams=not options.lateral and not levels,
            flow_length=options.flow_length,
            partial_bn=options.partial_bn,
        )
        if unknown := [level for level in levels if level not in stages]:
            raise ValueError(
                f"model {self.model_name!r}: levels must be some of {', '.join(stages)}, "
                f"got {', '.join(unknown)}"
            )
        if options.map == "cam" and levels not in ((), stages[-1:]):
            raise ValueError(
                f"model {self.model_name!r}: map='cam' needs levels={stages[-1:]!r}, got {levels!r}"
            )
        self.options, self.stages, self.levels = options, stages, levels
        self.towers = nn.ModuleDict()
        self.laterals = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for stream in ("spatial", "temporal"):
            with self.own_seed(stream):
                self.towers[stream] = self._build_tower(stream)
        if options.lateral:
            fast = self._channels("temporal")
            with self.own_seed("lateral"):
                for stage in STAGES[:-1]:
                    self.laterals[stage] = Lateral(fast[stage], options.speed_ratio)
        for stream in self.streams:
            with self.own_seed(f"{stream}/head"):
                size = self._channels(stream)[stages[-1]]
                if options.lateral:
                    size += self._channels("temporal")[stages[-1]]
                self.heads[stream] = mlp_head(size, (), num_classes, dropout=options.dropout)

    def _build_tower(self, stream: str) -> nn.Module:
        options = self.options
        if options.form == "two_stream":
            return self.new_backbone(options.backbone, stream)
        width, depths = PATHWAYS[options.backbone]
        fast = max(1, width // options.channel_ratio)
        if stream == "temporal":
            return Pathway(fast, depths, stem_frames=5, block_frames=(3, 3, 3, 3))
        self.imagenet_network = options.backbone  # inflated
        lateral = tuple(2 * channels for channels in (fast, 4 * fast, 8 * fast, 16 * fast))
        return Pathway(
            width,
            depths,
            stem_frames=1,
            block_frames=(1, 1, 3, 3),
            lateral=cast(tuple[int, int, int, int], lateral) if options.lateral else (0, 0, 0, 0),
        )

    def _channels(self, stream: str) -> dict[str, int]:
        return cast(Pathway | Backbone, self.towers[stream]).stage_channels

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        """Classifies B clips; see `VideoModel.forward`."""
        inputs = self.check_inputs(rgb, flow)
        if self.options.form == "slow_fast":
            maps = self._run_pathways(inputs["rgb"])
        else:
            maps = {
                stream: self._run_backbone(stream, inputs[STREAM_INPUTS[stream]])
                for stream in self.streams
            }
        pooled = {s: stages[self.stages[-1]].mean(dim=(2, 3, 4)) for s, stages in maps.items()}
        if self.options.lateral:
            pooled = {"spatial": torch.cat([pooled["spatial"], pooled["temporal"]], dim=1)}
        logits = {stream: self.heads[stream](x) for stream, x in pooled.items()}
        output = ModelOutput(logits=logits, features=pooled)
        if self.levels:
            self._compare(maps, output)
        return output

    def _run_backbone(self, stream: str, x: Tensor) -> dict[str, Tensor]:
        """Maps (B, T, C, H, W) to the maps by stage, (B, C, T, h, w)."""
        stages = cast(Backbone, self.towers[stream]).forward_stages(x.flatten(0, 1))
        frames = x.shape[1]
        return {s: unfold_frames(y, frames) for s, y in stages.items()}

    def _run_pathways(self, rgb: Tensor) -> dict[str, dict[str, Tensor]]:
        """Maps frames (B, T, 3, H, W) to the maps of both pathways by stage."""
        fast = rgb.transpose(1, 2)  # (B, 3, T, H, W)
        slow = fast[:, :, :: self.options.speed_ratio]
        maps: dict[str, dict[str, Tensor]] = {"spatial": {}, "temporal": {}}
        for stage in self.stages:
            slow = cast(Pathway, self.towers["spatial"]).forward_stage(stage, slow)
            fast = cast(Pathway, self.towers["temporal"]).forward_stage(stage, fast)
            maps["spatial"][stage], maps["temporal"][stage] = slow, fast
            if stage in self.laterals:
                slow = self.laterals[stage](slow, fast)
        return maps

    def _compare(self, maps: dict[str, dict[str, Tensor]], output: ModelOutput) -> None:
        """Adds the loss over all levels and the last level's attention to the output."""
        losses = []
        for level in self.levels:
            spatial = self._attend("spatial", maps["spatial"][level], output)
            temporal = self._attend("temporal", maps["temporal"][level], output)
            for stream, attention in (("spatial", spatial), ("temporal", temporal)):
                output.attention[stream] = _distribution(attention.flatten(1))
            if self.options.stop_gradient:
                spatial = spatial.detach()
            if self.options.form == "slow_fast":
                temporal = self._mean_over_periods(temporal)
            losses.append(attention_distance(spatial, temporal, self.options.distance))
        output.auxiliary_losses["attention_consistency"] = torch.stack(losses).sum(dim=0)

    def _mean_over_periods(self, attention: Tensor) -> Tensor:
        """Averages the fast frames of each slow frame's period, (B, T, …) → (B, ⌈T/α⌉, …)."""
        period = min(self.options.speed_ratio, attention.shape[1])
        return F.avg_pool3d(attention, (period, 1, 1), ceil_mode=True)

    def _attend(self, stream: str, maps: Tensor, output: ModelOutput) -> Tensor:
        """Turns maps (B, C, T, h, w) into non-negative attention (B, T, h, w)."""
        if self.options.map == "activation":
            return activation_energy(maps)
        predicted = output.logits["spatial"].argmax(dim=1)
        classifier = cast(nn.Linear, cast(nn.Sequential, self.heads[stream])[-1])
        return class_activation(maps, classifier.weight[predicted])

    def load_backbone_weights(
        self, state_dict: Mapping[str, Tensor], streams: Collection[str] | None = None
    ) -> set[str]:
        """Starts the backbones, or inflates a 2-D ResNet-50 to the slow pathway.

        The fast pathway has no image classifier of its widths and keeps its start.
        """
        if self.options.form == "two_stream":
            return super().load_backbone_weights(state_dict, streams)
        if streams is not None and "spatial" not in streams:
            raise ValueError(
                f"model {self.model_name!r} with form='slow_fast' has no weights for the fast "
                "pathway, temporal; give them for spatial"
            )
        return cast(Pathway, self.towers["spatial"]).inflate(state_dict)
