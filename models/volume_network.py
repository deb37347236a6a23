"""What networks of 3-D convolutions share: volumes in, one vector a clip out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.base import cross_modality_start
from models.checks import check_count, check_fields, check_number, check_subset
from models.layers.head import mlp_head
from models.output import ModelOutput
from models.video_model import STREAM_INPUTS, VideoModel

__all__ = ["VolumeNetwork", "VolumeOptions", "scale_width"]

MIN_SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeOptions:
    """Options that every 3-D network has.

    Attributes:
        streams: ``("spatial",)``, ``("temporal",)`` or both; they train independently.
        flow_length: Flow fields L in a stack. The temporal stream takes the T stacks of a clip as
            one volume of T·L fields of two channels.
        dropout: Dropout before the classifier.
    """

    streams: tuple[str, ...] = ("spatial",)
    flow_length: int = 10
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        check_subset("streams", self.streams, tuple(STREAM_INPUTS))
        check_count("flow_length", self.flow_length)
        check_number("dropout", self.dropout, least=0, below=1)


def scale_width(channels: int, width: float) -> int:
    """Returns channels times ``width``, at least four."""
    return max(4, round(channels * width))


class VolumeNetwork(VideoModel):
    """A network of volumes and a classifier of its pooled map for each stream.

    Attributes:
        classifier_prefixes: Beginnings of the keys of a checkpoint that belong to its classifier.
        head_window: Frames, rows and columns of the windows whose means are classified, at every
            place of the last map; their class scores are averaged. None is the whole map.
    """

    classifier_prefixes: tuple[str, ...] = ()
    head_window: tuple[int, int, int] | None = None
    options: VolumeOptions

    def __init__(self, options: VolumeOptions, *, num_classes: int) -> None:
        super().__init__(
            num_classes=num_classes,
            streams=options.streams,
            independent_streams=True,
            flow_length=options.flow_length,
            min_size=MIN_SIZE,
        )
        self.options = options
        self.nets = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for stream in options.streams:
            with self.own_seed(stream):
                net, features = self._build_net(3 if stream == "spatial" else 2)
                self.nets[stream] = net
                self.heads[stream] = self._build_head(features)

    def _build_net(self, in_channels: int) -> tuple[nn.Module, int]:
        """Returns the network of volumes (B, C, T, H, W), and its map's number of channels."""
        raise NotImplementedError

    def _build_head(self, features: int) -> nn.Sequential:
        return mlp_head(features, (), self.num_classes, dropout=self.options.dropout)

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        """Classifies B clips; see `VideoModel.forward`."""
        inputs = self.check_inputs(rgb, flow)
        output = ModelOutput(logits={}, features={})
        for stream in self.streams:
            volume = as_volume(inputs[STREAM_INPUTS[stream]], 3 if stream == "spatial" else 2)
            maps = self.nets[stream](volume)
            features, logits = self._classify(stream, maps)
            output.features[stream], output.logits[stream] = features, logits
        return output

    def _classify(self, stream: str, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Turns maps (B, D, t, h, w) into features (B, D) and logits (B, N)."""
        if self.head_window is not None:
            sizes = zip(self.head_window, maps.shape[2:], strict=True)
            wide = maps.to(torch.promote_types(maps.dtype, torch.float32))  # the CPU has no other
            maps = F.avg_pool3d(wide, [min(size) for size in sizes], stride=1).to(maps.dtype)
        pooled = maps.mean(dim=(2, 3, 4))
        return pooled, self._head(stream)(pooled)

    def _head(self, stream: str) -> nn.Sequential:
        return cast(nn.Sequential, self.heads[stream])

    def _adapt_checkpoint(self, stream: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies a published checkpoint, less its classifier, under the keys of this network."""
        return dict(weights)

    def load_backbone_weights(
        self, state_dict: Mapping[str, Tensor], streams: Collection[str] | None = None
    ) -> set[str]:
        """Starts streams from a video classifier's weights, all but its classifier.

        The temporal stream's first convolutions get the cross-modality start.

        Raises:
            ValueError: If the keys or shapes aren't those of this network.
        """
        prefixes = (*self.classifier_prefixes, "\0")
        given = {k: v for k, v in state_dict.items() if not k.startswith(prefixes)}
        for stream in self.streams if streams is None else streams:
            net = self.nets[stream]
            own, weights = net.state_dict(), self._adapt_checkpoint(stream, given)
            for key, value in weights.items():
                # The kernels that see the input.
                seen = own[key].shape[1:2] if key in own else ()
                if value.ndim == 5 and value.shape[1] == 3 and seen == (2,):
                    weights[key] = cross_modality_start(value, 2)
            try:
                net.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(
                    f"the weights don't fit model {self.model_name!r}; give a state dict of the "
                    f"same network. {' '.join(str(error).split())[:400]}"
                ) from error
        return set(given)


def as_volume(x: Tensor, channels: int) -> Tensor:
    """Maps (B, T, L·C, H, W), L images of C channels at each of T places, to (B, C, T·L, H, W)."""
    return torch.unflatten(x, 2, (-1, channels)).flatten(1, 2).transpose(1, 2)
