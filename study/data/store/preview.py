"""A picture of a stored video: sampled frames and their flow in colour."""

import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from study.data.clips.decoding import DecodedVideo
from study.data.flow.compute import dequantise
from study.data.store.clip_store import ClipStore

__all__ = ["colour_flow", "colour_stored_flow", "draw_preview", "find_stored"]

COLUMNS = 6
"""Positions of a video that are shown, evenly spaced."""

LEAST_SPEED = 1.0
"""Pixels a frame that full colour stands for at least, so that a still video looks still."""


def colour_flow(flow: NDArray[np.floating[Any]], speed: float) -> NDArray[np.uint8]:
    """Colours flow: the hue is the direction, the saturation the speed, white stands still.

    Args:
        flow: (2, H, W) in pixels, x to the right and y down.
        speed: Pixels that full saturation stands for.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    x, y = flow
    turn = np.arctan2(-y, x) / (2 * np.pi) % 1  # 0: right, 1/4: up
    hsv = np.stack([turn, np.clip(np.hypot(x, y) / speed, 0, 1), np.ones_like(x)], axis=-1)
    colours: NDArray[np.uint8] = np.rint(hsv_to_rgb(hsv) * 255).astype(np.uint8)
    return colours


def colour_stored_flow(
    stored: Sequence[NDArray[np.uint8]], bound: float
) -> tuple[list[NDArray[np.uint8]], float]:
    """Colours flow fields as a store has them, all on one scale.

    Args:
        stored: (2, H, W) bytes each, the x and the y plane.
        bound: Pixels a frame that bytes 0 and 255 stand for, as of the store's settings.

    Returns:
        (H, W, 3) uint8 RGB each, and the pixels a frame that full saturation stands for.
    """
    flows = [dequantise(planes, bound) for planes in stored]
    for flow in flows:
        flow[np.abs(flow) < bound / 200] = 0  # bytes 127 and 128: nothing moves
    speed = max(LEAST_SPEED, float(np.percentile(np.hypot(*np.stack(flows, axis=1)), 99)))
    return [colour_flow(flow, speed) for flow in flows], speed


def find_stored(store: ClipStore, name: str) -> str:
    """Returns the stored video of a name, or of a name without its class.

    Raises:
        ValueError: If there is none or several; the message says which are near, or why it was
            skipped.
    """
    names, skipped = (
        [known for known in videos if name in (known, known.rpartition("/")[2])]
        for videos in (store.names, store.skipped)
    )
    if len(names) == 1:
        return names[0]
    if skipped and not names:
        raise ValueError(f"{skipped[0]} was skipped: {store.skipped[skipped[0]]}")
    near = names or get_close_matches(name, store.names, cutoff=0.4) or store.names[:3]
    raise ValueError(
        f"{store.path} has {'several videos' if names else 'no video'} {name!r}"
        + (f"; there are: {', '.join(near)}" if near else "")
    )


def draw_preview(store: ClipStore, name: str, path: Path) -> None:
    """Draws a stored video as it comes out of the store: frames, flow, the flow's x and y planes.

    Args:
        store: The clip store.
        name: A stored video.
        path: Where the picture goes; its suffix gives the format.

    Raises:
        KeyError: If the store has no such video.
        ValueError: If what it holds of it is damaged.
    """
    record = store.record(name)
    positions = np.unique(np.linspace(0, record.positions - 1, COLUMNS).round().astype(int))
    video = DecodedVideo(record, flow_length=1, kept_bytes=0)
    frames = [next(video.decoded("rgb", position)) for position in positions]
    stored = [np.stack(list(video.decoded("flow", position))) for position in positions]
    colours, speed = colour_stored_flow(stored, store.settings.bound)
    rows = {
        "frame": frames,
        "flow": colours,
        "flow x": [planes[0] for planes in stored],
        "flow y": [planes[1] for planes in stored],
    }
    width = 2.0
    height = width * record.height / record.width
    figure = Figure(
        figsize=(width * (len(positions) + 1), (height + 0.15) * len(rows) + 1.2),
        layout="constrained",
    )
    axes = figure.subplots(len(rows), len(positions) + 1, squeeze=False)
    for line, (title, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
        line[0].set_ylabel(title)
    for axis, position in zip(axes[0], positions, strict=False):
        axis.set_title(f"frame {record.starts[position] * store.settings.frame_step}", fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for line in axes:
        line[-1].axis("off")
    axes[0, -1].imshow(_wheel(speed))
    axes[0, -1].set_title(f"{speed:.1f} px a frame", fontsize=9)
    summary = (
        f"{record.frames} frames, {record.width}×{record.height}, {record.positions} stored "
        f"positions; flow: {store.settings.flow_backend}"
    )
    lines = [textwrap.fill(line, 13 * (len(positions) + 1)) for line in (name, summary)]
    figure.suptitle("\n".join(lines), fontsize=10)
    figure.savefig(path, dpi=110)


def _wheel(speed: float) -> NDArray[np.uint8]:
    """Draws the colours of all directions and speeds."""
    y, x = np.mgrid[-1:1:101j, -1:1:101j].astype(np.float32)
    picture = colour_flow(np.stack([x, y]) * speed, speed)
    picture[np.hypot(x, y) > 1] = 255
    return picture
