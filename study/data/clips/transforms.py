"""Crops, mirror images and normalisation, the same for a segment's RGB frame and its flow.

The augmentation of two-stream practice (Wang et al., "Towards good practices for very deep
two-stream ConvNets", 2015): multi-scale crops at the four corners and the centre, and a horizontal
flip, which negates the x component of flow. A crop is a fraction of a frame's short side, so the
field of view doesn't depend on the size that a store holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.backbones.base import IMAGENET_MEAN, IMAGENET_STD

__all__ = [
    "TEST_SCALE",
    "Crop",
    "cut",
    "model_inputs",
    "normalise",
    "sampling",
    "test_crops",
    "training_crop",
]

TEST_SCALE = 224 / 256
"""Side of a test crop as a fraction of the short side: 224 of 256 pixels, as the field tests."""

SNAP = 2  # a crop side this close to the model's input, in pixels, is taken without resizing

FLOW_STD = 0.226  # the mean of IMAGENET_STD, as temporal segment networks scale flow


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """A rectangle of a frame, in pixels, and whether it is mirrored once cut."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False


def training_crop(
    height: int,
    width: int,
    *,
    size: int,
    scales: Sequence[float],
    flip: bool,
    rng: np.random.Generator,
) -> Crop:
    """Returns a random crop at a corner or the centre, mirrored half of the time.

    Args:
        height: The frame's height in pixels.
        width: Its width in pixels.
        size: Side of the model's input; a crop side within two pixels of it becomes it.
        scales: Crop sides as fractions of the short side. Height and width are drawn together,
            at most one step of this list apart.
        flip: Whether crops may be mirrored.
        rng: Drawn from three times, whatever the arguments.
    """
    sides = [_side(min(height, width), scale, size) for scale in scales]
    steps = range(len(sides))
    shapes = [(sides[i], sides[j]) for i in steps for j in steps if abs(i - j) <= 1]
    crop_height, crop_width = shapes[rng.integers(len(shapes))]
    corners = _corners_and_centre(height, width, crop_height, crop_width)
    top, left = corners[rng.integers(len(corners))]
    mirrored = bool(rng.integers(2)) and flip
    return Crop(top=top, left=left, height=crop_height, width=crop_width, mirrored=mirrored)


