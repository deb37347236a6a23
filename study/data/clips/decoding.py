"""A stored video's images, decoded and cut; those of a small dataset are kept in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from study.data.clips.transforms import Crop, cut
from study.data.flow.planes import unpack_plane

__all__ = ["KEPT_BYTES", "DecodedVideo", "Record"]

KEPT_BYTES = 128 << 20
"""The most memory that the decoded images of one dataset, and their crops, take in one process."""


class Record(Protocol):
    """What a dataset reads of a stored video; `study.data.store.record.ClipRecord` has it."""

    @property
    def name(self) -> str:
        """The video's name."""

    @property
    def width(self) -> int:
        """Width of its stored frames in pixels."""

    @property
    def height(self) -> int:
        """Height of its stored frames in pixels."""

    @property
    def positions(self) -> int:
        """Number of positions at which a frame and a flow stack can be read."""

    def rgb(self, position: int) -> Any:
        """Returns the encoded frame at a position."""

    def flow(self, position: int, length: int) -> Sequence[tuple[Any, Any]]:
        """Returns the packed x and y planes of the `length` flow fields at a position."""


class DecodedVideo:
    """A stored video whose images are decoded when they are first asked for.

    Attributes:
        height: Height of the images in pixels.
        width: Their width in pixels.
        positions: Number of positions at which a frame and a flow stack can be read.
        is_kept: Whether what was decoded stays in memory, and what was cut of it as long as there
            is room.

    Args:
        record: The stored video.
        flow_length: Fields L in a flow stack.
        kept_bytes: Memory that this video may keep; where all its images don't fit, none is kept.
    """

    def __init__(self, record: Record, *, flow_length: int, kept_bytes: int) -> None:
        self.height, self.width, self.positions = record.height, record.width, record.positions
        size = self.height * self.width * (3 + 2 * flow_length) * self.positions
        self.is_kept = size <= kept_bytes
        self._room = kept_bytes - size
        self._record = record
        self._flow_length = flow_length
        self._images: dict[tuple[str, int], list[NDArray[np.uint8]]] = {}
        self._cuts: dict[tuple[str | int, ...], NDArray[np.uint8]] = {}

    def cut(self, kind: str, position: int, crops: Sequence[Crop], out: NDArray[np.uint8]) -> None:
        """Writes crops of what is read at a position, each resized and mirrored as needed.

        A mirrored crop of flow has the x planes of the mirrored video: their values are negated.

        Args:
            kind: ``rgb`` or ``flow``.
            position: Where to read, in 0..positions-1.
            crops: What to cut.
            out: (V, 1, H, W, 3) for a frame, or (V, 2L, H, W) for the planes x1, y1, x2, … of a
                stack; overwritten.

        Raises:
            ValueError: If an image is none of the video's size.
        """
        if self.is_kept:
            for crop, images in zip(crops, out, strict=True):
                self._copy_cut(kind, position, crop, images)
        else:
            # One plane at a time, for it stays in the cache then.
            for number, image in enumerate(self.decoded(kind, position)):
                for crop, images in zip(crops, out, strict=True):
                    cut(image, crop, images[number])
        for crop, images in zip(crops, out, strict=True):
            if crop.mirrored and kind == "flow":
                np.subtract(255, images[0::2], out=images[0::2])

    def _copy_cut(self, kind: str, position: int, crop: Crop, out: NDArray[np.uint8]) -> None:
        """Writes one crop, which is resized once for all epochs that ask for it."""
        key = (kind, position, crop.top, crop.left, crop.height, crop.width, *out.shape)
        images = self._cuts.get(key)
        if images is None:
            images = np.empty(out.shape, np.uint8)
            for image, upright in zip(self._kept(kind, position), images, strict=True):
                cut(image, replace(crop, mirrored=False), upright)
            if images.nbytes <= self._room:
                self._room -= images.nbytes
                self._cuts[key] = images
        if not crop.mirrored:
            np.copyto(out, images)
            return
        for image, mirrored in zip(images, out, strict=True):
            cv2.flip(image, 1, dst=mirrored)

    def _kept(self, kind: str, position: int) -> list[NDArray[np.uint8]]:
        if (kind, position) not in self._images:
            self._images[kind, position] = list(self.decoded(kind, position))
        return self._images[kind, position]

    def decoded(self, kind: str, position: int) -> Iterator[NDArray[np.uint8]]:
        """Yields the frame, (H, W, 3), or the stack's planes x1, y1, …, (H, W), whole.

        They are not to be written to.

        Raises:
            ValueError: If an image is none of the video's size.
        """
        if kind == "rgb":
            yield self._checked(_decode_frame(self._record.rgb(position)), position)
            return
        for pair in self._record.flow(position, self._flow_length):
            for plane in pair:
                yield self._checked(unpack_plane(plane, self.height, self.width), position)

    def _checked(self, image: NDArray[np.uint8] | None, position: int) -> NDArray[np.uint8]:
        if image is None or image.shape[:2] != (self.height, self.width):
            got = "no image" if image is None else f"{image.shape[1]}×{image.shape[0]} pixels"
            raise ValueError(
                f"clip store: position {position} of {self._record.name} gives "
                f"{got} instead of {self.width}×{self.height} pixels; prepare the store again"
            )
        return image


def _decode_frame(data: Any) -> NDArray[np.uint8] | None:
    """Returns an encoded frame, (H, W, 3) RGB; None where it is no image."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if len(data) else None
