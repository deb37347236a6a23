"""Encodes one video for a clip store: its frames as JPEGs, and their flow."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.data.flow.compute import compute_flow, quantise
from study.data.flow.planes import pack_plane
from study.data.flow.precomputed import PrecomputedFlow
from study.data.store.record import make_record
from study.data.store.settings import StoreSettings, stack_pairs, stack_starts
from study.data.video.reader import BadVideoError, VideoReader, resized_size

__all__ = ["encode_video"]

MAX_RECORD_BYTES = 1 << 30
FLOW_CHUNK = 16  # frame pairs whose flow is computed together
GPU_FLOW_CHUNK = 128  # as a GPU's kernels take time to start


def encode_video(
    name: str,
    path: Path,
    settings: StoreSettings,
    reader: VideoReader,
    *,
    flow_folder: Path | None = None,
) -> pa.RecordBatch:
    """Decodes one video and computes its flow, or takes it from where it was computed before.

    Frames are resized first, and flow is computed from them; TV-L1 from their luma. Only the frames
    and the pairs that the settings ask for are worked on.

    Args:
        name: The video's name.
        path: Its file or folder of frames.
        settings: What to store.
        reader: Decodes it.
        flow_folder: Folder of precomputed flow, where the settings say so.

    Returns:
        The record, see `study.data.store.record.RECORD_SCHEMA`.

    Raises:
        BadVideoError: If the video can't be used.
    """
    info = reader.open(path)
    frames = -(-info.frames // settings.frame_step)
    if frames < 2:
        raise BadVideoError("one frame only: flow needs two")
    precomputed = None
    if flow_folder is not None:
        precomputed = PrecomputedFlow.find(flow_folder, name, frames)
        frames = min(frames, len(precomputed) + 1)
    starts = stack_starts(frames, settings)
    pairs = stack_pairs(starts, frames, settings)
    width, height = resized_size(info.width, info.height, settings.short_side)
    encoder = _Encoder(starts, pairs, settings)
    needed = starts if precomputed else np.unique(np.concatenate([starts, pairs, pairs + 1]))
    indices = [int(index) * settings.frame_step for index in needed]
    pictures = reader.read(indices, short_side=settings.short_side)
    for index, picture in zip(needed, pictures, strict=True):
        encoder.add(int(index), picture)
    if precomputed:
        for pair in pairs:
            encoder.add_flow(precomputed.field(int(pair), width, height))
    return make_record(
        name=name,
        width=width,
        height=height,
        frames=frames,
        promised=info.promised,
        decoder=info.decoder,
        starts=starts,
        pairs=pairs,
        rgb=encoder.rgb,
        flow=encoder.finish(),
    )


class _Encoder:
    """Turns a video's frames, in their order, into encoded frames and flow."""

    def __init__(
        self, starts: NDArray[np.int32], pairs: NDArray[np.int32], settings: StoreSettings
    ) -> None:
        self._starts = set(starts.tolist())
        self._pairs = set(pairs.tolist())
        self._settings = settings
        self._run: list[NDArray[np.uint8]] = []  # frames, each pair's flow is wanted
        self._chunk = GPU_FLOW_CHUNK if settings.flow_backend == "tvl1-gpu" else FLOW_CHUNK
        self._bytes = 0
        self.rgb: list[bytes] = []
        self._flow: list[tuple[bytes, bytes]] = []

    def add(self, index: int, picture: NDArray[np.uint8]) -> None:
        """Takes the next frame, (H, W, 3) RGB."""
        if index in self._starts:
            self.rgb.append(self._counted(self._jpeg(picture)))
        if self._settings.flow is None:
            return
        if index - 1 not in self._pairs:
            self._compute()
            self._run = []
        in_colour = self._settings.flow.in_colour
        self._run.append(picture if in_colour else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
        if len(self._run) > self._chunk:
            self._compute()
            self._run = self._run[-1:]

    def add_flow(self, field: NDArray[np.uint8]) -> None:
        """Takes the next field, (2, H, W) as stored bytes."""
        x, y = (self._counted(self._packed(plane)) for plane in field)
        self._flow.append((x, y))

    def finish(self) -> list[tuple[bytes, bytes]]:
        """Returns all fields, once every frame is added."""
        self._compute()
        return self._flow

    def _compute(self) -> None:
        if len(self._run) < 2:
            return
        flow = compute_flow(np.stack(self._run), self._settings.flow)  # (F-1, 2, H, W) px
        for field in quantise(flow, self._settings.bound):
            self.add_flow(field)

    def _jpeg(self, picture: NDArray[np.uint8]) -> bytes:
        quality = [cv2.IMWRITE_JPEG_QUALITY, self._settings.jpeg_quality]
        return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)[1].tobytes()

    def _packed(self, plane: NDArray[np.uint8]) -> bytes:
        settings = self._settings
        return pack_plane(plane, settings.flow_codec, jpeg_quality=settings.jpeg_quality)

    def _counted(self, encoded: bytes) -> bytes:
        self._bytes += len(encoded)
        if self._bytes > MAX_RECORD_BYTES:
            raise BadVideoError(
                f"too long: its pictures take more than {MAX_RECORD_BYTES >> 20} MiB; "
                "a frame step or stacks would take less"
            )
        return encoded
