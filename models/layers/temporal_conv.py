"""2-D convolutions of a backbone made to mix frames, in place and under their old names."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import Backbone
from models.layers.frames import ClipModule, fold_frames, unfold_frames
from models.layers.shift import GatedShift, temporal_shift

__all__ = [
    "MIXING_BACKBONES",
    "BranchAttention",
    "Mixing",
    "TemporalConv2d",
    "insert_temporal_convs",
    "temporal_sites",
]

Mixing = Literal["shift", "3d", "3d_shift_sum", "gsm", "gsm_attention", "cstm"]
MIXING_BACKBONES = (
    "small",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "bn_inception",
    "inception_v3",
)
WITH_VOLUME = ("3d", "3d_shift_sum", "cstm")


class TemporalConv2d(ClipModule, nn.Conv2d):
    """A convolution of a 2-D network on the frames of clips, mixed in one of these ways.

    ``weight`` and ``bias`` keep their names and shapes, so that an image classifier's weights load.
    With X the convolution's input, S the temporal shift and V a convolution over 3×3×3 (or 3
    frames of a larger kernel) that starts as the 2-D one at its middle:

    - ``shift``: Conv2d(S(X));
    - ``3d``: V(X);
    - ``3d_shift_sum``: V(X) + Conv2d(S(X));
    - ``cstm``: the same two, weighted by `BranchAttention`;
    - ``gsm``: GatedShift(Conv2d(X));
    - ``gsm_attention``: Conv2d(X) and GatedShift(Conv2d(X)), weighted by `BranchAttention`.

    Call ``inflate`` after weights are loaded. ``3d`` uses ``weight`` for that only.

    Args:
        conv: The convolution; its parameters are taken over.
        mixing: One of the above.
        shift_fraction: Share of the channels that is shifted each way.
        reduction: Factor by which the attention's hidden layer is narrower than its input.
    """

    def __init__(
        self, conv: nn.Conv2d, mixing: Mixing, *, shift_fraction: float, reduction: int
    ) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            _pair(conv.kernel_size),
            stride=_pair(conv.stride),
            padding=_pair(conv.padding),
            bias=conv.bias is not None,
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.mixing = mixing
        self.shift_fraction = shift_fraction
        self.volume = self.gated_shift = self.attention = None
        if mixing in WITH_VOLUME:
            height, width = (max(3, size) for size in conv.kernel_size)
            down, across = (
                padding + (size - own) // 2
                for padding, size, own in zip(
                    _pair(conv.padding), (height, width), conv.kernel_size, strict=True
                )
            )
            self.volume = nn.Conv3d(
                conv.in_channels,
                conv.out_channels,
                (3, height, width),
                stride=(1, *_pair(conv.stride)),
                padding=(1, down, across),
                bias=conv.bias is not None and mixing != "3d",
            )
            self.inflate()
        if mixing == "3d":
            self.weight.requires_grad_(False)
        if mixing in ("gsm", "gsm_attention"):
            self.gated_shift = GatedShift(conv.out_channels)
        if mixing in ("gsm_attention", "cstm"):
            self.attention = BranchAttention(conv.out_channels, reduction)

    def inflate(self) -> None:
        """Starts the 3-D kernel as the 2-D one in its middle frame and middle cells."""
        if self.volume is None:
            return
        rows, columns = (
            (whole - part) // 2
            for whole, part in zip(self.volume.kernel_size[1:], self.kernel_size, strict=True)
        )
        with torch.no_grad():
            kernel = F.pad(self.weight, (columns, columns, rows, rows))
            self.volume.weight.zero_()[:, :, 1] = kernel
            if self.volume.bias is not None and self.bias is not None:
                self.volume.bias.copy_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B·T, C, H, W) to (B·T, C', H', W')."""
        if self.mixing == "shift":
            return super().forward(self._shifted(x))
        if self.gated_shift is not None:
            flat = super().forward(x)
            plain = unfold_frames(flat, self.frames)
            mixed = self.gated_shift(plain)
            if self.attention is not None:
                mixed = self.attention(plain, mixed)
            return fold_frames(mixed)
        assert self.volume is not None
        volume = self.volume(unfold_frames(x, self.frames))
        if self.mixing == "3d":
            if self.bias is not None:
                volume = volume + self.bias.reshape(-1, 1, 1, 1)
            return fold_frames(volume)
        shifted = super().forward(self._shifted(x))
        if self.attention is None:
            return fold_frames(volume) + shifted
        return fold_frames(self.attention(volume, unfold_frames(shifted, self.frames)))

    def _shifted(self, x: Tensor) -> Tensor:
        volume = unfold_frames(x, self.frames)
        return fold_frames(temporal_shift(volume, self.shift_fraction))


