"""A clip store in the making: staged videos, locks, and packing into shards.

Each video becomes one staged file. Staged files are packed into shards in the order of the videos'
names, a shard as soon as all before it are there, and the manifest is written when nothing is left.
So the store doesn't depend on how many processes worked, or how often they were killed.

Processes on one store are kept apart by POSIX record locks on its file ``lock``: one byte for
each video and one for packing. The system drops a lock with the process that holds it, so what a
killed process was doing is free for the next one. The file system must support such locks, as
local ones and NFSv4 do.
"""

import errno
import fcntl
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa

from study.data.datasets.annotations import Annotations
from study.data.store.clip_store import ClipStore
from study.data.store.manifest import Location, open_shard, shard_path, write_manifest
from study.data.store.record import RECORD_SCHEMA
from study.data.store.settings import StoreSettings, read_settings, write_settings
from study.files import temporary_name, whole_file, write_whole

__all__ = ["Locks", "Staging", "StoreBuilder", "generation"]

SHARD_BYTES = 128 << 20
PACKING = 0
"""The lock of packing and of the store's own files."""


class Locks:
    """Locks on a store that end with the process at the latest. One instance in a process."""

    def __init__(self, store: Path) -> None:
        self._descriptor = os.open(store / "lock", os.O_RDWR | os.O_CREAT, 0o666)

    def close(self) -> None:
        """Gives back every lock."""
        os.close(self._descriptor)

    def take(self, number: int, *, wait: bool) -> bool:
        """Takes a lock; False where another process holds it and `wait` is false."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def release(self, number: int) -> None:
        """Gives back a lock."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)


@dataclass(frozen=True, slots=True)
class Staging:
    """Where finished videos wait to be packed."""

    store: Path

    def file(self, name: str, suffix: str) -> Path:
        """Returns a video's file: .arrow (its record), .skip (why none) or .packed (it had one)."""
        key = blake2b(name.encode(), digest_size=16).hexdigest()
        return self.store / "staging" / key[:2] / f"{key}{suffix}"

    def lock_of(self, name: str) -> int:
        """Returns the number of a video's lock."""
        return 1 + int.from_bytes(blake2b(name.encode(), digest_size=7).digest())

    def has(self, name: str) -> bool:
        """Returns whether a video is staged, packed or skipped."""
        return any(self.file(name, suffix).exists() for suffix in (".arrow", ".skip", ".packed"))

    def skip(self, name: str, path: Path, reason: str) -> None:
        """Writes why a video has no record, and the digest of its file."""
        entry = {"reason": reason, "digest": _source_digest(path)}
        target = self.file(name, ".skip")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, json.dumps(entry, ensure_ascii=False).encode())

    def skipped(self, name: str) -> dict[str, str] | None:
        """Reads what `skip` wrote, "reason" and "digest"; None where the video isn't skipped."""
        try:
            entry: dict[str, str] = json.loads(self.file(name, ".skip").read_bytes())
        except FileNotFoundError:
            return None
        return entry

    def put(self, name: str, record: pa.RecordBatch) -> None:
        """Writes a video's record."""
        target = self.file(name, ".arrow")
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_shard(target, [record])

    def count(self) -> int:
        """Counts staged (packed or not) and skipped videos; others may be clearing them away."""
        folders = os.walk(self.store / "staging")  # passes over a folder that is gone
        files = (Path(file) for _, _, names in folders for file in names)
        return len({file.stem for file in files if not file.name.startswith(".")})

    def clear(self, names: Sequence[str]) -> None:
        """Removes what is left of these videos, and the folders that are empty then."""
        for name in names:
            for suffix in (".arrow", ".skip", ".packed"):
                file = self.file(name, suffix)
                file.unlink(missing_ok=True)
                temporary_name(file).unlink(missing_ok=True)
        top = self.store / "staging"
        for folder in (*top.glob("*"), top):
            try:
                folder.rmdir()
            except OSError:  # another process works on a video that this one doesn't know of
                return


def _write_shard(path: Path, records: Any) -> None:
    with whole_file(path) as file, pa.ipc.new_file(file, RECORD_SCHEMA) as writer:
        for record in records:
            writer.write_batch(record)


