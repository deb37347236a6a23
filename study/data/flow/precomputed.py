"""Optical flow that was computed before, in the field's usual folders of JPEGs.

A video's folder holds ``flow_x_00001.jpg`` and ``flow_y_00001.jpg``, …, or the folders ``x`` and
``y`` (or ``u`` and ``v``) with one picture for each field, in the order of their numbers. The first
field leads from the first frame to the second. Bytes mean displacements of ±20 px, as two-stream
practice has it.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from study.data.flow.compute import dequantise, quantise
from study.data.video.files import FLOW_PREFIXES, natural_key
from study.data.video.reader import TOLERATED_FRAMES, BadVideoError

__all__ = ["PrecomputedFlow"]

_FOLDERS = (("x", "y"), ("u", "v"))
_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True, slots=True)
class PrecomputedFlow:
    """The flow files of one video: `x[i]` and `y[i]` lead from frame i to the next."""

    x: tuple[Path, ...]
    y: tuple[Path, ...]

    @classmethod
    def find(cls, folder: Path, name: str, frames: int) -> "PrecomputedFlow":
        """Finds a video's flow.

        Args:
            folder: Folder of all flow; a video's is below it under its name, with or without the
                class in front.
            name: The video's name, "<class>/<path without suffix>".
            frames: Frames of the video, to which the number of fields must fit.

        Raises:
            BadVideoError: If there is none, or not for all frames.
        """
        places = (folder / name, folder / name.partition("/")[2])
        place = next((place for place in places if place.is_dir()), None)
        if place is None:
            raise BadVideoError(f"no precomputed flow: neither {places[0]} nor {places[1]}")
        x, y = _pictures(place)
        if len(x) != len(y) or not x:
            raise BadVideoError(f"precomputed flow of {len(x)} x and {len(y)} y fields in {place}")
        if len(x) < frames - 1 - TOLERATED_FRAMES:
            raise BadVideoError(f"precomputed flow has {len(x)} fields for {frames} frames")
        return cls(tuple(x), tuple(y))

    def __len__(self) -> int:
        return len(self.x)

    def field(self, index: int, width: int, height: int) -> NDArray[np.uint8]:
        """Returns one field as stored bytes, (2, H, W) uint8.

        Where its size differs, it is resized, and displacements with it.
        """
        planes = []
        for file, axis in ((self.x[index], 0), (self.y[index], 1)):
            stored = _read_gray(file)
            was = stored.shape[1 - axis]  # width for x, height for y
            size = (width, height)
            if stored.shape != size[::-1]:
                shrinks = width < stored.shape[1]
                method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
                pixels = cv2.resize(dequantise(stored), size, interpolation=method)
                stored = quantise(pixels * (size[axis] / was))
            planes.append(stored)
        return np.stack(planes)


def _pictures(place: Path) -> tuple[list[Path], list[Path]]:
    for first, second in _FOLDERS:
        if (place / first).is_dir():
            return _sorted(place / first, ""), _sorted(place / second, "")
    x, y = FLOW_PREFIXES
    return _sorted(place, x), _sorted(place, y)


def _sorted(place: Path, prefix: str) -> list[Path]:
    if not place.is_dir():
        return []
    files = (
        file
        for file in place.iterdir()
        if file.name.startswith(prefix) and file.suffix.lower() in _SUFFIXES
    )
    return sorted(files, key=lambda file: (natural_key(file.stem), file.name))


def _read_gray(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(file, formats=("JPEG", "PNG")) as picture:
            return np.asarray(picture.convert("L"))
    except (OSError, ValueError, SyntaxError):  # as Pillow reports damage
        raise BadVideoError(f"precomputed flow {file} is damaged") from None
