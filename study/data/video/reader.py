"""Frames of a video: a file in any container, or a folder of frames.

Decoders hang, crash and fill memory on damaged files, so they run in a process of their own that
can be killed. Every file is decoded twice: once to count the frames that are whole and compare them
with what the container promises, once to deliver. PyAV comes first: it marks frames that it had to
patch, and reads the formats of the field at least as fast as decord, which fills frames that it
can't decode with copies of their neighbours and seeks to a wrong frame in files with packed
B-frames. decord is asked only where PyAV hangs or crashes, and is refused when it made up frames.
"""

import os
import re
import resource
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from study.data.process import ChildDiedError, ChildProcess, ChildStuckError, send_bytes

__all__ = [
    "TOLERATED_FRAMES",
    "BadVideoError",
    "VideoInfo",
    "VideoReader",
    "decode",
    "natural_key",
    "resize",
    "resized_size",
]

MAX_SIDE = 16_384
MAX_PIXELS = 8192 * 4608
MAX_ASPECT = 16
TOLERATED_FRAMES = 3
"""Frames that may be missing or damaged: decoders and containers differ by so many on whole files
(packed B-frames, a last frame that is counted but not coded)."""
MAX_DECODER_BYTES = 3 << 30
"""Address space that a decoder may take beyond what the process starts with."""

_TICK_SECONDS = 0.5
_IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}

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
    """Width and height after `resize`: the shorter is `short_side`, the longer keeps the aspect
    ratio, rounded to the nearest pixel, halves up."""
    short, long = sorted((width, height))
    new_long = (2 * long * short_side + short) // (2 * short)
    return (new_long, short_side) if width >= height else (short_side, new_long)


def resize(frame: Frame, short_side: int) -> Frame:
    """Resizes (H, W, 3) so that the short side is `short_side`: by area averaging where that makes
    it smaller, bilinearly where larger. Pixels are taken as square."""
    height, width = frame.shape[:2]
    size = resized_size(width, height, short_side)
    if size == (width, height):
        return frame
    smaller = short_side < min(width, height)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def decode(
    path: str | Path, *, short_side: int, frame_step: int = 1, deadline: float = 60.0
) -> Frame:
    """All frames of a video.

    Args:
        path: A video file or a folder of frames.
        short_side: Short side of the frames in pixels, see `resize`.
        frame_step: Every how many-th frame is taken, from the first on.
        deadline: Seconds without progress after which a decoder is given up.

    Returns:
        (F, H, W, 3) uint8, RGB.

    Raises:
        BadVideoError: The video is not whole.
    """
    with VideoReader(deadline=deadline) as reader:
        info = reader.open(path)
        indices = range(0, info.frames, frame_step)
        return np.stack(list(reader.read(indices, short_side=short_side)))


class VideoReader:
    """Reads one video after another through a decoder process, which is started when needed and
    replaced when it hangs or dies. Not for use by several threads at once.

    Args:
        deadline: Seconds without progress after which a decoder is given up.
    """

    def __init__(self, *, deadline: float = 60.0) -> None:
        if not deadline > 0:
            raise ValueError(f"deadline must be above 0 seconds, got {deadline}")
        self._deadline = deadline
        self._child: ChildProcess | None = None
        self._info: VideoInfo | None = None

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the decoder process."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        self._info = None

    def open(self, path: str | Path) -> VideoInfo:
        """Decodes the whole video once and says what is there.

        Raises:
            BadVideoError: It is no video, not whole, too large, or no decoder survives it.
        """
        self._info = None
        decoders = _decoders_for(Path(path))
        failures = []
        for decoder in decoders:
            try:
                self._info = self._ask(("open", str(path), decoder))
                return self._info
            except (ChildStuckError, ChildDiedError) as failure:
                self.close()
                failures.append(f"{decoder} {_said(failure)}")
        raise BadVideoError("; ".join(failures))

    def read(self, indices: Sequence[int], *, short_side: int) -> Iterator[Frame]:
        """Frames of the video that was opened last.

        Args:
            indices: Frames to read, ascending, each below `VideoInfo.frames`.
            short_side: Short side of the frames in pixels, see `resize`.

        Yields:
            (H, W, 3) uint8 RGB, one for each index; dropped if the caller stops early.

        Raises:
            BadVideoError: The decoder failed where it had succeeded when the video was opened.
        """
        if self._info is None:
            raise ValueError("open a video first")
        if any(b <= a for a, b in pairwise(indices)):
            raise ValueError("indices must ascend")
        if indices and not 0 <= indices[0] <= indices[-1] < self._info.frames:
            raise ValueError(
                f"indices must be in 0..{self._info.frames - 1}, got {indices[0]}..{indices[-1]}"
            )
        width, height = resized_size(self._info.width, self._info.height, short_side)
        delivered = False
        try:
            request: tuple[Any, ...] = ("read", list(indices), short_side)
            for _ in indices:
                self._ask(request)
                request = ()
                frame = np.empty((height, width, 3), np.uint8)
                assert self._child is not None
                self._child.receive_into(frame.data.cast("B"), self._deadline)
                yield frame
            delivered = True
        except (ChildStuckError, ChildDiedError) as failure:
            raise BadVideoError(f"{self._info.decoder} {_said(failure)}") from None
        finally:
            if not delivered:
                self.close()

    def _ask(self, request: tuple[Any, ...]) -> Any:
        """Sends a request unless it is empty, and returns the answer to it or to the last one."""
        if self._child is None:
            self._child = ChildProcess("study.data.video.reader:serve")
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
    """Decoders to try, in order; refuses what is neither a file nor a folder."""
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