def _source_digest(path: Path) -> str:
    """Tells a skipped video's file from what may come in its place; empty if it can't be read."""
    state = blake2b(digest_size=16)
    try:
        if path.is_dir():
            for entry in sorted(path.iterdir()):
                state.update(f"{entry.name}:{entry.stat().st_size};".encode())
        elif path.is_file():
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    state.update(piece)
        else:
            return ""
    except OSError:
        return ""
    return state.hexdigest()


class StoreBuilder:
    """The state of one store's preparation, as it is on disk."""

    def __init__(
        self,
        annotations: Annotations,
        existing: Mapping[str, Path],
        store: Path,
        settings: StoreSettings,
    ) -> None:
        self.existing = existing
        self.store = store
        self.settings = settings
        self.staging = Staging(store)
        self._annotations = annotations
        self._old: ClipStore | None = None
        self._locations: dict[str, Location] = {}
        self._kept: set[str] = set()  # videos that stay skipped
        self._shards: set[int] = set()  # that were looked into
        self.generation: tuple[int, int, int] | None = None
        _claim_folder(store)
        self._locks = Locks(store)
        self._check_settings()

    def close(self) -> None:
        """Gives back every lock."""
        self._locks.close()

    def _check_settings(self) -> None:
        self._locks.take(PACKING, wait=True)
        try:
            if not (self.store / "settings.json").exists():
                write_settings(self.store, self.settings)
            there = read_settings(self.store).to_dict()
        finally:
            self._locks.release(PACKING)
        asked = self.settings.to_dict()
        differing = [
            f"{name} is {there.get(name, 'unset')} there, {asked.get(name, 'unset')} here"
            for name in {**there, **asked}
            if there.get(name) != asked.get(name)
        ]
        if differing:
            raise ValueError(
                f"clip store {self.store} was made with other settings: {'; '.join(differing)}. "
                "Give the same settings, or another store"
            )

    def open_videos(self, *, retry_skipped: bool) -> list[str]:
        """Looks at the disk again, and lists the videos that are neither stored nor skipped.

        Those of a shard that was deleted, as one that is damaged may be, are to be made again. The
        store is unfinished then, and what its manifest skipped is tried again.
        """
        self._locks.take(PACKING, wait=True)
        try:
            self._open_manifest()
        finally:
            self._locks.release(PACKING)
        return self._left(retry_skipped=retry_skipped)

    def _open_manifest(self) -> None:
        """Reads the manifest again where it has changed.

        Removes it where it names a shard that is gone: the next shard to be packed has that number
        and other videos in it.
        """
        if generation(self.store) == self.generation:
            return
        self._old, self._locations = None, {}
        if generation(self.store) is not None:
            self._old = ClipStore.open(self.store)
            self._locations = self._old.locations()
        self._shards = {location.shard for location in self._locations.values()}
        if not all(shard_path(self.store, number).exists() for number in self._shards):
            (self.store / "manifest.json").unlink()
            self._old, self._locations, self._shards = None, {}, set()
        self.generation = generation(self.store)

    def _left(self, *, retry_skipped: bool) -> list[str]:
        self._find_shards()
        self._kept = set() if retry_skipped else set(self._unchanged_skips())
        return [
            name
            for name in self.existing
            if name not in self._locations and name not in self._kept and not self.staging.has(name)
        ]

    def _unchanged_skips(self) -> dict[str, dict[str, Any]]:
        """Returns the videos that the manifest skips and that are the same files as then."""
        if self._old is None:
            return {}
        return {
            name: entry
            for name, entry in self._old.skip_entries.items()
            if name in self.existing and entry["digest"] == _source_digest(self.existing[name])
        }

    def _find_shards(self) -> None:
        """Finds the shards that were packed since the last look."""
        for path in sorted(self.store.glob("shards/[0-9]*.arrow")):
            if (number := int(path.stem)) in self._shards:
                continue
            try:
                reader = open_shard(path)
                records = [reader.get_batch(row) for row in range(reader.num_record_batches)]
            except (OSError, pa.ArrowException) as error:
                raise ValueError(
                    f"{path} can't be read ({error}): delete it and run the same command again, "
                    "which makes its videos again"
                ) from None
            for row, record in enumerate(records):
                name, digest = (record[column][0].as_py() for column in ("name", "digest"))
                self._locations[name] = Location(number, row, digest)
            self._shards.add(number)

    def pack(self) -> None:
        """Packs what can be, unless another process is packing or the manifest is another now."""
        if self._locks.take(PACKING, wait=False):
            try:
                if generation(self.store) == self.generation:
                    self._pack_ready()
            finally:
                self._locks.release(PACKING)

    def finish(self) -> bool:
        """Packs the rest and declares the store finished; another process may have done so.

        Returns:
            False where there are videos to make, as shards are gone, and nothing was done.
        """
        self._locks.take(PACKING, wait=True)
        try:
            changed = generation(self.store) != self.generation
            self._open_manifest()
            self._find_shards()
            lost = self._packed_and_gone()
            for name in lost:
                self.staging.file(name, ".packed").unlink()
            if lost or (changed and self._left(retry_skipped=False)):
                return False
            if self._old is not None and self._is_finished(self._old):
                return True
            rest = self._pack_ready()
            if rest:
                self._pack(rest)
            skipped: dict[str, Mapping[str, Any]] = dict(self._unchanged_skips())
            for name in self.existing:
                if entry := self.staging.skipped(name):
                    skipped[name] = entry
            for name in self._locations:
                skipped.pop(name, None)
            write_manifest(self.store, self.settings, self._annotations, self._locations, skipped)
            self.staging.clear([*self.existing])
            return True
        finally:
            self._locks.release(PACKING)

    def _packed_and_gone(self) -> list[str]:
        """Returns the videos whose shard was deleted before the store was finished."""
        return [
            name
            for name in self.existing
            if name not in self._locations and self.staging.file(name, ".packed").exists()
        ]

    def _is_finished(self, old: ClipStore) -> bool:
        """Returns whether the manifest says all there is to say."""
        return (
            old.annotations == self._annotations
            and len(old) == len(self._locations)
            and not (self.store / "staging").exists()
        )

    def _pack_ready(self) -> list[str]:
        """Packs full shards from the front of what is left.

        Returns:
            The videos that come next and don't fill a shard.
        """
        self._find_shards()
        ready: list[str] = []
        size = 0
        for name in self.existing:
            if name in self._locations:
                continue
            try:
                bytes_ = self.staging.file(name, ".arrow").stat().st_size
            except FileNotFoundError:
                if self.staging.file(name, ".skip").exists() or name in self._kept:
                    continue
                break
            if ready and size + bytes_ > SHARD_BYTES:
                self._pack(ready)
                ready, size = [], 0
            ready.append(name)
            size += bytes_
        return ready

    def _pack(self, names: Sequence[str]) -> None:
        files = [self.staging.file(name, ".arrow") for name in names]
        number = next(number for number in itertools.count() if number not in self._shards)
        target = shard_path(self.store, number)
        target.parent.mkdir(exist_ok=True)
        _write_shard(target, (open_shard(file).get_batch(0) for file in files))
        self._find_shards()
        for name, file in zip(names, files, strict=True):
            self.staging.file(name, ".packed").touch()  # first, or the video would be done again
            file.unlink()

    def count_skipped(self) -> int:
        """Counts the videos that are skipped so far."""
        return sum(
            name in self._kept or self.staging.file(name, ".skip").exists()
            for name in self.existing
            if name not in self._locations
        )

    def skip(self, name: str, reason: str) -> None:
        """Gives a video up, unless another process is working on it."""
        if self._locks.take(self.staging.lock_of(name), wait=False):
            try:
                self.staging.skip(name, self.existing[name], reason)
            finally:
                self._locks.release(self.staging.lock_of(name))


def generation(store: Path) -> tuple[int, int, int] | None:
    """Changes whenever the manifest is written."""
    try:
        status = (store / "manifest.json").stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _claim_folder(store: Path) -> None:
    """Makes the store's folder, and refuses one that is something else."""
    try:
        store.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{store} is a file; a clip store is a folder") from None
    if (store / "settings.json").exists() or (store / "lock").exists():
        return
    others = sorted(entry.name for entry in store.iterdir())
    if others:
        raise ValueError(
            f"{store} holds other things ({others[0]}, …): name an empty or a new folder"
        )
