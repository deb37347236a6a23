"""Convolutional two-stream network fusion.

Feichtenhofer, Pinz and Zisserman, "Convolutional two-stream network fusion for video action
recognition", CVPR 2016. Two towers are fused after the ReLU of a layer, into the spatial tower;
the final net fuses at ``relu5_3`` of VGG-16 by a 3-D convolution, pools over time, and lets the
temporal tower run on to a classifier of its own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbone_options import BackboneOptions
from models.backbones import Backbone, list_backbones
from models.checks import check_count, check_one_of
from models.layers.frames import fold_frames, split_clips, unfold_frames
from models.layers.fully_connected import load_fully_connected, native_grid, pool_to_grid
from models.layers.gaussian_identity import gaussian_identity_
from models.layers.head import mlp_head
from models.output import ModelOutput
from models.registry import register_model
from models.video_model import VideoModel

__all__ = ["ConvFusion", "ConvFusionOptions", "TowerFusion", "bilinear"]

Method = Literal["sum", "max", "cat", "conv", "bilinear"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvFusionOptions(BackboneOptions):
    """Options of ``conv_fusion``, in addition to those of its backbones.

    The defaults are the final network's. Dropout follows each hidden layer of the classifiers.

    Attributes:
        temporal_backbone: The temporal tower's network where it is another one.
        method: How the towers are fused: sum, maximum, concatenation, concatenation and
            convolution, or bilinear.
        layers: Where they are fused: stages of the backbone, the classifier's layers ``fc6``,
            ``fc7``, …; the empty tuple stands for the last convolutional stage. Concatenation and
            bilinear fusion only work there.
        towers: 1, or 2 to let the temporal tower run on to a classifier of its own.
        conv: Kernel of ``method="conv"``: ``2d`` is 1×1, ``3d`` is 3×3×3 over frames and cells.
        pool: What is pooled before the classifier: cells (``2d``), or frames as well (``3d``).
        pool_frames: Consecutive frames that 3-D pooling takes the maximum of. A longer clip has
            several windows, whose last hidden layers are averaged (ours).
        head_dims: Hidden layers of each classifier; bilinear fusion has none (the paper's
            classifier there is a linear SVM).
        head_grid: Side of the grid of cells that the classifier sees; maps are averaged to it
            (ours). None is the VGGs' own (7, for VGG-M 6), and 1 for other backbones.
        freeze_towers: Stop backpropagation at the first fusion layer, as the paper does after it
            has trained the towers by themselves: the stages up to it stay as they are. By default
            the towers learn together with what follows (ours).
    """

    backbone: str = "vgg16"
    temporal_backbone: str | None = None
    method: Method = "conv"
    layers: tuple[str, ...] = ()
    towers: Literal[1, 2] = 2
    conv: Literal["2d", "3d"] = "3d"
    pool: Literal["2d", "3d"] = "3d"
    pool_frames: int = 5
    head_dims: tuple[int, ...] = (4096, 4096)
    head_grid: int | None = None
    dropout: float = 0.85
    freeze_towers: bool = False

    def __post_init__(self) -> None:
        BackboneOptions.__post_init__(self)
        check_one_of("temporal_backbone", self.temporal_backbone, (None, *list_backbones()))
        for name in ("pool_frames", "head_dims"):
            check_count(name, getattr(self, name))
        if self.head_grid is not None:
            check_count("head_grid", self.head_grid)

    def without_effect(self) -> frozenset[str]:
        """Returns the options that make no difference beside the others."""
        unused: set[str] = set()
        if self.method != "conv":
            unused |= {"conv"}
        if self.method == "bilinear":
            unused |= {"head_dims"}
        if self.pool == "2d" or (self.method == "bilinear" and self.towers == 1):
            unused |= {"pool_frames"}
        return frozenset(unused)


def bilinear(spatial: Tensor, temporal: Tensor) -> Tensor:
    """Returns Σ_ij a_ijᵀ b_ij over cells, its signed square root, divided by its L2 norm.

    Args:
        spatial: n cells, ``(B, D, n)``.
        temporal: ``(B, E, n)``.

    Returns:
        ``(B, D·E)`` vectors of length one.
    """
    outer = (spatial @ temporal.transpose(1, 2)).flatten(1)
    # A little inside the root keeps its slope finite at zero.
    return F.normalize(outer / (outer.abs() + 1e-6).sqrt(), dim=1)


class TowerFusion(nn.Module):
    """Fuses two towers' maps (B, T, D, h, w), or vectors (B, T, D).

    Concatenation interleaves the channels: a_1, b_1, a_2, b_2, … (eq. 3). The convolution starts
    as a quarter of the spatial and three quarters of the temporal map, smoothed by a Gaussian
    where its kernel is larger than a cell.

    Args:
        method: How to fuse; bilinear fusion is ``bilinear``.
        channels: D.
        conv: Size of the convolution, ``2d`` for 1×1 and ``3d`` for 3×3×3.
        vectors: Whether vectors are fused.
        rectified: Whether a ReLU follows the convolution; not for the logits.
    """

    def __init__(
        self,
        method: Method,
        channels: int,
        *,
        conv: Literal["2d", "3d"],
        vectors: bool,
        rectified: bool = True,
    ) -> None:
        super().__init__()
        self.method = method
        self.rectified = rectified
        self.conv: nn.Linear | nn.Conv3d | None = None
        if method != "conv":
            return
        if vectors:
            self.conv = nn.Linear(2 * channels, channels)
        else:
            size = 3 if conv == "3d" else 1
            self.conv = nn.Conv3d(2 * channels, channels, size, padding=size // 2)
        gaussian_identity_(self.conv.weight)
        nn.init.zeros_(cast(Tensor, self.conv.bias))

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """Fuses maps (B, T, D, h, w) or vectors (B, T, D); ``cat`` gives 2D channels, others D."""
        if self.method == "sum":
            return spatial + temporal
        if self.method == "max":
            return torch.maximum(spatial, temporal)
        if self.conv is None:
            return torch.stack([spatial, temporal], dim=3).flatten(2, 3)  # (B, T, 2D, h, w)
        both = torch.cat([spatial, temporal], dim=2)
        if isinstance(self.conv, nn.Linear):
            fused: Tensor = self.conv(both)
        else:
            fused = self.conv(both.transpose(1, 2)).transpose(1, 2)
        return fused.relu() if self.rectified else fused


@register_model("conv_fusion", ConvFusionOptions)
class ConvFusion(VideoModel):
    """Two towers; the spatial one takes the temporal one in at ``layers``.

    Stream ``spatial`` is the fused tower; ``temporal`` the temporal one's own classifier.
    """

    def __init__(self, options: ConvFusionOptions, *, num_classes: int) -> None:
        super().__init__(
            num_classes=num_classes,
            streams=("spatial", "temporal")[: options.towers],
            inputs=("rgb", "flow"),
            flow_length=options.flow_length,
            partial_bn=options.partial_bn,
        )
        self.options = options
        names = {
            "spatial": options.backbone,
            "temporal": options.temporal_backbone or options.backbone,
        }
        self.backbones = nn.ModuleDict()
        for stream, name in names.items():
            with self.own_seed(stream):
                self.backbones[stream] = self.new_backbone(name, stream)
        self.stages = {stream: _conv_stages(self._backbone(stream)) for stream in names}
        hidden = () if options.method == "bilinear" else options.head_dims
        self.head_layers = tuple(f"fc{6 + i}" for i in range(len(hidden) + 1))
        self.layers = options.layers or (self.stages["spatial"][-1],)
        self._check_layers()

        # The temporal tower is there as far as something needs it.
        self.runs_to_the_end = options.towers == 2 or bool(set(self.layers) & set(self.head_layers))
        self.heads = nn.ModuleDict()
        for stream in ("spatial", "temporal")[: 1 + self.runs_to_the_end]:
            with self.own_seed(f"{stream}/head"):
                head = mlp_head(
                    self._head_inputs(stream), hidden, num_classes, dropout=options.dropout
                )
                self.heads[stream] = head if stream in self.streams else self._needed(head)
        self.fusions = nn.ModuleDict()
        for layer in self.layers:
            with self.own_seed(layer):
                self.fusions[layer] = self._build_fusion(layer, hidden)
        stages = self.stages["spatial"]
        fused = [stage for stage in stages if stage in self.layers] or [stages[-1]]
        if not self.runs_to_the_end:
            temporal = self._backbone("temporal")
            _freeze_all_but(temporal, _used_up_to(temporal, self._temporal_stage(fused[-1])))
        if options.freeze_towers:
            ends = {"spatial": fused[0], "temporal": self._temporal_stage(fused[0])}
            for stream, stage in ends.items():
                for parameter in _used_up_to(self._backbone(stream), stage):
                    parameter.requires_grad_(False)

    def _backbone(self, stream: str) -> Backbone:
        return cast(Backbone, self.backbones[stream])

    def _check_layers(self) -> None:
        options, stages = self.options, self.stages["spatial"]
        allowed = (*stages, *self.head_layers)
        unknown = [layer for layer in self.layers if layer not in allowed]
        if unknown or len(set(self.layers)) < len(self.layers):
            raise ValueError(
                f"model 'conv_fusion': layers must be some of {', '.join(allowed)}, none twice, "
                f"with backbone {options.backbone!r}, got {self.layers!r}"
            )
        if options.method in ("cat", "bilinear") and self.layers != (stages[-1],):
            raise ValueError(
                f"model 'conv_fusion': method={options.method!r} needs layers=({stages[-1]!r},), "
                f"got {self.layers!r}"
            )
        for layer in self.layers:
            if layer in stages and options.method != "bilinear":
                self._check_channels(layer)

    def _check_channels(self, layer: str) -> None:
        spatial = self._backbone("spatial").stage_channels[layer]
        stage = self._temporal_stage(layer)
        temporal = self._backbone("temporal").stage_channels[stage]
        if spatial != temporal:
            raise ValueError(
                f"model 'conv_fusion': method={self.options.method!r} needs as many channels in "
                f"both towers, but {layer!r} of the spatial one has {spatial} and {stage!r} of the "
                f"temporal one {temporal}; choose another layer or method='bilinear'"
            )

    def _temporal_stage(self, layer: str) -> str:
        """Returns the temporal tower's stage of that name or number (relu5_3 and relu5)."""
        stages = self.stages["temporal"]
        for stage in stages:
            if stage == layer or stage.split("_")[0] == layer.split("_")[0]:
                return stage
        raise ValueError(
            f"model 'conv_fusion': the temporal tower {self.options.temporal_backbone!r} has no "
            f"layer like {layer!r}; it has {', '.join(stages)}"
        )

    def _head_inputs(self, stream: str) -> int:
        spatial, temporal = (
            self._backbone(name).stage_channels[stages[-1]] for name, stages in self.stages.items()
        )
        if self.options.method == "bilinear" and stream == "spatial":
            return spatial * temporal
        channels = spatial if stream == "spatial" else temporal
        if self.options.method == "cat" and stream == "spatial":
            channels = spatial + temporal
        return channels * self._grid(stream) ** 2

    def _needed(self, head: nn.Sequential) -> nn.Sequential:
        """Returns a head's layers up to the last that is fused: what follows would never learn."""
        last = max(i for i, layer in enumerate(self.head_layers) if layer in self.layers)
        return head[: 3 * last + 2]  # a linear layer and its ReLU, or the logits

    def _grid(self, stream: str) -> int:
        if self.options.head_grid is not None:
            return self.options.head_grid
        return native_grid(self._backbone(stream).name)

    def _build_fusion(self, layer: str, hidden: tuple[int, ...]) -> TowerFusion:
        vectors = layer in self.head_layers
        if vectors:
            channels = (*hidden, self.num_classes)[self.head_layers.index(layer)]
        else:
            channels = self._backbone("spatial").stage_channels[layer]
        return TowerFusion(
            self.options.method,
            channels,
            conv=self.options.conv,
            vectors=vectors,
            rectified=layer != self.head_layers[-1],
        )

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        """Classifies B clips; see `VideoModel.forward`."""
        inputs = self.check_inputs(rgb, flow)
        frames = inputs["rgb"].shape[1]
        spatial, temporal = inputs["rgb"].flatten(0, 1), inputs["flow"].flatten(0, 1)
        waiting = list(self.stages["temporal"])
        for stage in self.stages["spatial"]:
            spatial = self._backbone("spatial").forward_stage(stage, spatial)
            if stage in self.fusions:
                while self._temporal_stage(stage) in waiting:
                    temporal = self._backbone("temporal").forward_stage(waiting.pop(0), temporal)
                if self.options.method == "bilinear":
                    break
                spatial = self._fuse_maps(stage, spatial, temporal, frames)
        if self.runs_to_the_end:
            for stage in waiting:
                temporal = self._backbone("temporal").forward_stage(stage, temporal)
        if self.options.method == "bilinear":
            vectors = {"spatial": self._bilinear(spatial, temporal, frames)}
        else:
            vectors = {"spatial": self._pool("spatial", spatial, frames)}
        if self.runs_to_the_end:
            vectors["temporal"] = self._pool("temporal", temporal, frames)
        return self._classify(vectors)

    def _fuse_maps(self, stage: str, spatial: Tensor, temporal: Tensor, frames: int) -> Tensor:
        """Fuses the maps (B·T, D, h, w) of both towers to (B·T, D', h, w)."""
        temporal = _resize(temporal, like=spatial)
        both = (split_clips(x, frames) for x in (spatial, temporal))
        fused: Tensor = self.fusions[stage](*both)
        return fused.flatten(0, 1)

    def _bilinear(self, spatial: Tensor, temporal: Tensor, frames: int) -> Tensor:
        """Turns maps (B·T, D, h, w) into (B, n, D²); n = T, or 1 where frames are pooled too."""
        temporal = _resize(temporal, like=spatial)
        if self.options.pool == "2d":
            return split_clips(bilinear(spatial.flatten(2), temporal.flatten(2)), frames)
        cells = (unfold_frames(x, frames).flatten(2) for x in (spatial, temporal))
        return bilinear(*cells).unsqueeze(1)

    def _pool(self, stream: str, maps: Tensor, frames: int) -> Tensor:
        """Pools maps (B·T, D, h, w) for the classifier, (B, n, D·g²); n windows of frames."""
        if self.options.pool == "3d":
            window = min(self.options.pool_frames, frames)
            volume = unfold_frames(maps, frames)  # (B, D, T, h, w)
            volume = F.max_pool3d(volume, (window, 1, 1), ceil_mode=True)
            frames = volume.shape[2]
            maps = fold_frames(volume)
        backbone = self._backbone(stream)
        if backbone.stages[-1] not in self.stages[stream]:
            maps = backbone.forward_stage(backbone.stages[-1], maps)
        return split_clips(pool_to_grid(maps, self._grid(stream)), frames)

    def _classify(self, vectors: dict[str, Tensor]) -> ModelOutput:
        """Runs the classifiers side by side on (B, n, F); windows are averaged before the last."""
        last = len(self.head_layers) - 1
        for i, layer in enumerate(self.head_layers[:-1]):
            for stream, x in vectors.items():
                vectors[stream] = self._head(stream)[3 * i : 3 * i + 2](x)
            self._fuse_vectors(layer, vectors)
            for stream in tuple(vectors):
                if len(self._head(stream)) == 3 * i + 2:
                    del vectors[stream]  # the temporal tower ends in this fusion
                else:
                    vectors[stream] = self._head(stream)[3 * i + 2](vectors[stream])
        features = {stream: x.mean(dim=1) for stream, x in vectors.items()}
        logits = {s: self._head(s)[3 * last :](x).unsqueeze(1) for s, x in features.items()}
        self._fuse_vectors(self.head_layers[-1], logits)
        return ModelOutput(
            logits={stream: logits[stream].squeeze(1) for stream in self.streams},
            features={stream: features[stream] for stream in self.streams},
        )

    def _fuse_vectors(self, layer: str, vectors: dict[str, Tensor]) -> None:
        if layer in self.fusions:
            vectors["spatial"] = self.fusions[layer](vectors["spatial"], vectors["temporal"])

    def _head(self, stream: str) -> nn.Sequential:
        return cast(nn.Sequential, self.heads[stream])

    def load_backbone_weights(
        self, state_dict: Mapping[str, Tensor], streams: Collection[str] | None = None
    ) -> set[str]:
        """Starts the towers, and fc6 and fc7 where they have the checkpoint's shape.

        Towers of two kinds take their weights one checkpoint after the other.
        """
        if self.options.temporal_backbone in (None, self.options.backbone):
            used = super().load_backbone_weights(state_dict, streams)
        else:
            towers = self.modules_of(Backbone, streams)
            fits = [t for t in towers if _fits(t, state_dict)] or towers[:1]
            used = set().union(*(tower.load_weights(state_dict) for tower in fits))
        for stream in self.heads:
            if streams is None or stream in streams:
                used |= load_fully_connected(self._head(stream), state_dict)
        return used

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode; the frozen layers of towers stay in evaluation mode."""
        super().train(mode)
        for layer in self.backbones.modules() if self.options.freeze_towers else ():
            own = list(layer.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                layer.eval()
        return self


def _conv_stages(backbone: Backbone) -> tuple[str, ...]:
    """Returns the stages without the VGGs' last pooling, which the fused network does itself."""
    return tuple(stage for stage in backbone.stages if stage != "pool5")


def _used_up_to(backbone: Backbone, stage: str) -> list[nn.Parameter]:
    """Returns the trained parameters that the stages up to ``stage`` use."""
    size = max(backbone.min_size, 32)
    x = torch.zeros(1, backbone.in_channels, size, size)
    backbone.eval()  # BatchNorm would count the zeros
    for name in backbone.stages[: backbone.stages.index(stage) + 1]:
        x = backbone.forward_stage(name, x)
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(x.sum(), parameters, allow_unused=True)
    backbone.train()
    found = zip(parameters, gradients, strict=True)
    return [parameter for parameter, gradient in found if gradient is not None]


def _freeze_all_but(backbone: Backbone, kept: list[nn.Parameter]) -> None:
    trained = set(map(id, kept))
    for parameter in backbone.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def _fits(backbone: Backbone, state_dict: Mapping[str, Tensor]) -> bool:
    own = backbone.state_dict()
    return all(
        key in own and (own[key].shape == value.shape or key.startswith(backbone.first_conv))
        for key, value in state_dict.items()
        if not key.startswith(backbone.classifier_prefixes)
    )


def _resize(x: Tensor, *, like: Tensor) -> Tensor:
    """Brings towers of different networks to the same cells, by interpolation (ours)."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