# What follows runs in the decoder process.


class _Decoder(Protocol):
    """One open video."""

    info: VideoInfo

    def frames(self, last: int) -> Iterator[Callable[[], Frame]]:
        """For each frame up to number `last`, a function that returns it as (H, W, 3) RGB."""


class _Pulse:
    """Tells the parent now and then that the decoder gets on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last = time.monotonic()

    def beat(self) -> None:
        if time.monotonic() - self._last > _TICK_SECONDS:
            self._last = time.monotonic()
            self._connection.send(("alive", None))


def serve(connection: Connection) -> None:
    """Answers one `VideoReader` until it closes the connection."""
    cv2.setNumThreads(1)
    _limit_memory()
    decoder: _Decoder | None = None
    pulse = _Pulse(connection)
    openers: dict[str, Callable[[str, _Pulse], _Decoder]] = {
        "pyav": _PyavDecoder,
        "decord": _DecordDecoder,
        "images": _ImagesDecoder,
    }
    while True:
        action, *arguments = connection.recv()
        try:
            if action == "open":
                path, name = arguments
                decoder = None
                decoder = openers[name](path, pulse)
                connection.send(("opened", decoder.info))
            else:
                assert decoder is not None
                _deliver(connection, pulse, decoder, *arguments)
        except BadVideoError as error:
            connection.send(("bad", str(error)))
        except MemoryError:
            connection.send(("bad", f"needs more than {MAX_DECODER_BYTES >> 30} GiB to decode"))
        except OSError as error:
            if isinstance(error, BrokenPipeError | ConnectionResetError):
                raise
            connection.send(("bad", error.strerror or str(error)))


def _limit_memory() -> None:
    statm = Path("/proc/self/statm")  # Linux
    if statm.exists():
        pages = int(statm.read_text().split()[0])
        limit = pages * resource.getpagesize() + MAX_DECODER_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _deliver(
    connection: Connection, pulse: _Pulse, decoder: _Decoder, indices: list[int], short_side: int
) -> None:
    wanted = iter(indices)
    following = next(wanted, None)
    if following is None:
        return
    for index, take in enumerate(decoder.frames(indices[-1])):
        if index == following:
            frame = np.ascontiguousarray(resize(take(), short_side))
            connection.send(("frame", None))
            send_bytes(connection, frame.data.cast("B"))
            following = next(wanted, None)
        pulse.beat()
    if following is not None:
        raise BadVideoError(f"frame {following} was there at first but not when read again")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadVideoError(f"no valid picture size ({width}×{height})")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise BadVideoError(f"picture of {width}×{height} is larger than {MAX_PIXELS:,} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadVideoError(f"picture of {width}×{height} is longer than {MAX_ASPECT} to 1")


def _check_whole(decoded: int, damaged: int, promised: int | None) -> None:
    """Raises unless nearly all promised frames decode undamaged."""
    if decoded == 0:
        raise BadVideoError("no frame decodes")
    total = decoded if promised is None else max(promised, decoded)
    missing = total - decoded
    if missing + damaged > TOLERATED_FRAMES:
        raise BadVideoError(f"of {total} frames {missing} are missing and {damaged} damaged")


class _PyavDecoder:
    def __init__(self, path: str, pulse: _Pulse) -> None:
        import av
        import av.logging

        self._av = av
        self._path = path
        self._rotation = 0
        self._pulse = pulse
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture() as messages:
                self.info = self._inspect(messages)
        except av.FFmpegError as error:
            raise BadVideoError(f"can't be read as a video ({error.strerror})") from None
        finally:
            av.logging.set_level(None)

    def _open(self) -> tuple[Any, Any]:
        container = self._av.open(self._path, metadata_errors="ignore")
        if not container.streams.video:
            container.close()
            raise BadVideoError("has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            container.close()
            raise BadVideoError("is of an unknown codec")
        _check_size(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.thread_count = 1
        return container, stream

    def _inspect(self, messages: list[tuple[int, str, str]]) -> VideoInfo:
        decoded = damaged = discarded = 0
        end = 0.0
        shape: tuple[int, int] | None = None
        container, stream = self._open()
        with container:
            for packet in container.demux(stream):
                discarded += packet.is_discard
                for frame in self._decode(packet):
                    shape = shape or self._first(frame)
                    if shape != (frame.width, frame.height):
                        raise BadVideoError(
                            f"picture size changes from {shape[0]}×{shape[1]} "
                            f"to {frame.width}×{frame.height}"
                        )
                    decoded += 1
                    damaged += frame.is_corrupt
                    end = max(end, frame.time or 0.0)
                self._pulse.beat()
            promised = _promised_frames(container, stream, decoded, end)
            matroska = "matroska" in container.format.name
        if promised is not None:
            promised -= discarded  # an edit list hides these
        _check_whole(decoded, damaged, promised)
        if matroska:
            _check_messages(messages)
        assert shape is not None
        if self._rotation % 180:
            shape = shape[::-1]
        return VideoInfo(
            frames=decoded, promised=promised, width=shape[0], height=shape[1], decoder="pyav"
        )

    def _first(self, frame: Any) -> tuple[int, int]:
        """Learns size and rotation from the first frame."""
        _check_size(frame.width, frame.height)
        self._rotation = frame.rotation % 360
        return frame.width, frame.height

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return packet.decode()
        except self._av.error.InvalidDataError:
            return []  # counts as missing

    def frames(self, last: int) -> Iterator[Callable[[], Frame]]:
        reformatter = self._av.video.reformatter.VideoReformatter()
        container, stream = self._open()
        number = 0
        with container:
            for packet in container.demux(stream):
                for frame in self._decode(packet):
                    yield partial(self._picture, reformatter, frame)
                    if number == last:
                        return
                    number += 1

    def _picture(self, reformatter: Any, frame: Any) -> Frame:
        picture = reformatter.reformat(frame, format="rgb24").to_ndarray()
        return np.rot90(picture, self._rotation // 90) if self._rotation else picture


def _promised_frames(container: Any, stream: Any, decoded: int, end: float) -> int | None:
    """Frames that the container promises.

    Matroska and WebM count no frames, but say how long the track is: what its last frame lacks to
    that is missing.
    """
    if stream.frames > 0:
        return int(stream.frames)
    length = _matroska_length(Path(container.name)) if "matroska" in container.format.name else None
    if length is not None and length > container.size:
        return decoded + max(TOLERATED_FRAMES + 1, round(decoded * (length / container.size - 1)))
    duration = _track_seconds(container, stream)
    if duration is None or not stream.average_rate:
        return None
    missing = round((duration - end) * float(stream.average_rate)) - 1
    return decoded + max(0, missing)


def _check_messages(messages: list[tuple[int, str, str]]) -> None:
    """Raises if the reader of a Matroska file, which counts no frames, met damage and went on."""
    for _, component, message in messages:
        if "matroska" in component:
            raise BadVideoError(f"the container is damaged ({message.strip()})")


def _track_seconds(container: Any, stream: Any) -> float | None:
    """Seconds at which a video track that counts no frames ends, where the container says so."""
    stated = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    if stated:
        hours, minutes, seconds = stated.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if "matroska" in container.format.name and container.duration and not container.streams.audio:
        return float(container.duration / 1_000_000)
    return None


def _matroska_length(path: Path) -> int | None:
    """Bytes that a Matroska file has by its own account; None where it doesn't say."""
    with path.open("rb") as file:
        head = file.read(4096)

    def size_at(position: int) -> tuple[int | None, int]:
        """An element's size (None: unknown) and where its content starts."""
        octets = 9 - head[position].bit_length()
        value = int.from_bytes(head[position : position + octets]) & ((1 << 7 * octets) - 1)
        return (None if value == (1 << 7 * octets) - 1 else value), position + octets

    try:
        header, content = size_at(4)
        segment = content + (header or 0)
        if head[segment : segment + 4] != b"\x18\x53\x80\x67":
            return None
        size, content = size_at(segment + 4)
    except IndexError:
        return None
    return None if size is None else content + size


