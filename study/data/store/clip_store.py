"""The clip store: videos as JPEG frames and flow, decoded once and read by memory mapping.

A store is a folder:

- ``settings.json``: what it is made with, written first and never changed.
- ``shards/00000.arrow``, …: Arrow IPC files with one record batch for each video.
- ``videos-….arrow``: one row for each video, stored or only annotated, sorted by name: what the
  annotations say of it, and the shard and row of its record.
- ``splits-….arrow``: the splits' lists as row numbers of the videos' table.
- ``manifest.json``: everything else: classes, fingerprint, shards, the files' sizes, and each
  skipped video with its reason. It names the two tables and is replaced in one step, so a reader
  sees all of an old state or all of a new one.

Nothing in it depends on when, where or in how many goes it was prepared. It is prepared in a local
folder; a copy of it may be read at any place that ``pyarrow.fs`` reaches, through a local cache.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.data.datasets.annotations import Annotations, Split, Video
from study.data.flow.compute import FlowSettings
from study.data.store.remote import CachedFolder, is_uri
from study.files import write_whole

__all__ = [
    "RECORD_SCHEMA",
    "ClipRecord",
    "ClipStore",
    "StoreSettings",
    "make_record",
    "read_settings",
    "record_digest",
    "stack_starts",
    "write_manifest",
]

FORMAT = 1
PARTS = ("train", "test")

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

_VIDEOS_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("path", pa.string()),
        ("label", pa.int32()),
        ("group", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("digest", pa.string()),
    ]
)
_SPLITS_SCHEMA = pa.schema([("split", pa.int32()), ("part", pa.int8()), ("video", pa.int32())])


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    """All that decides what a store holds of a video.

    Attributes:
        dataset: The dataset's name.
        short_side: Short side of the pictures in pixels.
        frame_step: Every how many-th frame counts, from the first on.
        stacks: Stacks stored of a video, each one frame and `flow_length` flow fields; None stores
            every frame and every field.
        flow_length: Flow fields in a stored stack; without `stacks` it means nothing.
        flow: How flow is computed; None where it comes precomputed.
        jpeg_quality: 1 to 100.
    """

    dataset: str
    short_side: int = 256
    frame_step: int = 1
    stacks: int | None = None
    flow_length: int = 10
    flow: FlowSettings | None = field(default_factory=FlowSettings)
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        for name, least, most in (
            ("short_side", 8, 4096),
            ("frame_step", 1, 1000),
            ("stacks", 1, 10_000),
            ("flow_length", 1, 1000),
            ("jpeg_quality", 1, 100),
        ):
            value = getattr(self, name)
            if value is None and name == "stacks":
                continue
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(
                    f"{name} must be a whole number from {least} to {most}, got {value!r}"
                )

        if self.flow is None and self.frame_step != 1:
            raise ValueError(
                "precomputed flow leads from each frame to the next, so frame_step must be 1 with "
                f"it, got {self.frame_step}"
            )

    @property
    def flow_backend(self) -> str:
        return "precomputed" if self.flow is None else self.flow.backend

    @property
    def bound(self) -> float:
        """Flow in pixels that the stored byte 255 means."""
        return 20.0 if self.flow is None else self.flow.bound

    def to_dict(self) -> dict[str, Any]:
        """The settings that matter, by name, flow's as "flow.name"; JSON values only."""
        plain = asdict(self)
        flow = plain.pop("flow") or {"backend": "precomputed"}
        if self.stacks is None:
            del plain["flow_length"]
        return {**plain, **{f"flow.{name}": value for name, value in flow.items()}}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "StoreSettings":
        """The inverse of `to_dict`."""
        flow = {k.removeprefix("flow."): v for k, v in plain.items() if k.startswith("flow.")}
        known = {setting.name for setting in fields(cls)}
        return cls(
            **{name: value for name, value in plain.items() if name in known},
            flow=None if flow["backend"] == "precomputed" else FlowSettings(**flow),
        )


