"""Makes a clip store of a dataset's videos, by many processes on one or many machines.

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
import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.data.annotations import Annotations
from study.data.catalog import resolve_video
from study.data.clip_store import (
    RECORD_SCHEMA,
    ClipStore,
    Place,
    StoreSettings,
    annotated_videos,
    make_record,
    open_shard,
    read_settings,
    shard_path,
    stack_pairs,
    stack_starts,
    write_manifest,
    write_settings,
)
from study.data.files import temporary_name, whole_file, write_whole
from study.data.flow import compute_flow, quantise
from study.data.process import ChildDiedError, ChildProcess
from study.data.video import BadVideoError, VideoReader, resized_size

__all__ = ["PreparationSummary", "Progress", "prepare", "prepare_video"]

SHARD_BYTES = 128 << 20
MAX_RECORD_BYTES = 1 << 30
FLOW_CHUNK = 16
"""Frame pairs whose flow is computed together."""

_PACKING = 0  # the lock of packing and of the store's own files
_JOBS_AHEAD = 2
_POLL_SECONDS = 0.5
_ATTEMPTS = 2  # before a video that kills its worker is given up


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a preparation is.

    Attributes:
        done: Videos that are stored or skipped.
        total: Videos that exist.
        skipped: Videos that could not be used.
        before: Videos of `done` that were so when this preparation began.
        elsewhere: Videos that other processes are at, and this one waits for.
    """

    done: int
    total: int
    skipped: int
    before: int
    elsewhere: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationSummary:
    """What a preparation came to.

    Attributes:
        stored: Videos in the store.
        prepared: Videos that this preparation stored or skipped; 0 where all was done before.
        skipped: Each video that could not be used, with the reason.
        listed: For each split and part, the videos that the lists name.
        missing: Of these, the videos that have no file; skipped ones have one and don't count.
        fingerprint: The store's.
        bytes: Size of the store's shards.
        seconds: Time that it took.
    """

    stored: int
    prepared: int
    skipped: dict[str, str]
    listed: dict[str, dict[str, int]]
    missing: dict[str, dict[str, int]]
    fingerprint: str
    bytes: int
    seconds: float


def prepare(
    annotations: Annotations,
    videos_folder: Path,
    store_path: Path,
    settings: StoreSettings,
    *,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    deadline: float = 60.0,
    retry_skipped: bool = False,
) -> PreparationSummary:
    """Makes a clip store, goes on with an unfinished one, or adds what a finished one lacks.

    Any number of these may run on one store at once. A skipped video is tried again when its file
    has changed.

    Args:
        annotations: The dataset's.
        videos_folder: Folder that the videos' paths start from.
        store_path: The store's folder; made where it is missing.
        settings: What to store; those of an existing store must be the same.
        workers: Processes to work with, one thread each; None means one for each core.
        progress: Called about twice a second.
        deadline: Seconds without progress after which a decoder is given up.
        retry_skipped: Whether videos that were skipped before are tried again, changed or not.

    Raises:
        FileNotFoundError: There is no videos folder, or none of the videos is in it.
        ValueError: Other settings than the store's, or a folder that is something else.
        OSError: The disk is full, or the like; what was finished is safe.
        RuntimeError: Something unforeseen happened with a video; what was finished is safe.
    """
    began = time.monotonic()
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if annotations.dataset != settings.dataset:
        raise ValueError(
            f"settings are for dataset {settings.dataset!r}, annotations of {annotations.dataset!r}"
        )
    existing = find_videos(annotations, videos_folder)
    prepared = 0
    with closing(_Preparation(annotations, existing, store_path, settings)) as preparation:
        while todo := preparation.open_videos(retry_skipped=retry_skipped):
            with closing(_Pool(preparation, min(workers or _cores(), len(todo)), deadline)) as pool:
                prepared += pool.run(todo, progress)
            retry_skipped = False
        preparation.finish()
        return preparation.summary(prepared, time.monotonic() - began)