class _DecordDecoder:
    def __init__(self, path: str, pulse: _Pulse) -> None:
        # decord says only on the standard error that it made up frames, and by default only
        # beyond a share of them; it reads the variable when a file is opened.
        os.environ["DECORD_DUPLICATE_WARNING_THRESHOLD"] = "0.0"
        import decord

        self._decord = decord
        self._path = path
        with tempfile.TemporaryFile() as log:
            os.dup2(log.fileno(), 2)
            try:
                reader = decord.VideoReader(path, num_threads=1)
                for _ in range(len(reader)):
                    height, width = reader.next().shape[:2]
                    _check_size(width, height)
                    pulse.beat()
            except decord.DECORDError as error:
                raise BadVideoError(f"decord: {str(error).strip().splitlines()[-1]}") from None
            log.seek(0)
            if b"recovered from nearest" in log.read():
                raise BadVideoError("decord replaced frames that don't decode by their neighbours")
        _check_whole(len(reader), 0, None)
        self.info = VideoInfo(
            frames=len(reader), promised=None, width=width, height=height, decoder="decord"
        )

    def frames(self, last: int) -> Iterator[Callable[[], Frame]]:
        reader = self._decord.VideoReader(self._path, num_threads=1)
        for _ in range(last + 1):
            frame = reader.next()
            yield frame.asnumpy


