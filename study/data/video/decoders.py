"""What runs in the process that a `study.data.video.reader.VideoReader` can kill: the decoders."""

import os
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from study.data.process import send_bytes
from study.data.video.files import FLOW_PREFIXES, natural_key
from study.data.video.reader import TOLERATED_FRAMES, BadVideoError, Frame, VideoInfo, resize

__all__ = ["serve"]

MAX_SIDE = 16_384
MAX_PIXELS = 8192 * 4608
MAX_ASPECT = 16
MAX_DECODER_BYTES = 3 << 30
"""Address space that a decoder may take beyond what the process starts with."""

_TICK_SECONDS = 0.5
_IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}


class _Decoder(Protocol):
    """One open video."""

    info: VideoInfo

    def frames(self, last: int) -> Iterator[Callable[[], Frame]]:
        """Yields for each frame up to number `last` a function that returns it as (H, W, 3) RGB."""


class _Pulse:
    """Signals now and then to the parent that the decoder makes progress."""

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
            frames: list[Any] = packet.decode()
        except self._av.error.InvalidDataError:
            return []  # counts as missing
        return frames

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
    """Returns how many frames the container promises.

    Matroska and WebM count no frames, but say how long the track is: what its last frame lacks to
    that is missing.
    """
    if stream.frames > 0:
        return int(stream.frames)
    length = _matroska_length(Path(container.name)) if "matroska" in container.format.name else None
    if length is not None and length > container.size:
        missing = round(decoded * (length / int(container.size) - 1))
        return decoded + max(TOLERATED_FRAMES + 1, missing)
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
    """Returns when a track that counts no frames ends, in seconds; None where it isn't said."""
    stated = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    if stated:
        hours, minutes, seconds = stated.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if "matroska" in container.format.name and container.duration and not container.streams.audio:
        return float(container.duration / 1_000_000)
    return None


def _matroska_length(path: Path) -> int | None:
    """Returns the bytes that a Matroska file has by its own account; None where it doesn't say."""
    with path.open("rb") as file:
        head = file.read(4096)

    def size_at(position: int) -> tuple[int | None, int]:
        """Returns an element's size (None: unknown) and where its content starts."""
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
    """A folder of frames, in the order of the numbers in their names; flow among them is none."""

    def __init__(self, path: str, pulse: _Pulse) -> None:
        self._files = sorted(
            (
                file
                for file in Path(path).iterdir()
                if file.suffix.lower() in _IMAGE_SUFFIXES
                and not file.name.startswith(FLOW_PREFIXES)
            ),
            key=lambda file: (natural_key(file.stem), file.name),
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


def _numbered_frames(stems: list[str]) -> int | None:
    """Counts the frames that numbers at the names' ends promise; None where there are none."""
    matches = [re.search(r"\d+$", stem) for stem in stems]
    if len(stems) < 3 or not all(matches):
        return None
    numbers = sorted({int(match.group()) for match in matches if match})
    step = min((b - a for a, b in pairwise(numbers)), default=1)
    return (numbers[-1] - numbers[0]) // step + 1