def find_videos(annotations: Annotations, folder: Path) -> dict[str, Path]:
    """Where the videos are, by name, sorted; those that are missing are left out.

    Raises:
        FileNotFoundError: There is no folder, or none of the videos is in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no videos folder {folder}")
    videos = annotated_videos(annotations)
    found = {name: resolve_video(folder, videos[name]) for name in sorted(videos)}
    existing = {name: path for name, path in found.items() if path is not None}
    if not existing:
        example = next(iter(videos.values()), None)
        looked_for = "" if example is None else f"; looked for {folder / example.path}, …"
        raise FileNotFoundError(
            f"none of the {len(videos)} videos of {annotations.dataset} is in {folder}{looked_for}"
        )
    return existing


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_video(
    name: str, path: Path, settings: StoreSettings, reader: VideoReader
) -> pa.RecordBatch:
    """Decodes one video and computes its flow.

    Frames are resized first, and flow is computed from their luma. Only the frames and the pairs
    that the settings ask for are worked on.

    Returns:
        The record, see `study.data.clip_store.RECORD_SCHEMA`.

    Raises:
        BadVideoError: The video can't be used.
    """
    info = reader.open(path)
    frames = -(-info.frames // settings.frame_step)
    if frames < 2:
        raise BadVideoError("one frame only: flow needs two")
    starts = stack_starts(frames, settings)
    pairs = stack_pairs(starts, frames, settings)
    encoder = _Encoder(starts, pairs, settings)
    needed = np.unique(np.concatenate([starts, pairs, pairs + 1]))
    indices = [int(index) * settings.frame_step for index in needed]
    pictures = reader.read(indices, short_side=settings.short_side)
    for index, picture in zip(needed, pictures, strict=True):
        encoder.add(int(index), picture)
    width, height = resized_size(info.width, info.height, settings.short_side)
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
    """Turns a video's frames, in their order, into JPEGs of frames and flow."""

    def __init__(
        self, starts: NDArray[np.int32], pairs: NDArray[np.int32], settings: StoreSettings
    ) -> None:
        assert settings.flow is not None
        self._starts = set(starts.tolist())
        self._pairs = set(pairs.tolist())
        self._settings = settings
        self._flow_settings = settings.flow
        self._run: list[NDArray[np.uint8]] = []  # gray frames, each pair's flow is wanted
        self._bytes = 0
        self.rgb: list[bytes] = []
        self._flow: list[tuple[bytes, bytes]] = []

    def add(self, index: int, picture: NDArray[np.uint8]) -> None:
        if index in self._starts:
            self.rgb.append(self._jpeg(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)))
        if index - 1 not in self._pairs:
            self._compute()
            self._run = []
        self._run.append(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
        if len(self._run) > FLOW_CHUNK:
            self._compute()
            self._run = self._run[-1:]

    def finish(self) -> list[tuple[bytes, bytes]]:
        self._compute()
        return self._flow

    def _compute(self) -> None:
        if len(self._run) < 2:
            return
        flow = compute_flow(np.stack(self._run), self._flow_settings)  # (F-1, 2, H, W) px
        for x, y in quantise(flow, self._flow_settings.bound):
            self._flow.append((self._jpeg(x), self._jpeg(y)))

    def _jpeg(self, picture: NDArray[np.uint8]) -> bytes:
        quality = [cv2.IMWRITE_JPEG_QUALITY, self._settings.jpeg_quality]
        encoded = cv2.imencode(".jpg", picture, quality)[1].tobytes()
        self._bytes += len(encoded)
        if self._bytes > MAX_RECORD_BYTES:
            raise BadVideoError(
                f"too long: its pictures take more than {MAX_RECORD_BYTES >> 20} MiB; "
                "a frame step or stacks would take less"
            )
        return encoded


class _Locks:
    """Locks on a store that end with the process at the latest. One instance in a process."""

    def __init__(self, store: Path) -> None:
        self._descriptor = os.open(store / "lock", os.O_RDWR | os.O_CREAT, 0o666)

    def close(self) -> None:
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
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)


@dataclass(frozen=True, slots=True)
class _Staging:
    """Where finished videos wait to be packed."""

    store: Path

    def file(self, name: str, suffix: str) -> Path:
        """A video's file: .arrow (its record), .skip (why it has none), .packed (it had one)."""
        key = blake2b(name.encode(), digest_size=16).hexdigest()
        return self.store / "staging" / key[:2] / f"{key}{suffix}"

    def lock_of(self, name: str) -> int:
        return 1 + int.from_bytes(blake2b(name.encode(), digest_size=7).digest())

    def has(self, name: str) -> bool:
        return any(self.file(name, suffix).exists() for suffix in (".arrow", ".skip", ".packed"))

    def skip(self, name: str, path: Path, reason: str) -> None:
        entry = {"reason": reason, "digest": _source_digest(path)}
        target = self.file(name, ".skip")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, json.dumps(entry, ensure_ascii=False).encode())

    def skipped(self, name: str) -> dict[str, str] | None:
        try:
            entry: dict[str, str] = json.loads(self.file(name, ".skip").read_bytes())
        except FileNotFoundError:
            return None
        return entry

    def put(self, name: str, record: pa.RecordBatch) -> None:
        target = self.file(name, ".arrow")
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_shard(target, [record])

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
            except OSError:  # another process is at a video that this one doesn't know of
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