def test_crops(
    height: int, width: int, *, size: int, scales: Sequence[float], crops: str
) -> list[Crop]:
    """Returns the crops of a test clip.

    Args:
        height: The frame's height in pixels.
        width: Its width in pixels.
        size: Side of the model's input.
        scales: Those of the training crops. A test crop has `TEST_SCALE` of the short side, or
            what is nearest to it between the smallest and the largest of these (ours, so that a
            model that was trained at one scale is tested at it).
        crops: ``centre`` or ``ten`` (the corners and the centre, then the same mirrored);
            ``three`` is squares of the whole short side, spread over the longer one.

    Raises:
        ValueError: If the kind of crops is unknown.
    """
    if crops not in ("centre", "three", "ten"):
        raise ValueError(f"crops must be 'centre', 'three' or 'ten', got {crops!r}")
    short = min(height, width)
    if crops == "three":
        spread = [(height - short) * k // 2 for k in range(3)]
        across = [(width - short) * k // 2 for k in range(3)]
        return [
            Crop(top=top, left=left, height=short, width=short)
            for top, left in zip(spread, across, strict=True)
        ]
    side = _side(short, min(max(TEST_SCALE, min(scales)), max(scales)), size)
    places = _corners_and_centre(height, width, side, side)
    if crops == "centre":
        places = places[-1:]
    return [
        Crop(top=top, left=left, height=side, width=side, mirrored=mirrored)
        for mirrored in ((False, True) if crops == "ten" else (False,))
        for top, left in places
    ]


def _side(short: int, scale: float, size: int) -> int:
    side = max(1, round(short * scale))
    return size if abs(side - size) <= SNAP and size <= short else side


def _corners_and_centre(
    height: int, width: int, crop_height: int, crop_width: int
) -> list[tuple[int, int]]:
    """Returns (top, left) of the four corners, then of the centre."""
    bottom, right = height - crop_height, width - crop_width
    return [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]


def cut(image: NDArray[np.uint8], crop: Crop, out: NDArray[np.uint8]) -> None:
    """Writes a crop of an image, resized and mirrored as needed.

    Args:
        image: (H, W) or (H, W, 3).
        crop: What to cut.
        out: (h, w) or (h, w, 3); overwritten. Contiguous where there is more to do than to copy.
    """
    part = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if part.shape == out.shape:
        if crop.mirrored:
            cv2.flip(part, 1, dst=out)
        else:
            np.copyto(out, part)
        return
    cv2.resize(part, out.shape[1::-1], dst=out, interpolation=cv2.INTER_LINEAR)
    if crop.mirrored:
        cv2.flip(out, 1, dst=out)


def sampling(crops: Sequence[Crop], size: int) -> dict[str, Tensor]:
    """Returns how `model_inputs` makes the model's input of crops that were only cut.

    Args:
        crops: One of each of B clips.
        size: Side S of the model's input.

    Returns:
        ``rows`` and ``columns`` (B, S) float32, where in its crop each row and column of the input
        is sampled, in pixels, mirrored crops from right to left; ``mirrored`` (B,) bool.
    """
    columns = [_centres(crop.width, size)[:: -1 if crop.mirrored else 1] for crop in crops]
    return {
        "rows": torch.from_numpy(np.stack([_centres(crop.height, size) for crop in crops])),
        "columns": torch.from_numpy(np.stack(columns)),
        "mirrored": torch.tensor([crop.mirrored for crop in crops]),
    }


def _centres(length: int, size: int) -> NDArray[np.float32]:
    """Returns the centres of `size` equal parts of a line, none beyond its end pixels' centres."""
    centres = (np.arange(size) + 0.5) * (length / size) - 0.5
    return centres.clip(0, length - 1).astype(np.float32)


def normalise(frames: Tensor, kind: str) -> Tensor:
    """Turns stored bytes into a model's input, on the device where they are.

    RGB gets ImageNet's mean and deviation; flow is centred on zero motion (byte 127.5, so that a
    negation of flow negates the input) and divided by the mean of RGB's deviations.

    Args:
        frames: ``rgb`` (..., 3, H, W) or ``flow`` (..., 2L, H, W), uint8, or float16 in 0..255.
        kind: ``rgb`` or ``flow``.

    Returns:
        float32 of the same shape.
    """
    if kind == "flow":
        return frames.float().sub_(127.5).div_(255 * FLOW_STD)
    mean, std = _rgb_mean_and_std(frames.device)
    return frames.float().sub_(mean).div_(std)


@cache  # or each batch would wait for a copy to the device
def _rgb_mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(x, device=device).mul_(255) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return mean[:, None, None], std[:, None, None]


def model_inputs(batch: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Brings a batch to the device, normalised, every view a clip of its own.

    Crops that were only cut are resized and mirrored there.

    Args:
        batch: Stacked items of a `study.data.clips.dataset.ClipDataset`; bytes cross to the device.
        device: Where the model is.

    Returns:
        ``rgb`` (B, T, 3, S, S) and ``flow`` (B, T, 2L, S, S) float32, those that the batch has;
        B counts views. Each frame's channels are last in memory.
    """

    def there(name: str) -> Tensor:
        values: Tensor = batch[name].to(device, non_blocking=True)
        return values

    inputs: dict[str, Tensor] = {}
    for kind in ("rgb", "flow"):
        if kind not in batch:
            continue
        frames = there(kind)
        if "rows" in batch:
            frames = _resize(frames, there("rows"), there("columns"))
        *_, segments, channels, height, width = frames.shape
        frames = frames.reshape(-1, channels, height, width)
        # One layout, however the batch was stacked: another would sum in another order.
        frames = frames.contiguous(memory_format=torch.channels_last)
        inputs[kind] = normalise(frames, kind).unflatten(0, (-1, segments))
    if "flow" in inputs and "mirrored" in batch:
        sign = 1 - 2 * there("mirrored").float()
        inputs["flow"][:, :, 0::2].mul_(sign[:, None, None, None, None])
    return inputs


def _resize(frames: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Interpolates bilinearly where rows and columns cross, as two matrix products.

    A pixel's weight falls linearly to zero at its neighbours, so what lies beyond a crop, where
    nothing was written, has no weight. Half precision holds bytes exactly, their weights to
    2⁻¹² and the result to within a quarter of a grey level.

    Args:
        frames: (B, T, C, H, W) uint8, each video's crop in the corner at the top left.
        rows: (B, S), in 0..H-1.
        columns: (B, S), in 0..W-1.

    Returns:
        (B, T, C, S, S) float16, in 0..255.
    """
    with torch.autocast(frames.device.type, enabled=False):
        down, across = (
            (1 - (places[:, :, None] - torch.arange(length, device=frames.device)).abs())
            .clamp_(min=0)
            .half()
            for places, length in zip((rows, columns), frames.shape[-2:], strict=True)
        )  # (B, S, H) and (B, S, W)
        frames = torch.einsum("btchw,bxw->btchx", frames.half(), across)
        return torch.einsum("btchx,byh->btcyx", frames, down)
