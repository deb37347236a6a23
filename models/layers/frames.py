"""Networks of images on clips of T frames."""

from collections.abc import Callable

from torch import Tensor

__all__ = ["fold_frames", "over_frames", "unfold_frames"]


def over_frames(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply ``net`` to each frame: (B, T, C, H, W) → (B, T, …)."""
    result: Tensor = net(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return result


def fold_frames(x: Tensor) -> Tensor:
    """Put the frames of a volume in the batch: (B, C, T, H, W) → (B·T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_frames(x: Tensor, frames: int) -> Tensor:
    """Take T frames of each clip out of the batch: (B·T, C, H, W) → (B, C, T, H, W)."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2)