class _Preparation:
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
        self.staging = _Staging(store)
        self._annotations = annotations
        self._old: ClipStore | None = None
        self._places: dict[str, Place] = {}
        self._kept: set[str] = set()  # videos that stay skipped
        self._shards = 0
        self.generation = _generation(store)
        _claim_folder(store)
        self._locks = _Locks(store)
        self._check_settings()

    def close(self) -> None:
        self._locks.close()

    def _check_settings(self) -> None:
        self._locks.take(_PACKING, wait=True)
        try:
            if not (self.store / "settings.json").exists():
                write_settings(self.store, self.settings)
            there = read_settings(self.store).to_dict()
        finally:
            self._locks.release(_PACKING)
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
        """Looks at the disk anew, and lists the videos that are neither stored nor skipped."""
        self.generation = _generation(self.store)
        self._old = None
        if self.generation is not None:
            self._old = ClipStore.open(self.store)
            self._places = self._old.places()
            self._shards = self._old.shards
        self._find_shards()
        self._kept = set() if retry_skipped else set(self._unchanged_skips())
        return [
            name
            for name in self.existing
            if name not in self._places and name not in self._kept and not self.staging.has(name)
        ]

    def _unchanged_skips(self) -> dict[str, dict[str, Any]]:
        """Videos that the manifest skips and that are the same files as then."""
        if self._old is None:
            return {}
        return {
            name: entry
            for name, entry in self._old.skip_entries.items()
            if name in self.existing and entry["digest"] == _source_digest(self.existing[name])
        }

    def _find_shards(self) -> None:
        """Learns of shards that were packed since."""
        while (path := shard_path(self.store, self._shards)).exists():
            reader = open_shard(path)
            for row in range(reader.num_record_batches):
                record = reader.get_batch(row)
                self._places[record["name"][0].as_py()] = Place(
                    self._shards, row, record["digest"][0].as_py()
                )
            self._shards += 1

    def pack(self) -> None:
        """Packs what can be, unless another process is at it."""
        if self._locks.take(_PACKING, wait=False):
            try:
                self._pack_ready()
            finally:
                self._locks.release(_PACKING)

    def finish(self) -> None:
        """Packs the rest and declares the store finished; another process may have done so."""
        self._locks.take(_PACKING, wait=True)
        try:
            if _generation(self.store) != self.generation:
                self.open_videos(retry_skipped=False)
            if self._old is not None and self._is_finished(self._old):
                return
            rest = self._pack_ready()
            if rest:
                self._pack(rest)
            skipped: dict[str, Mapping[str, Any]] = dict(self._unchanged_skips())
            for name in self.existing:
                if entry := self.staging.skipped(name):
                    skipped[name] = entry
            for name in self._places:
                skipped.pop(name, None)
            write_manifest(self.store, self.settings, self._annotations, self._places, skipped)
            self.staging.clear([*self.existing])
        finally:
            self._locks.release(_PACKING)

    def _is_finished(self, old: ClipStore) -> bool:
        """Whether the manifest says all there is to say."""
        return (
            old.annotations == self._annotations
            and len(old) == len(self._places)
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
            if name in self._places:
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
        target = shard_path(self.store, self._shards)
        target.parent.mkdir(exist_ok=True)
        _write_shard(target, (open_shard(file).get_batch(0) for file in files))
        self._find_shards()
        for name, file in zip(names, files, strict=True):
            self.staging.file(name, ".packed").touch()  # first, or the video would be done again
            file.unlink()

    def counts(self) -> tuple[int, int]:
        """Stored and skipped videos, staged ones included."""
        skips = sum(
            self.staging.file(name, ".skip").exists() or name in self._kept
            for name in self.existing
            if name not in self._places
        )
        return len(self.existing) - skips, skips

    def summary(self, prepared: int, seconds: float) -> PreparationSummary:
        store = ClipStore.open(self.store)
        splits = self._annotations.splits.values()
        return PreparationSummary(
            stored=len(store),
            prepared=prepared,
            skipped=store.skipped,
            listed={s.name: {"train": len(s.train), "test": len(s.test)} for s in splits},
            missing={
                s.name: {
                    part: sum(video.name not in self.existing for video in videos)
                    for part, videos in (("train", s.train), ("test", s.test))
                }
                for s in splits
            },
            fingerprint=store.fingerprint,
            bytes=sum(path.stat().st_size for path in self.store.glob("shards/*.arrow")),
            seconds=seconds,
        )


def _generation(store: Path) -> tuple[int, int, int] | None:
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
    others = sorted(entry.name for entry in store.iterdir() if entry.name != "videos")
    if others:
        raise ValueError(
            f"{store} holds other things ({others[0]}, …): name an empty or a new folder"
        )


@dataclass(slots=True)
class _Worker:
    child: ChildProcess
    jobs: deque[str] = field(default_factory=deque)
    ready: bool = False


class _Pool:
    def __init__(self, preparation: _Preparation, workers: int, deadline: float) -> None:
        self._preparation = preparation
        self._deadline = deadline
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(self._start())
        except BaseException:
            self.close()
            raise
        self._attempts: dict[str, int] = {}

    def _start(self) -> _Worker:
        child = ChildProcess("study.data.preparation:serve")
        preparation = self._preparation
        child.send(
            (preparation.store, preparation.settings, preparation.generation, self._deadline)
        )
        return _Worker(child)

    def close(self) -> None:
        for worker in self._workers:
            worker.child.kill()

    def run(self, todo: Sequence[str], progress: Callable[[Progress], None] | None) -> int:
        waiting = deque(todo)
        busy: list[str] = []  # other processes are at these
        left = len(todo)
        before = len(self._preparation.existing) - left
        skipped = self._preparation.counts()[1]
        prepared = unpacked = 0
        while left:
            self._hand_out(waiting)
            for name, outcome in self._outcomes():
                if outcome == "rescan":
                    return prepared
                if outcome == "busy":
                    busy.append(name)
                    continue
                left -= 1
                prepared += outcome != "earlier"
                skipped += outcome == "skipped"
                unpacked += self._staged_bytes(name)
            if unpacked > SHARD_BYTES:
                self._preparation.pack()
                unpacked = 0
            if progress:
                total = len(self._preparation.existing)
                progress(
                    Progress(
                        done=total - left,
                        total=total,
                        skipped=skipped,
                        before=before,
                        elsewhere=len(busy) if not waiting else 0,
                    )
                )
            if not waiting and not any(worker.jobs for worker in self._workers):
                time.sleep(_POLL_SECONDS if busy else 0)
                waiting.extend(busy)
                busy.clear()
        return prepared

    def _staged_bytes(self, name: str) -> int:
        try:
            return self._preparation.staging.file(name, ".arrow").stat().st_size
        except FileNotFoundError:
            return 0

    def _hand_out(self, waiting: deque[str]) -> None:
        for ahead in range(_JOBS_AHEAD):
            for worker in self._workers:
                if waiting and len(worker.jobs) <= ahead:
                    name = waiting.popleft()
                    worker.jobs.append(name)
                    worker.child.send((name, self._preparation.existing[name]))

    def _outcomes(self) -> list[tuple[str, str]]:
        """What became of videos within the next moments."""
        outcomes = []
        ready = wait([worker.child.connection for worker in self._workers], _POLL_SECONDS)
        for worker in [worker for worker in self._workers if worker.child.connection in ready]:
            try:
                outcome, detail = worker.child.receive()
            except ChildDiedError as death:
                outcomes += self._replace(worker, str(death))
                continue
            if outcome == "ready":
                worker.ready = True
                continue
            name = worker.jobs.popleft()
            if outcome == "full":
                raise OSError(errno.ENOSPC, detail)
            if outcome == "failed":
                raise RuntimeError(f"{self._preparation.existing[name]}: {detail}")
            outcomes.append((name, outcome))
        return outcomes

    def _replace(self, worker: _Worker, how: str) -> list[tuple[str, str]]:
        """Starts a worker in place of one that died, and has its videos done again; one that
        killed its worker before is skipped."""
        if not worker.ready or not worker.jobs:
            raise RuntimeError(f"a worker process {how} before it did anything")
        worker.child.kill()
        self._workers.remove(worker)
        self._workers.append(self._start())
        jobs = worker.jobs
        at = jobs[0]
        self._attempts[at] = self._attempts.get(at, 0) + 1
        outcomes = []
        if self._attempts[at] >= _ATTEMPTS:
            path = self._preparation.existing[at]
            self._preparation.staging.skip(at, path, f"the process that prepared it {how}")
            outcomes.append((jobs.popleft(), "skipped"))
        outcomes += [(name, "busy") for name in jobs]
        return outcomes


def serve(connection: Connection) -> None:
    """Prepares one video after another in a worker process, until the connection is closed."""
    cv2.setNumThreads(1)
    store, settings, generation, deadline = connection.recv()
    locks = _Locks(store)
    staging = _Staging(store)
    connection.send(("ready", None))
    with VideoReader(deadline=deadline) as reader:
        while True:
            name, path = connection.recv()
            if not locks.take(staging.lock_of(name), wait=False):
                connection.send(("busy", None))
                continue
            try:
                if staging.has(name):
                    answer: tuple[str, str | None] = ("earlier", None)
                elif _generation(store) != generation:
                    answer = ("rescan", None)
                else:
                    answer = _stage(name, path, settings, staging, reader)
            finally:
                locks.release(staging.lock_of(name))
            connection.send(answer)


def _stage(
    name: str, path: Path, settings: StoreSettings, staging: _Staging, reader: VideoReader
) -> tuple[str, str | None]:
    try:
        try:
            staging.put(name, prepare_video(name, path, settings, reader))
        except BadVideoError as error:
            staging.skip(name, path, str(error))
            return "skipped", str(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "full", f"no space left in {staging.store}"
        return "failed", f"{type(error).__name__}: {error}"
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    return "done", None