class _ImagesDecoder:
    """A folder of frames, in the order of the numbers in their names."""

    def __init__(self, path: str, pulse: _Pulse) -> None:
        self._files = sorted(
            (file for file in Path(path).iterdir() if file.suffix.lower() in _IMAGE_SUFFIXES),
            key=natural_key,
        )
        if not self._files:
            raise BadVideoError("folder without frames (.jpg, .png, …)")
        size: tuple[int, int] | None = None
        damaged = 0
        for file in self._files:
            try:
                height, width = _read_image(file).shape[:2]
            except (OSError, ValueError, SyntaxError):  # as Pillow reports damage
                damaged += 1
                continue
            if size not in (None, (width, height)):
                raise BadVideoError(f"frame {file.name} is {width}×{height}, others {size}")
            size = (width, height)
            pulse.beat()
        if size is None:
            raise BadVideoError("no frame decodes")
        if damaged:
            raise BadVideoError(f"of {len(self._files)} frames {damaged} are damaged")
        promised = _numbered_frames([file.stem for file in self._files])
        _check_whole(len(self._files), 0, promised)
        self.info = VideoInfo(
            frames=len(self._files),
            promised=promised,
            width=size[0],
            height=size[1],
            decoder="images",
        )

    def frames(self, last: int) -> Iterator[Callable[[], Frame]]:
        for file in self._files[: last + 1]:
            yield partial(_read_image, file)


def _read_image(file: Path) -> Frame:
    from PIL import Image

    with Image.open(file, formats=("BMP", "JPEG", "PNG", "PPM", "WEBP")) as image:
        _check_size(*image.size)
        return np.asarray(image.convert("RGB"))


def natural_key(file: Path) -> tuple[list[tuple[int, str]], str]:
    """Sorts files by the numbers in their names: img_2 before img_10."""
    parts = re.split(r"(\d+)", file.stem)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts], file.name


def _numbered_frames(stems: list[str]) -> int | None:
    """Frames that consecutive numbers at the names' ends promise; None where there are none."""
    matches = [re.search(r"\d+$", stem) for stem in stems]
    if len(stems) < 3 or not all(matches):
        return None
    numbers = sorted({int(match.group()) for match in matches if match})
    step = min((b - a for a, b in pairwise(numbers)), default=1)
    return (numbers[-1] - numbers[0]) // step + 1
