"""One video of a clip store: how its pictures are kept, and how they are read."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from study.data.store.settings import StoreSettings

__all__ = ["RECORD_SCHEMA", "ClipRecord", "make_record", "numbers", "record_digest"]

RECORD_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("digest", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frames", pa.int32()),
        ("promised", pa.int32()),
        ("decoder", pa.string()),
        ("starts", pa.list_(pa.int32())),
        ("pairs", pa.list_(pa.int32())),
        ("rgb", pa.list_(pa.large_binary())),
        ("flow_x", pa.list_(pa.large_binary())),
        ("flow_y", pa.list_(pa.large_binary())),
    ]
)
"""One video.

width, height: of the stored pictures, in pixels. frames: after the frame step. promised: frames
that the container promised, before the frame step. starts: the frame at each position, ascending;
rgb[i] is that frame. pairs: the first frame of each stored pair, ascending; flow_x[i] and flow_y[i]
are the flow from it to the next frame.
"""


def make_record(
    *,
    name: str,
    width: int,
    height: int,
    frames: int,
    promised: int | None,
    decoder: str,
    starts: NDArray[np.int32],
    pairs: NDArray[np.int32],
    rgb: Sequence[bytes],
    flow: Sequence[tuple[bytes, bytes]],
) -> pa.RecordBatch:
    """Makes one video's record, see `RECORD_SCHEMA`.

    `rgb` goes with `starts`, and `flow` (x and y) with `pairs`.

    Raises:
        ValueError: If there aren't as many of the one as of the other.
    """
    if len(rgb) != len(starts) or len(flow) != len(pairs):
        raise ValueError(
            f"got {len(rgb)} frames for {len(starts)} starts, {len(flow)} fields for {len(pairs)}"
        )
    values: dict[str, Any] = {
        "name": name,
        "digest": "",  # set below
        "width": width,
        "height": height,
        "frames": frames,
        "promised": promised,
        "decoder": decoder,
        "starts": starts,
        "pairs": pairs,
        "rgb": list(rgb),
        "flow_x": [x for x, _ in flow],
        "flow_y": [y for _, y in flow],
    }

    columns = [pa.array([values[column.name]], column.type) for column in RECORD_SCHEMA]
    record = pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)
    column = RECORD_SCHEMA.get_field_index("digest")
    return record.set_column(column, RECORD_SCHEMA.field(column), pa.array([record_digest(record)]))


def record_digest(record: pa.RecordBatch) -> str:
    """Returns the digest of what a record holds, apart from the name that it is stored under."""
    state = blake2b(digest_size=16)
    for column in ("width", "height", "frames"):
        state.update(f"{column}={record[column][0].as_py()};".encode())
    for column in ("starts", "pairs"):
        state.update(numbers(_values(record, column)).astype("<i4").tobytes())
        state.update(b";")
    for column in ("rgb", "flow_x", "flow_y"):
        for value in _values(record, column):
            state.update(len(value.as_buffer()).to_bytes(8, "little"))
            state.update(value.as_buffer())
        state.update(b";")
    return state.hexdigest()


def _values(record: pa.RecordBatch, column: str) -> Any:
    """Returns the one list of a record's column, as an Arrow array that shares its memory."""
    return record[column][0].values


def numbers(array: Any) -> NDArray[Any]:
    """Returns an Arrow array of numbers without nulls, sharing its memory.

    Its own `to_numpy` imports pandas where that is installed: half a second and 50 MB.
    """
    return np.from_dlpack(array)


class ClipRecord:
    """One stored video. Bytes are views of the mapped file: nothing is copied.

    Attributes:
        name: The video's name.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        positions: Number of stored frames, each the start of a flow stack.
        starts: Which frame is at each position.
        frames: Frames of the video.
    """

    def __init__(self, record: pa.RecordBatch, settings: "StoreSettings") -> None:
        self.name: str = record["name"][0].as_py()
        self.width: int = record["width"][0].as_py()
        self.height: int = record["height"][0].as_py()
        self.frames: int = record["frames"][0].as_py()
        self.digest: str = record["digest"][0].as_py()
        self.starts: NDArray[np.int32] = numbers(_values(record, "starts"))
        self._pairs: NDArray[np.int32] = numbers(_values(record, "pairs"))
        self.positions: int = len(self.starts)
        self._rgb = _values(record, "rgb")
        self._flow = (_values(record, "flow_x"), _values(record, "flow_y"))
        self._longest = None if settings.stacks is None else settings.flow_length

    def rgb(self, position: int) -> memoryview:
        """Returns the frame at a position as JPEG."""
        self._check(position)
        return memoryview(self._rgb[position].as_buffer())

    def flow(self, position: int, length: int) -> list[tuple[memoryview, memoryview]]:
        """Returns the flow stack that starts at a position.

        Args:
            position: 0 ≤ position < `positions`.
            length: Fields in the stack; past the video's end its last field is repeated.

        Returns:
            `length` pairs of planes, x and y, as of `study.data.flow.planes`.

        Raises:
            ValueError: If the store's stacks are shorter than `length`.
        """
        self._check(position)
        if length < 1 or (self._longest is not None and length > self._longest):
            raise ValueError(
                f"flow length must be from 1 to {self._longest or 'any number'}, got {length}"
            )
        start = int(self.starts[position])
        first = int(np.searchsorted(self._pairs, start))
        last = first + min(length, self.frames - 1 - start) - 1
        x, y = self._flow
        stack = [
            (memoryview(x[i].as_buffer()), memoryview(y[i].as_buffer()))
            for i in range(first, last + 1)
        ]
        return stack + stack[-1:] * (length - len(stack))

    def _check(self, position: int) -> None:
        if not 0 <= position < self.positions:
            raise IndexError(
                f"position must be in 0..{self.positions - 1} for {self.name}, got {position}"
            )