def _pair(size: tuple[int, ...] | str) -> tuple[int, int]:
    """Returns a convolution's two sizes, which torch types as of any length."""
    return int(size[0]), int(size[1])


class BranchAttention(nn.Module):
    """Weights two branches channel by channel: w_A·A + w_B·B.

    z is the mean of A + B over frames and cells; FC–ReLU–FC gives two numbers a channel, and their
    softmax the weights (the collaborative spatial-temporal module's attention, by our reading).
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // reduction))
        self.excite = nn.Linear(max(1, channels // reduction), 2 * channels)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Joins two branches (B, C, T, H, W) to one of the same shape."""
        pooled = (a + b).mean(dim=(2, 3, 4))
        scores = torch.unflatten(self.excite(self.squeeze(pooled).relu()), 1, (2, -1))
        weights = scores.softmax(dim=1).to(a.dtype)[..., None, None, None]  # (B, 2, C, 1, 1, 1)
        return weights[:, 0] * a + weights[:, 1] * b


def temporal_sites(backbone: Backbone) -> tuple[str, ...]:
    """Returns the names of the convolutions that mix frames.

    In BN-Inception those of the gate-shift networks: the ``1x1`` branch of the blocks that keep
    their resolution and ``3x3_reduce`` of 3c and 4e; in Inception-v3 their ten, the 1×1 branches
    but that of ``Mixed_6d``, and the reduction in the two blocks that halve; in a ResNet the first
    convolution of every residual branch, of every second one in ResNet-101, as in TSM's code; in
    the small network all but the first (ours).

    Raises:
        ValueError: If this backbone has none.
    """
    names = [name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)]
    if backbone.name == "bn_inception":
        halving = ("inception_3c_3x3_reduce", "inception_4e_3x3_reduce")
        return tuple(n for n in names if n.endswith("_1x1") or n in halving)
    if backbone.name == "inception_v3":
        halving = ("Mixed_6a.branch3x3dbl_1.conv", "Mixed_7a.branch3x3_1.conv")
        kept = [n for n in names if n.endswith("branch1x1.conv") or n in halving]
        return tuple(n for n in kept if not n.startswith("Mixed_6d"))
    if backbone.name.startswith("resnet"):
        first = [n for n in names if n.startswith("layer") and n.endswith(".conv1")]
        every = 2 if backbone.name == "resnet101" else 1
        return tuple(n for n in first if int(n.split(".")[1]) % every == 0)
    if backbone.name == "small":
        return tuple(names[1:])
    raise ValueError(
        f"backbone {backbone.name!r} has no convolution that could mix frames; choose small, a "
        "resnet, bn_inception or inception_v3"
    )


def insert_temporal_convs(
    backbone: Backbone, mixing: Mixing, *, shift_fraction: float = 1 / 8, reduction: int = 16
) -> None:
    """Replaces the convolutions at the backbone's ``temporal_sites`` by `TemporalConv2d`.

    Raises:
        ValueError: If the backbone has none.
    """
    for name in temporal_sites(backbone):
        conv = backbone.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        site = TemporalConv2d(conv, mixing, shift_fraction=shift_fraction, reduction=reduction)
        backbone.set_submodule(name, site)
