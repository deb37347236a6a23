"""Shifts along time: of fixed channels, and gated."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GatedShift", "temporal_shift"]


def temporal_shift(x: Tensor, fraction: float) -> Tensor:
    """Shifts some channels by a frame (Lin et al., "TSM", ICCV 2019).

    Of C channels the first ⌊fraction·C⌋ come from the next frame, as many from the frame before,
    and the rest stay. Beyond the clip's ends are zeros.

    Args:
        x: ``(B, C, T, H, W)``.
        fraction: Share of the channels that is shifted each way; the paper's is 1/8.
    """
    fold = int(x.shape[1] * fraction)
    ahead, behind, rest = x[:, :fold], x[:, fold : 2 * fold], x[:, 2 * fold :]
    return torch.cat([_from_next(ahead), _from_previous(behind), rest], dim=1)


class GatedShift(nn.Module):
    """Gate-shift module (Sudhakaran et al., "Gate-shift networks", CVPR 2020).

    gate = tanh(Conv3d(ReLU(BatchNorm(x)))), one plane for each half of the channels; y = gate·x is
    shifted in time and added to x − y: the first half from the next frame, the second from the
    frame before. The channels of each half are then shuffled, as two groups. The gate starts at
    zero, and the module as that permutation.

    Args:
        channels: C, divisible by 4.

    Raises:
        ValueError: If C is not divisible by 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"a gated shift needs channels divisible by 4, got {channels}")
        self.norm = nn.BatchNorm3d(channels)
        self.gate = nn.Conv3d(channels, 2, 3, padding=1, groups=2)
        nn.init.zeros_(self.gate.weight)
        if self.gate.bias is not None:
            nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, T, H, W) to (B, C, T, H, W)."""
        gates = self.gate(self.norm(x).relu()).tanh()  # (B, 2, T, H, W)
        first, second = x.chunk(2, dim=1)
        gated_first, gated_second = gates[:, :1] * first, gates[:, 1:] * second
        first = _from_next(gated_first) + first - gated_first
        second = _from_previous(gated_second) + second - gated_second
        return torch.cat([_shuffle(first), _shuffle(second)], dim=1)


def _from_next(x: Tensor) -> Tensor:
    """Returns frame t + 1 of (B, C, T, H, W) at each t, zeros at the last."""
    return F.pad(x[:, :, 1:], (0, 0, 0, 0, 0, 1))


def _from_previous(x: Tensor) -> Tensor:
    """Returns frame t − 1 of (B, C, T, H, W) at each t, zeros at the first."""
    return F.pad(x[:, :, :-1], (0, 0, 0, 0, 1, 0))


def _shuffle(x: Tensor) -> Tensor:
    """Interleaves the two halves of the channels."""
    return torch.unflatten(x, 1, (2, -1)).transpose(1, 2).flatten(1, 2)