def stack_starts(frames: int, settings: StoreSettings) -> NDArray[np.int32]:
    """Frames that are stored, each the start of a stack.

    Without stacks: every frame that has a next one. With K stacks: the possible starts of a whole
    stack are cut into K equal parts, and each part's centre is taken; a video too short for K
    different ones has fewer.
    """
    if settings.stacks is None:
        return np.arange(frames - 1, dtype=np.int32)
    possible = max(1, frames - settings.flow_length)
    k = np.arange(settings.stacks)
    return np.unique((2 * k + 1) * possible // (2 * settings.stacks)).astype(np.int32)


def stack_pairs(
    starts: NDArray[np.int32], frames: int, settings: StoreSettings
) -> NDArray[np.int32]:
    """First frames of the pairs whose flow the stacks at `starts` need, ascending."""
    if settings.stacks is None:
        return starts
    every = (starts[:, None] + np.arange(settings.flow_length, dtype=np.int32)).ravel()
    return np.unique(every[every <= frames - 2])


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
    """One video's record, see `RECORD_SCHEMA`; `rgb` goes with `starts`, `flow` with `pairs`."""
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
    place = RECORD_SCHEMA.get_field_index("digest")
    return record.set_column(place, RECORD_SCHEMA.field(place), pa.array([record_digest(record)]))


def record_digest(record: pa.RecordBatch) -> str:
    """Digest of what a record holds, apart from the name that it is stored under."""
    state = blake2b(digest_size=16)
    for column in ("width", "height", "frames"):
        state.update(f"{column}={record[column][0].as_py()};".encode())
    for column in ("starts", "pairs"):
        state.update(_numbers(_values(record, column)).astype("<i4").tobytes())
        state.update(b";")
    for column in ("rgb", "flow_x", "flow_y"):
        for value in _values(record, column):
            state.update(len(value.as_buffer()).to_bytes(8, "little"))
            state.update(value.as_buffer())
        state.update(b";")
    return state.hexdigest()


def _values(record: pa.RecordBatch, column: str) -> Any:
    """The one list of a record's column, as an Arrow array that shares its memory."""
    return record[column][0].values


def _numbers(array: Any) -> NDArray[Any]:
    """An Arrow array of numbers without nulls, sharing its memory.

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

    def __init__(self, record: pa.RecordBatch, settings: StoreSettings) -> None:
        self.name: str = record["name"][0].as_py()
        self.width: int = record["width"][0].as_py()
        self.height: int = record["height"][0].as_py()
        self.frames: int = record["frames"][0].as_py()
        self.digest: str = record["digest"][0].as_py()
        self.starts: NDArray[np.int32] = _numbers(_values(record, "starts"))
        self._pairs: NDArray[np.int32] = _numbers(_values(record, "pairs"))
        self.positions: int = len(self.starts)
        self._rgb = _values(record, "rgb")
        self._flow = (_values(record, "flow_x"), _values(record, "flow_y"))
        self._longest = None if settings.stacks is None else settings.flow_length

    def rgb(self, position: int) -> memoryview:
        """The frame at a position as JPEG."""
        self._check(position)
        return memoryview(self._rgb[position].as_buffer())

    def flow(self, position: int, length: int) -> list[tuple[memoryview, memoryview]]:
        """The flow stack that starts at a position.

        Args:
            position: 0 ≤ position < `positions`.
            length: Fields in the stack; past the video's end its last field is repeated.

        Returns:
            `length` pairs of grayscale JPEGs, x and y.

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


class ClipStore:
    """A finished store, open for reading. Picklable: a copy opens the same files again.

    Attributes:
        path: The store's folder, or its URI.
        fingerprint: Digest of all that a training can see: settings, annotations, records.
        settings: What the store was made with.
        skip_entries: For each video that could not be used, the reason and the digest of its file.
        shards: Number of shards.
        manifest: The manifest file's content.
    """

    def __init__(self, path: str | Path) -> None:
        self._remote = CachedFolder(str(path)) if is_uri(path) else None
        self.path: str | Path = self._remote.uri if self._remote else Path(path)
        read = self._remote.read if self._remote else partial(_read, Path(path))
        settings, manifest = read("settings.json", "manifest.json")
        self.settings = parse_settings(settings, self.path)
        if manifest is None:
            raise FileNotFoundError(_unfinished(self.path, self.settings))
        self.manifest = manifest
        try:
            self._manifest = json.loads(manifest)
        except ValueError as error:
            raise ValueError(self._mend_manifest(f"is damaged ({error})")) from None
        self.fingerprint: str = self._manifest["fingerprint"]
        self.skip_entries: dict[str, dict[str, Any]] = self._manifest["skipped"]
        self.shards: int = self._manifest["shards"]
        self._videos = self._table("videos")
        self._names = self._videos["name"]
        self._shards: dict[int, Any] = {}

    @classmethod
    def open(cls, path: str | Path) -> "ClipStore":
        """Opens the store in a folder, or at a URI of ``pyarrow.fs`` such as ``s3://bucket/store``.

        Raises:
            FileNotFoundError: There is no store, or it is unfinished.
            ValueError: It is of another format, or the URI is of no known file system.
            OSError: The URI can't be reached, or its files don't fit into the cache.
        """
        return cls(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipStore, (self.path,)

    def __len__(self) -> int:
        return int(self._manifest["stored"])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    @property
    def names(self) -> list[str]:
        """Names of the stored videos, sorted."""
        columns = (self._videos[column].to_pylist() for column in ("name", "shard"))
        return [name for name, shard in zip(*columns, strict=True) if shard >= 0]

    @cached_property
    def skipped(self) -> dict[str, str]:
        """Each video that could not be used, with the reason."""
        return {name: entry["reason"] for name, entry in self.skip_entries.items()}

    def places(self) -> dict[str, "Place"]:
        """Where each stored video's record is."""
        columns = (self._videos[c].to_pylist() for c in ("name", "shard", "row", "digest"))
        return {
            name: Place(shard, row, digest)
            for name, shard, row, digest in zip(*columns, strict=True)
            if shard >= 0
        }

    @cached_property
    def annotations(self) -> Annotations:
        """The dataset's annotations, missing and skipped videos included."""
        return _read_annotations(self._manifest, self._videos, self._table("splits_table"))

    def missing(self, split: str) -> dict[str, int]:
        """How many videos of each part of a split are not in the store, skipped ones included."""
        stored = _numbers(self._videos["shard"]) >= 0
        table = self._table("splits_table")
        number = self._manifest["splits"].index(split)
        mine = _numbers(table["split"]) == number
        absent = ~stored[_numbers(table["video"])] & mine
        part = _numbers(table["part"])
        return {name: int((absent & (part == i)).sum()) for i, name in enumerate(PARTS)}

    def record(self, name: str) -> ClipRecord:
        """A stored video's record.

        Raises:
            KeyError: The store has no such video.
            ValueError: Its place holds another record than the manifest says.
        """
        row = self._find(name)
        if row is None:
            reason = self.skipped.get(name, "it was missing when the store was prepared")
            raise KeyError(f"{self.path} has no video {name!r}: {reason}")
        record = ClipRecord(self.batch(row), self.settings)
        if (record.name, record.digest) != (name, self._videos["digest"][row].as_py()):
            raise ValueError(
                f"shard {self._videos['shard'][row].as_py():05d} of {self.path} holds "
                f"{record.name!r} of digest {record.digest} where {name!r} was prepared: the store "
                "was mended since it was opened, or is damaged; start again, or check it with "
                f"`python -m study.prepare --verify --store {self.path}`"
            )
        return record

    def batch(self, row: int) -> pa.RecordBatch:
        """The record in a row of the videos' table as it is stored."""
        shard = self._videos["shard"][row].as_py()
        reader = self._shards.get(shard)
        if reader is None:
            reader = self._shards[shard] = open_shard(self._locate_shard(shard))
        return reader.get_batch(self._videos["row"][row].as_py())

    def _locate_shard(self, number: int) -> Path:
        if self._remote is None:
            return shard_path(Path(self.path), number)
        name = shard_name(number)
        return self._remote.locate(name, size=self.files[name], version=self.shard_digest(number))

    def _table(self, kind: str) -> pa.RecordBatch:
        name = self._manifest[kind]
        if self._remote is None:
            return read_table(Path(self.path) / name)
        return read_table(self._remote.locate(name, size=self.files[name]))

    @property
    def files(self) -> dict[str, int]:
        """The sizes in bytes of the tables and shards.

        Raises:
            ValueError: An older version finished the store, which didn't write them down.
        """
        sizes: dict[str, int] | None = self._manifest.get("files")
        if sizes is None:
            raise ValueError(self._mend_manifest("lacks the files' sizes, as old ones do"))
        return sizes

    def _mend_manifest(self, wrong: str) -> str:
        did = "prepared" if self._remote is None else "uploaded"
        return (
            f"the manifest.json of {self.path} {wrong}: delete it and run the command that {did} "
            "the store again, which keeps what is there and writes a new one"
        )

    @property
    def cache(self) -> Path | None:
        """Where this machine has the files of a store with a URI; None for a local store."""
        return None if self._remote is None else self._remote.folder

    def shard_digest(self, number: int) -> str:
        """Digest of a shard's records and their order."""
        rows = np.flatnonzero(_numbers(self._videos["shard"]) == number).tolist()
        columns = [
            [self._videos[column][row].as_py() for row in rows]
            for column in ("name", "row", "digest")
        ]
        return blake2b(json.dumps(columns).encode(), digest_size=8).hexdigest()

    def _find(self, name: str) -> int | None:
        """The row of a stored video in the videos' table."""
        row = bisect_left(range(len(self._names)), name, key=lambda i: self._names[i].as_py())
        if row == len(self._names) or self._names[row].as_py() != name:
            return None
        return row if self._videos["shard"][row].as_py() >= 0 else None

    def verify(self) -> Iterable[str]:
        """Checks every record against its digest, and the fingerprint against them all.

        Yields:
            What is wrong, a line each; nothing where all is well.
        """
        digests = {}
        for row, shard in enumerate(self._videos["shard"].to_pylist()):
            if shard < 0:
                continue
            name = self._names[row].as_py()
            digests[name] = self._videos["digest"][row].as_py()
            try:
                record = self.batch(row)
                record.validate(full=True)
                found = record["name"][0].as_py(), record_digest(record)
            except (OSError, ValueError, IndexError, pa.ArrowException) as error:
                yield f"{name}: shard {shard:05d} can't be read: {error}"
                continue
            if found != (name, digests[name]):
                yield f"{name}: shard {shard:05d} holds something else than was prepared"
        if fingerprint(self.settings, self.annotations, digests) != self.fingerprint:
            yield "the manifest's fingerprint is not that of its settings, annotations and records"


def shard_path(store: Path, number: int) -> Path:
    """Where a shard lies."""
    return store / shard_name(number)


def shard_name(number: int) -> str:
    """A shard's file in the store's folder."""
    return f"shards/{number:05d}.arrow"


def open_shard(path: Path) -> Any:
    """An Arrow reader of a shard, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path)))


def read_table(path: Path) -> pa.RecordBatch:
    """A table of one record batch, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def read_settings(path: Path) -> StoreSettings:
    """The settings of a store, finished or not.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: It is of another format.
    """
    (content,) = _read(path, "settings.json")
    return parse_settings(content, path)


def parse_settings(content: bytes | None, path: str | Path) -> StoreSettings:
    if content is None:
        how = f"--store DIR … --upload {path}`" if is_uri(path) else f"--store {path} …`"
        raise FileNotFoundError(
            f"no clip store in {path}: it has no settings.json; make one with "
            f"`python -m study.prepare DATASET {how}"
        )
    plain = json.loads(content)
    if plain.pop("format") != FORMAT:
        raise ValueError(f"clip store {path} is of another format; prepare it again elsewhere")
    return StoreSettings.from_dict(plain)


def _unfinished(path: str | Path, settings: StoreSettings) -> str:
    if is_uri(path):
        return (
            f"the upload of clip store {path} is unfinished: run `python -m study.prepare --store "
            f"DIR --upload {path}` again, it goes on where it stopped"
        )
    return (
        f"clip store {path} is unfinished: run `python -m study.prepare {settings.dataset} --store "
        f"{path} …` again, it goes on where it stopped"
    )


def write_settings(path: Path, settings: StoreSettings) -> None:
    """Writes the settings of a new store."""
    write_whole(path / "settings.json", _to_json({"format": FORMAT, **settings.to_dict()}))


def _read(path: Path, *names: str) -> list[bytes | None]:
    """The content of small files in a local folder; None where there is no such file."""
    files = [path / name for name in names]
    return [file.read_bytes() if file.exists() else None for file in files]


def _to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def fingerprint(
    settings: StoreSettings, annotations: Annotations, digests: Mapping[str, str]
) -> str:
    """Digest of settings, annotations (but not paths) and records."""
    plain = {
        "settings": settings.to_dict(),
        "classes": annotations.classes,
        "flip_classes": annotations.flip_classes,
        "class_groups": annotations.class_groups,
        "splits": {
            split.name: [
                [(video.name, video.label, video.group) for video in videos]
                for videos in (split.train, split.test)
            ]
            for split in annotations.splits.values()
        },
        "digests": dict(digests),
    }
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a video's record is."""

    shard: int
    row: int
    digest: str


def write_manifest(
    path: Path,
    settings: StoreSettings,
    annotations: Annotations,
    places: Mapping[str, Place],
    skipped: Mapping[str, Mapping[str, Any]],
) -> None:
    """Declares a store finished, or finished anew after videos were added.

    Args:
        path: The store's folder; all shards are in it.
        settings: The store's.
        annotations: The dataset's.
        places: Where each stored video is.
        skipped: For each skipped video at least its "reason".
    """
    videos = annotated_videos(annotations)
    names = sorted({*videos, *places})
    row_of = {name: row for row, name in enumerate(names)}
    nowhere = Place(-1, -1, "")
    rows = [(videos.get(name), places.get(name, nowhere)) for name in names]
    table = pa.RecordBatch.from_arrays(
        [
            pa.array(names, pa.string()),
            pa.array([video and video.path for video, _ in rows], pa.string()),
            pa.array([None if video is None else video.label for video, _ in rows], pa.int32()),
            pa.array([video and video.group for video, _ in rows], pa.string()),
            pa.array([place.shard for _, place in rows], pa.int32()),
            pa.array([place.row for _, place in rows], pa.int32()),
            pa.array([place.digest for _, place in rows], pa.string()),
        ],
        schema=_VIDEOS_SCHEMA,
    )
    tables = {
        "videos": _write_table(path, "videos", table),
        "splits_table": _write_table(path, "splits", _splits_table(annotations, row_of)),
    }
    shards = 1 + max((place.shard for place in places.values()), default=-1)
    files = [*tables.values(), *map(shard_name, sorted({p.shard for p in places.values()}))]
    manifest = {
        "format": FORMAT,
        "dataset": annotations.dataset,
        "fingerprint": fingerprint(
            settings, annotations, {name: places[name].digest for name in sorted(places)}
        ),
        "stored": len(places),
        "shards": shards,
        "files": {name: (path / name).stat().st_size for name in files},
        "skipped": {name: dict(skipped[name]) for name in sorted(skipped)},
        "classes": annotations.classes,
        "flip_classes": annotations.flip_classes,
        "class_groups": annotations.class_groups,
        "splits": list(annotations.splits),
        **tables,
    }
    write_whole(path / "manifest.json", _to_json(manifest))
    for kind in ("videos", "splits"):
        for old in path.glob(f"{kind}-*.arrow"):
            if old.name not in (manifest["videos"], manifest["splits_table"]):
                old.unlink(missing_ok=True)


def annotated_videos(annotations: Annotations) -> dict[str, Video]:
    """Every video of every split by its name.

    Raises:
        ValueError: Two different videos bear one name.
    """
    videos: dict[str, Video] = {}
    for split in annotations.splits.values():
        for video in (*split.train, *split.test):
            if videos.setdefault(video.name, video) != video:
                raise ValueError(
                    f"two videos are named {video.name!r}: {videos[video.name]} and {video}"
                )
    return videos


def _splits_table(annotations: Annotations, row_of: Mapping[str, int]) -> pa.RecordBatch:
    columns: tuple[list[Any], ...] = ([], [], [])
    for number, split in enumerate(annotations.splits.values()):
        for part, videos in enumerate((split.train, split.test)):
            rows = np.array([row_of[video.name] for video in videos], np.int32)
            for column, values in zip(
                columns, (np.full_like(rows, number), np.full_like(rows, part), rows), strict=True
            ):
                column.append(values)
    arrays = [
        pa.array(np.concatenate([np.empty(0, np.int32), *column])).cast(entry.type)
        for column, entry in zip(columns, _SPLITS_SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=_SPLITS_SCHEMA)


def _write_table(path: Path, kind: str, table: pa.RecordBatch) -> str:
    """Writes a table under a name that its content gives, and returns the name."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(table)
    content = sink.getvalue()
    name = f"{kind}-{blake2b(content, digest_size=8).hexdigest()}.arrow"
    write_whole(path / name, content)
    return name


def _read_annotations(
    manifest: Mapping[str, Any], table: pa.RecordBatch, lists: pa.RecordBatch
) -> Annotations:
    videos: list[Video] = []
    groups: dict[str, str] = {}  # one string for each group, not for each video
    for first in range(0, len(table), 10_000):
        rows = table.slice(first, 10_000)
        for name, place, label, group in zip(
            *(rows[column].to_pylist() for column in ("name", "path", "label", "group")),
            strict=True,
        ):
            group = groups.setdefault(group, group)
            videos.append(Video(name=name, path=place, label=label, group=group))
    number, part, video = (_numbers(lists[column]) for column in ("split", "part", "video"))
    splits = {}
    for i, name in enumerate(manifest["splits"]):
        train, test = (
            tuple(videos[row] for row in video[(number == i) & (part == j)]) for j in range(2)
        )
        splits[name] = Split(name=name, train=train, test=test)
    return Annotations(
        dataset=manifest["dataset"],
        classes=tuple(manifest["classes"]),
        splits=splits,
        flip_classes=tuple(manifest["flip_classes"]),
        class_groups=manifest["class_groups"],
    )
