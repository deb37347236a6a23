"""Small video files for tests."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np

from study.data.video.reader import VideoReader


def moving_square(frames: int, *, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """(F, H, W, 3) uint8: a bright textured square that moves 2 px a frame over noise."""
    rng = np.random.default_rng(seed)
    clip = np.repeat(rng.integers(0, 90, (1, height, width, 3), np.uint8), frames, axis=0)
    side = height // 2
    square = rng.integers(100, 255, (side, side, 3), np.uint8)
    for t in range(frames):
        x = (2 * t) % (width - side)
        clip[t, side // 2 : side // 2 + side, x : x + side] = square
    return clip


def write_video(path: Path, frames: Iterable[np.ndarray], *, codec: str = "mpeg4") -> Path:
    """Writes RGB frames; "ffv1" keeps every bit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = list(frames)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        if codec != "ffv1":
            stream.bit_rate = 2_000_000
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_dataset(folder: Path) -> Path:
    """Two class folders of five videos, 8 to 17 frames of 64×48 each."""
    for number in range(10):
        frames = moving_square(8 + number, seed=number)
        write_video(folder / ("jump", "run")[number % 2] / f"p{number}.avi", frames, codec="ffv1")
    return folder


def make_files(folder: Path, *paths: str) -> Path:
    """Makes empty files below a folder."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def decode_all(path: Path, *, short_side: int, frame_step: int = 1) -> np.ndarray:
    """Every `frame_step`-th frame of a video, (F, H, W, 3) uint8 RGB."""
    with VideoReader() as reader:
        indices = range(0, reader.open(path).frames, frame_step)
        return np.stack(list(reader.read(indices, short_side=short_side)))
