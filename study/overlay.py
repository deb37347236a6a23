"""A video with what was predicted of it drawn on its frames."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from study.data.video.reader import VideoReader
from study.files import whole_file

__all__ = ["draw_overlay"]

MOST_SIDE = 480  # pixels of the short side; a smaller video keeps its own
LEAST_SIDE = 240
FOLDER_RATE = Fraction(25)  # frames a second of a folder of frames
SHADE = 0.45  # of the frame's brightness under the text


def draw_overlay(source: Path, lines: Sequence[str], target: Path) -> None:
    """Writes a copy of a video as H.264 in MP4, with lines of text at the top left.

    Args:
        source: A video file, or a folder of frames.
        lines: What to draw.
        target: The file to write, whole or not at all; its folder exists.

    Raises:
        BadVideoError: If the video can't be read.
        OSError: If the file can't be written.
    """
    with VideoReader() as reader, whole_file(target) as file:
        info = reader.open(source)
        side = min(max(min(info.width, info.height), LEAST_SIDE), MOST_SIDE)
        frames = reader.read(range(info.frames), short_side=side)
        with av.open(file, "w", format="mp4") as container:
            stream: Any = None
            for frame in frames:
                height, width = (size - size % 2 for size in frame.shape[:2])  # as 4:2:0 needs
                if stream is None:
                    stream = container.add_stream("libx264", rate=_rate(source))
                    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                picture = _drawn(frame[:height, :width], lines)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def _rate(source: Path) -> Fraction:
    if source.is_dir():
        return FOLDER_RATE
    with av.open(str(source)) as container:
        return container.streams.video[0].average_rate or FOLDER_RATE


def _drawn(frame: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """Returns a frame (H, W, 3) with text on a darkened box."""
    size = max(12, frame.shape[0] // 20)
    font = ImageFont.load_default(size)
    text = "\n".join(lines)
    picture = frame.copy()
    measured = ImageDraw.Draw(Image.fromarray(picture)).multiline_textbbox((0, 0), text, font=font)
    right, bottom = (int(end) + size for end in measured[2:])
    picture[:bottom, :right] = (picture[:bottom, :right] * SHADE).astype(np.uint8)
    image = Image.fromarray(picture)
    place = (size // 2, size // 2)
    ImageDraw.Draw(image).multiline_text(place, text, font=font, fill=(255, 255, 255))
    return np.asarray(image)
