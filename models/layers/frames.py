"""Networks of images on clips of T frames."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = [
    "ClipModule",
    "fold_frames",
    "over_frames",
    "set_frames",
    "split_clips",
    "unfold_frames",
]


class ClipModule(nn.Module):
    """A layer in a network of images that needs to know how many frames a clip has.

    Attributes:
        frames: Frames T of the clips in the batch, set by ``set_frames`` before each pass.
    """

    frames: int = 1


def set_frames(net: nn.Module, frames: int) -> None:
    """Tells every `ClipModule` inside how many frames a clip has."""
    for module in net.modules():
        if isinstance(module, ClipModule):
            module.frames = frames


def over_frames(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies ``net`` to each frame: (B, T, C, H, W) → (B, T, …)."""
    return torch.unflatten(net(x.flatten(0, 1)), 0, x.shape[:2])


def split_clips(x: Tensor, frames: int) -> Tensor:
    """Splits a batch of frames into clips of T: (B·T, …) → (B, T, …)."""
    return torch.unflatten(x, 0, (-1, frames))


def fold_frames(x: Tensor) -> Tensor:
    """Puts the frames of a volume in the batch: (B, C, T, H, W) → (B·T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_frames(x: Tensor, frames: int) -> Tensor:
    """Takes T frames of each clip out of the batch: (B·T, C, H, W) → (B, C, T, H, W)."""
    return split_clips(x, frames).transpose(1, 2)
