"""Frames of a video: a file in any container, or a folder of frames.

Decoders hang, crash and fill memory on damaged files, so they run in a process of their own that
can be killed: `study.data.video.decoders`. Every file is decoded twice: once to count the frames
that are whole and compare them with what the container promises, once to deliver. PyAV comes
first: it marks frames that it had to patch, and reads the formats of the field at least as fast as
decord, which fills frames that it can't decode with copies of their neighbours and seeks to a wrong
frame in files with packed B-frames. decord is asked only where PyAV hangs or crashes twice, and is
refused when it made up frames. One death says nothing of the video: the system kills processes too,
as where memory runs out.
"""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.checks import check_number
from study.data.process import ChildDiedError, ChildProcess, ChildStuckError

__all__ = [
    "TOLERATED_FRAMES",
    "BadVideoError",
    "Frame",
    "VideoInfo",
    "VideoReader",
    "resize",
    "resized_size",
]

TOLERATED_FRAMES = 3
"""Frames that may be missing or damaged: decoders and containers differ by so many on whole files
(packed B-frames, a last frame that is counted but not coded)."""
Frame = NDArray[np.uint8]


class BadVideoError(Exception):
    """The video can't be used; the message is the reason, without the path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What a whole pass over a video found.

    Attributes:
        frames: Frames that decode.
        promised: Frames that the container promises; None where it doesn't say.
        width: Width in pixels as displayed, after rotation.
        height: Height in pixels as displayed, after rotation.
        decoder: "pyav", "decord" or "images".
    """

    frames: int
    promised: int | None
    width: int
    height: int
    decoder: str


def resized_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Returns width and height after `resize`.

    The shorter is `short_side`; the longer keeps the aspect ratio, rounded to the nearest pixel,
    halves up.
    """
    short, long = sorted((width, height))
    new_long = (2 * long * short_side + short) // (2 * short)
    return (new_long, short_side) if width >= height else (short_side, new_long)


def resize(frame: Frame, short_side: int) -> Frame:
    """Resizes (H, W, 3) so that the short side is `short_side`.

    By area averaging where that makes it smaller, bilinearly where larger. Pixels are taken as
    square.
    """
    height, width = frame.shape[:2]
    size = resized_size(width, height, short_side)
    if size == (width, height):
        return frame
    smaller = short_side < min(width, height)
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    resized: Frame = cv2.resize(frame, size, interpolation=interpolation)
    return resized


class VideoReader:
    """Reads one video after another through a decoder process.

    The process is started when needed and replaced when it hangs or dies. Not for use by several
    threads at once.

    Args:
        deadline: Seconds without progress after which a decoder is given up.

    Raises:
        ValueError: If the deadline is not above 0.
    """

    def __init__(self, *, deadline: float = 60.0) -> None:
        check_number("deadline", deadline, above=0)
        self._deadline = deadline
        self._child: ChildProcess | None = None
        self._path = ""
        self._info: VideoInfo | None = None

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the decoder process."""
        self._end_process()
        self._info = None

    def _end_process(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def open(self, path: str | Path) -> VideoInfo:
        """Decodes the whole video once and says what is there.

        Raises:
            BadVideoError: If it is no video, not whole, too large, or no decoder survives it.
        """
        self._path, self._info = str(path), None
        failures = []
        for decoder in _decoders_for(Path(path)):
            try:
                self._info = self._open_with(decoder)
                return self._info
            except (ChildStuckError, ChildDiedError) as failure:
                self._end_process()
                failures.append(f"{decoder} {_said(failure)}")
        raise BadVideoError("; ".join(failures))

    def _open_with(self, decoder: str) -> VideoInfo:
        request = ("open", self._path, decoder)
        try:
            info: VideoInfo = self._ask(request)
        except ChildDiedError:
            self._end_process()
            info = self._ask(request)
        return info

    def read(self, indices: Sequence[int], *, short_side: int) -> Iterator[Frame]:
        """Reads frames of the video that was opened last.

        Args:
            indices: Frames to read, ascending, each below `VideoInfo.frames`.
            short_side: Short side of the frames in pixels, see `resize`.

        Yields:
            (H, W, 3) uint8 RGB, one for each index; dropped if the caller stops early.

        Raises:
            ValueError: If no video is open, or the indices don't ascend or are out of range.
            BadVideoError: If the decoder failed where it had succeeded when the video was opened.
        """
        info = self._info
        if info is None:
            raise ValueError("open a video first")
        if any(b <= a for a, b in pairwise(indices)):
            raise ValueError("indices must ascend")
        if indices and not 0 <= indices[0] <= indices[-1] < info.frames:
            raise ValueError(
                f"indices must be in 0..{info.frames - 1}, got {indices[0]}..{indices[-1]}"
            )
        delivered, died = 0, False
        try:
            while delivered < len(indices):
                try:
                    for frame in self._frames(info, indices[delivered:], short_side):
                        delivered += 1
                        yield frame
                except ChildDiedError:
                    if died:
                        raise
                    died = True
                    self._end_process()
                    if self._open_with(info.decoder) != info:
                        raise BadVideoError("changed while it was read") from None
        except (ChildStuckError, ChildDiedError) as failure:
            raise BadVideoError(f"{info.decoder} {_said(failure)}") from None
        finally:
            if delivered < len(indices):
                self.close()

    def _frames(self, info: VideoInfo, indices: Sequence[int], short_side: int) -> Iterator[Frame]:
        """Yields frames as the decoder process delivers them."""
        width, height = resized_size(info.width, info.height, short_side)
        request: tuple[Any, ...] = ("read", list(indices), short_side)
        for _ in indices:
            self._ask(request)
            request = ()
            frame = np.empty((height, width, 3), np.uint8)
            assert self._child is not None
            self._child.receive_into(frame.data.cast("B"), self._deadline)
            yield frame

    def _ask(self, request: tuple[Any, ...]) -> Any:
        """Sends a request unless it is empty, and returns the answer to it or to the last one."""
        if self._child is None:
            self._child = ChildProcess("study.data.video.decoders:serve")
        if request:
            self._child.send(request)
        while True:
            kind, value = self._child.receive(self._deadline)
            if kind == "bad":
                raise BadVideoError(value)
            if kind != "alive":
                return value


def _said(failure: Exception) -> str:
    return f"{'hung: ' if isinstance(failure, ChildStuckError) else ''}{failure}"


def _decoders_for(path: Path) -> list[str]:
    """Returns the decoders to try, in order; refuses what is neither a file nor a folder."""
    try:
        status = path.stat()
    except OSError as error:
        raise BadVideoError(error.strerror or str(error)) from None
    if stat.S_ISDIR(status.st_mode):
        return ["images"]
    if not stat.S_ISREG(status.st_mode):
        raise BadVideoError("neither a file nor a folder of frames")
    if status.st_size == 0:
        raise BadVideoError("empty file")
    decoders = [
        name for name, module in (("pyav", "av"), ("decord", "decord")) if find_spec(module)
    ]
    if not decoders:
        raise ImportError("no video decoder is installed: pip install av")
    return decoders
