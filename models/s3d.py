"""S3D and S3D-G: separable 3-D convolutions, without and with feature gating.

Xie et al., "Rethinking spatiotemporal feature learning: speed-accuracy trade-offs in video
classification", ECCV 2018. The network is torchvision's.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from models.registry import register_model
from models.volume_network import VolumeNetwork, VolumeOptions

__all__ = ["S3d", "S3dG", "S3dGOptions", "S3dOptions", "SelfGating"]

FEATURES = 1024
SECOND_CONV = 3  # the place of conv2c among torchvision's layers
BRANCHES = ("branch0", "branch1", "branch2", "branch3")


@dataclass(frozen=True, kw_only=True, slots=True)
class S3dOptions(VolumeOptions):
    """Options of ``s3d``: those of every 3-D network."""

    dropout: float = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class S3dGOptions(S3dOptions):
    """Options of ``s3d_g``, in addition to those of ``s3d``.

    Attributes:
        gates: Where the gates stand: behind every temporal convolution, as §4.3 has it
            (``temporal``), or as in the authors' code behind conv2c and the four branches of every
            block (``branches``). With 400 classes that is 9.55 million parameters by count; no
            placement that we know of gives the 11.56 that the paper prints.
    """

    gates: Literal["temporal", "branches"] = "temporal"


@register_model("s3d", S3dOptions)
class S3d(VolumeNetwork):
    """torchvision's S3D; its last max-pool reaches over the end, so that clips of any length pass.

    The norms forget at PyTorch's usual rate, not at the 0.001 of very long trainings (ours).
    """

    classifier_prefixes = ("classifier.",)
    head_window = (2, 7, 7)

    def _build_net(self, in_channels: int) -> tuple[nn.Module, int]:
        from torchvision.models.video.s3d import S3D

        self.kinetics_network = "s3d"
        net = S3D(num_classes=1, norm_layer=partial(nn.BatchNorm3d, eps=1e-3))
        features = net.features
        if in_channels != 3:
            features[0][0][0] = nn.Conv3d(
                in_channels, 64, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False
            )
        for module in features.modules():
            if isinstance(module, nn.MaxPool3d) and module.padding == (0, 0, 0):
                module.ceil_mode = True
            elif isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return nn.Sequential(OrderedDict(features=features)), FEATURES


@register_model("s3d_g", S3dGOptions)
class S3dG(S3d):
    """S3D with gates."""

    options: S3dGOptions

    def _build_net(self, in_channels: int) -> tuple[nn.Module, int]:
        net, features = super()._build_net(in_channels)
        self.kinetics_network = ""  # torchvision's has no gates
        for layers in self._gated(net):
            norms = [layer for layer in layers.modules() if isinstance(layer, nn.BatchNorm3d)]
            layers.add_module("gating", SelfGating(norms[-1].num_features))
        return net, features

    def _gated(self, net: nn.Module) -> list[nn.Module]:
        """Returns the layers that a gate follows."""
        from torchvision.models.video.s3d import TemporalSeparableConv

        if self.options.gates == "temporal":
            return [layer for layer in net.modules() if isinstance(layer, TemporalSeparableConv)]
        branches = [layer for name, layer in net.named_modules() if name.endswith(BRANCHES)]
        return [net.get_submodule(f"features.{SECOND_CONV}"), *branches]

    def _adapt_checkpoint(self, stream: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fills what a checkpoint of S3D lacks with the gates as they are."""
        own = self.nets[stream].state_dict()
        return {**{key: value for key, value in own.items() if ".gating." in key}, **weights}


class SelfGating(nn.Module):
    """σ(W·mean(x) + b) ⊙ x, the mean over frames and cells (§4.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, T, H, W) to (B, C, T, H, W)."""
        weights: Tensor = self.gate(x.mean(dim=(2, 3, 4))).sigmoid()
        return x * weights[:, :, None, None, None]
