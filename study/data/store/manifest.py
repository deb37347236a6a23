"""What a finished clip store holds and where: its manifest, its two tables, its shards' names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from study.data.datasets.annotations import Annotations, Split, Video
from study.data.store.record import numbers
from study.data.store.settings import FORMAT, StoreSettings, to_json
from study.files import write_whole

__all__ = [
    "Location",
    "annotated_videos",
    "fingerprint",
    "open_shard",
    "read_annotations",
    "read_table",
    "shard_name",
    "shard_path",
    "write_manifest",
]

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
_PARTS = ("train", "test", "validation")  # as the splits' table numbers them
_SPLITS_SCHEMA = pa.schema([("split", pa.int32()), ("part", pa.int8()), ("video", pa.int32())])


@dataclass(frozen=True, slots=True)
class Location:
    """Where a video's record is."""

    shard: int
    row: int
    digest: str


def write_manifest(
    path: Path,
    settings: StoreSettings,
    annotations: Annotations,
    locations: Mapping[str, Location],
    skipped: Mapping[str, Mapping[str, Any]],
) -> None:
    """Declares a store finished, or finished again after videos were added.

    Args:
        path: The store's folder; all shards are in it.
        settings: The store's.
        annotations: The dataset's.
        locations: Where each stored video is.
        skipped: For each skipped video at least its "reason".
    """
    videos = annotated_videos(annotations)
    names = sorted({*videos, *locations})
    row_of = {name: row for row, name in enumerate(names)}
    videos_table = _videos_table(names, videos, locations)
    tables = {
        "videos": _write_table(path, "videos", videos_table),
        "splits_table": _write_table(path, "splits", _splits_table(annotations, row_of)),
    }
    shards = 1 + max((location.shard for location in locations.values()), default=-1)
    files = [*tables.values(), *map(shard_name, sorted({p.shard for p in locations.values()}))]
    manifest = {
        "format": FORMAT,
        "dataset": annotations.dataset,
        "fingerprint": fingerprint(
            settings, annotations, {name: locations[name].digest for name in sorted(locations)}
        ),
        "stored": len(locations),
        "shards": shards,
        "files": {name: (path / name).stat().st_size for name in files},
        "skipped": {name: dict(skipped[name]) for name in sorted(skipped)},
        "classes": annotations.classes,
        "flip_classes": annotations.flip_classes,
        "class_groups": annotations.class_groups,
        "splits": list(annotations.splits),
        **tables,
    }
    write_whole(path / "manifest.json", to_json(manifest))
    for kind in ("videos", "splits"):
        for old in path.glob(f"{kind}-*.arrow"):
            if old.name not in (manifest["videos"], manifest["splits_table"]):
                old.unlink(missing_ok=True)


def annotated_videos(annotations: Annotations) -> dict[str, Video]:
    """Returns every video of every split by its name.

    Raises:
        ValueError: If two different videos have one name.
    """
    videos: dict[str, Video] = {}
    for split in annotations.splits.values():
        for video in split.videos:
            if videos.setdefault(video.name, video) != video:
                raise ValueError(
                    f"two videos are named {video.name!r}: {videos[video.name]} and {video}"
                )
    return videos


def _videos_table(
    names: Sequence[str], videos: Mapping[str, Video], locations: Mapping[str, Location]
) -> pa.RecordBatch:
    missing = Location(-1, -1, "")
    rows = [(videos.get(name), locations.get(name, missing)) for name in names]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(names, pa.string()),
            pa.array([video and video.path for video, _ in rows], pa.string()),
            pa.array([None if video is None else video.label for video, _ in rows], pa.int32()),
            pa.array([video and video.group for video, _ in rows], pa.string()),
            pa.array([location.shard for _, location in rows], pa.int32()),
            pa.array([location.row for _, location in rows], pa.int32()),
            pa.array([location.digest for _, location in rows], pa.string()),
        ],
        schema=_VIDEOS_SCHEMA,
    )


def _splits_table(annotations: Annotations, row_of: Mapping[str, int]) -> pa.RecordBatch:
    columns: tuple[list[Any], ...] = ([], [], [])
    for number, split in enumerate(annotations.splits.values()):
        for part, videos in split.parts.items():
            rows = np.array([row_of[video.name] for video in videos], np.int32)
            for column, values in zip(
                columns,
                (np.full_like(rows, number), np.full_like(rows, _PARTS.index(part)), rows),
                strict=True,
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


def read_annotations(
    manifest: Mapping[str, Any], table: pa.RecordBatch, lists: pa.RecordBatch
) -> Annotations:
    """Reads the annotations in a manifest, its table of videos and its table of split lists."""
    videos: list[Video] = []
    groups: dict[str, str] = {}  # one string for each group, not for each video
    for first in range(0, len(table), 10_000):
        rows = table.slice(first, 10_000)
        for name, path, label, group in zip(
            *(rows[column].to_pylist() for column in ("name", "path", "label", "group")),
            strict=True,
        ):
            group = groups.setdefault(group, group)
            videos.append(Video(name=name, path=path, label=label, group=group))
    number, part, video = (numbers(lists[column]) for column in ("split", "part", "video"))
    splits = {}
    for i, name in enumerate(manifest["splits"]):
        parts = {
            of: tuple(videos[row] for row in video[(number == i) & (part == j)])
            for j, of in enumerate(_PARTS)
        }
        splits[name] = Split(name=name, **parts)
    return Annotations(
        dataset=manifest["dataset"],
        classes=tuple(manifest["classes"]),
        splits=splits,
        flip_classes=tuple(manifest["flip_classes"]),
        class_groups=manifest["class_groups"],
    )


def fingerprint(
    settings: StoreSettings, annotations: Annotations, digests: Mapping[str, str]
) -> str:
    """Returns the digest of settings, annotations (but not paths) and records."""
    plain = {
        "settings": settings.to_dict(),
        "classes": annotations.classes,
        "flip_classes": annotations.flip_classes,
        "class_groups": annotations.class_groups,
        "splits": {
            split.name: [
                [(video.name, video.label, video.group) for video in videos]
                for videos in split.parts.values()
            ]
            for split in annotations.splits.values()
        },
        "digests": dict(digests),
    }
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def shard_path(store: Path, number: int) -> Path:
    """Returns a shard's path."""
    return store / shard_name(number)


def shard_name(number: int) -> str:
    """Returns the name of a shard's file in the store's folder."""
    return f"shards/{number:05d}.arrow"


def open_shard(path: Path) -> Any:
    """Opens a shard, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path)))


def read_table(path: Path) -> pa.RecordBatch:
    """Opens a table of one record batch, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
