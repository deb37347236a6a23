"""The clip store: videos as JPEG frames and packed flow, decoded once and read by memory mapping.

A store is a folder:

- ``settings.json``: what it is made with, written first and never changed.
- ``shards/00000.arrow``, …: Arrow IPC files with one record batch for each video.
- ``videos-….arrow``: one row for each video, stored or only annotated, sorted by name: what the
  annotations say of it, and the shard and row of its record.
- ``splits-….arrow``: the splits' lists as row numbers of the videos' table.
- ``manifest.json``: everything else: classes, fingerprint, shards, the files' sizes, and each
  skipped video with its reason. It names the two tables and is replaced in one step, so a reader
  sees all of an old state or all of a new one.

Nothing in it depends on when, where or in how many runs it was prepared. It is prepared in a local
folder; a copy of it may be read at any place that ``pyarrow.fs`` reaches, through a local cache.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from study.data.datasets.annotations import Annotations
from study.data.store.manifest import (
    Location,
    fingerprint,
    open_shard,
    read_annotations,
    read_table,
    shard_name,
    shard_path,
)
from study.data.store.record import ClipRecord, numbers, record_digest
from study.data.store.remote import CachedFolder, is_uri
from study.data.store.settings import StoreSettings, parse_settings

__all__ = ["ClipStore"]


class ClipStore:
    """A finished store, open for reading. Picklable: a copy opens the same files again.

    Attributes:
        path: The store's folder, or its URI.
        fingerprint: Digest of all that a training can see: settings, annotations, records.
        settings: What the store was made with.
        skip_entries: For each video that could not be used, the reason and the digest of its file.
        shards: Number of shards.
        files: The sizes in bytes of the tables and shards, by name.
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
            how = "prepared" if self._remote is None else "uploaded"
            raise ValueError(
                f"the manifest.json of {self.path} is damaged ({error}): delete it and run the "
                f"command that {how} the store again: it keeps the rest and writes a new one"
            ) from None
        self.fingerprint: str = self._manifest["fingerprint"]
        self.skip_entries: dict[str, dict[str, Any]] = self._manifest["skipped"]
        self.shards: int = self._manifest["shards"]
        self.files: dict[str, int] = self._manifest["files"]
        self._videos = self._table("videos")
        self._names = self._videos["name"]
        self._shards: dict[int, Any] = {}

    @classmethod
    def open(cls, path: str | Path) -> "ClipStore":
        """Opens the store in a folder, or at a URI of ``pyarrow.fs`` such as ``s3://bucket/store``.

        Raises:
            FileNotFoundError: If there is no store, or it is unfinished.
            ValueError: If it is of another format, or the URI is of no known file system.
            OSError: If the URI can't be reached, or its files don't fit into the cache.
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

    def locations(self) -> dict[str, Location]:
        """Returns where each stored video's record is."""
        columns = (self._videos[c].to_pylist() for c in ("name", "shard", "row", "digest"))
        return {
            name: Location(shard, row, digest)
            for name, shard, row, digest in zip(*columns, strict=True)
            if shard >= 0
        }

    @cached_property
    def annotations(self) -> Annotations:
        """The dataset's annotations, missing and skipped videos included."""
        return read_annotations(self._manifest, self._videos, self._table("splits_table"))

    def record(self, name: str) -> ClipRecord:
        """Returns a stored video's record.

        Raises:
            KeyError: If the store has no such video.
            ValueError: If another record is where the manifest says that this one is.
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
                "was repaired since it was opened, or is damaged; start again, or check it with "
                f"`python -m study.prepare --verify --store {self.path}`"
            )
        return record

    def batch(self, row: int) -> pa.RecordBatch:
        """Returns the record in a row of the videos' table as it is stored."""
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
    def cache(self) -> Path | None:
        """Where this machine has the files of a store with a URI; None for a local store."""
        return None if self._remote is None else self._remote.folder

    def shard_digest(self, number: int) -> str:
        """Returns the digest of a shard's records and their order."""
        rows = np.flatnonzero(numbers(self._videos["shard"]) == number).tolist()
        columns = [
            [self._videos[column][row].as_py() for row in rows]
            for column in ("name", "row", "digest")
        ]
        return blake2b(json.dumps(columns).encode(), digest_size=8).hexdigest()

    def _find(self, name: str) -> int | None:
        """Returns the row of a stored video in the videos' table."""
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


def _unfinished(path: str | Path, settings: StoreSettings) -> str:
    if is_uri(path):
        return (
            f"the upload of clip store {path} is unfinished: run `python -m study.prepare --store "
            f"DIR --upload {path}` again, it goes on where it stopped"
        )
    return (
        f"clip store {path} of {settings.dataset} is unfinished: run `python -m study.prepare … "
        f"--store {path}` again, it goes on where it stopped"
    )


def _read(path: Path, *names: str) -> list[bytes | None]:
    """Reads small files in a local folder; None where there is no such file."""
    files = [path / name for name in names]
    return [file.read_bytes() if file.exists() else None for file in files]
