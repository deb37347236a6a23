"""A stored video's images, decoded; those of a small dataset are kept in memory."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from study.data.flow.planes import unpack_plane

__all__ = ["KEPT_BYTES", "DecodedVideo", "Record"]

KEPT_BYTES = 128 << 20
"""The most memory that the decoded images of one dataset take in one process."""


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
        is_kept: Whether what was decoded stays in memory.

    Args:
        record: The stored video.
        flow_length: Fields L in a flow stack.
        kept_bytes: Memory that this video may keep; where all its images don't fit, none is kept.
    """

    def __init__(self, record: Record, *, flow_length: int, kept_bytes: int) -> None:
        self.height, self.width, self.positions = record.height, record.width, record.positions
        size = self.height * self.width * (3 + 2 * flow_length) * self.positions
        self.is_kept = size <= kept_bytes
        self._record = record
        self._flow_length = flow_length
        self._frames: dict[int, NDArray[np.uint8]] = {}
        self._stacks: dict[int, list[NDArray[np.uint8]]] = {}

    def rgb(self, position: int) -> NDArray[np.uint8]:
        """Returns the frame at a position, (H, W, 3), not to be written to.

        Raises:
            ValueError: If it is no image of the video's size.
        """
        frame = self._frames.get(position)
        if frame is None:
            frame = self._checked(_decode_frame(self._record.rgb(position)), position)
            if self.is_kept:
                self._frames[position] = frame
        return frame

    def flow(self, position: int) -> Iterable[NDArray[np.uint8]]:
        """Returns the planes x1, y1, x2, … of a stack, (H, W) each, not to be written to.

        Raises:
            ValueError: If one is no image of the video's size.
        """
        if position in self._stacks:
            return self._stacks[position]
        planes = self._decoded_planes(position)  # one at a time, for it stays in the cache then
        if not self.is_kept:
            return planes
        return self._stacks.setdefault(position, list(planes))

    def _decoded_planes(self, position: int) -> Iterator[NDArray[np.uint8]]:
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
