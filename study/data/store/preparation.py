"""Makes a clip store of a dataset's videos, by many processes on one or many machines."""

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path

import cv2
import pyarrow as pa

from models.checks import check_number
from study.data.datasets.annotations import Annotations
from study.data.datasets.catalog import find_reader
from study.data.flow.compute import check_backend, runs_on_gpu
from study.data.process import ChildDiedError, ChildProcess
from study.data.store.clip_store import ClipStore
from study.data.store.encoding import encode_video
from study.data.store.manifest import annotated_videos
from study.data.store.settings import StoreSettings
from study.data.store.staging import SHARD_BYTES, Locks, Staging, StoreBuilder, generation
from study.data.video.files import resolve_video
from study.data.video.reader import BadVideoError, VideoReader

__all__ = [
    "GPU_WORKERS",
    "PreparationSummary",
    "Progress",
    "default_settings",
    "default_workers",
    "find_videos",
    "prepare",
]

GPU_WORKERS = 4  # some decode while the GPU, which they share, computes for another
_JOBS_AHEAD = 2
_POLL_SECONDS = 0.5
_ATTEMPTS = 2  # workers that may be killed at one video, or as they start


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a preparation is.

    Attributes:
        done: Videos that are stored or skipped.
        total: Videos that exist.
        skipped: Videos that could not be used.
        before: Videos of `done` that were so when this preparation began.
        elsewhere: Videos that other processes are working on, and this one waits for.
    """

    done: int
    total: int
    skipped: int
    before: int
    elsewhere: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationSummary:
    """What a preparation resulted in.

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
    flow_folder: Path | None = None,
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
        flow_folder: Folder of precomputed flow, for settings that say so.
        workers: Processes to work with, one thread each; None means one for each core, but
            `GPU_WORKERS` at most where flow is computed on a GPU, of whose memory each takes about
            a gigabyte, and a CUDA context.
        progress: Called about twice a second.
        deadline: Seconds without progress after which a decoder is given up.
        retry_skipped: Whether videos that were skipped before are tried again, changed or not.

    Raises:
        FileNotFoundError: If there is no videos folder, or none of the videos is in it.
        ValueError: If an argument is out of range, the store has other settings, its folder is
            something else, or the flow backend can't run here.
        OSError: If the disk is full, or the like; what was finished is safe.
        RuntimeError: If something unforeseen happens with a video; what was finished is safe.
    """
    began = time.monotonic()
    if workers is not None:
        check_number("workers", workers, whole=True, least=1)
    check_number("deadline", deadline, above=0)
    if annotations.dataset != settings.dataset:
        raise ValueError(
            f"settings are for dataset {settings.dataset!r}, annotations of {annotations.dataset!r}"
        )
    if settings.flow is None and flow_folder is None:
        raise ValueError(f"clip store {store_path} takes precomputed flow: give its folder, --flow")
    if settings.flow is not None and flow_folder is not None:
        raise ValueError("a flow folder goes with settings of precomputed flow alone")
    if flow_folder is not None and not flow_folder.is_dir():
        raise FileNotFoundError(f"no flow folder {flow_folder}")
    existing = find_videos(annotations, videos_folder)
    if not (store_path / "settings.json").exists():
        check_backend(settings.flow)
    prepared = 0
    with closing(StoreBuilder(annotations, existing, store_path, settings)) as builder:
        while True:
            if todo := builder.open_videos(retry_skipped=retry_skipped):
                check_backend(settings.flow)
                count = min(workers or default_workers(settings), len(todo))
                with closing(_Pool(builder, count, deadline, flow_folder)) as pool:
                    prepared += pool.run(todo, progress)
                retry_skipped = False
            elif builder.finish():
                break
        return _summarise(annotations, builder, prepared, time.monotonic() - began)


def _summarise(
    annotations: Annotations, builder: StoreBuilder, prepared: int, seconds: float
) -> PreparationSummary:
    store = ClipStore.open(builder.store)
    splits = annotations.splits.values()
    return PreparationSummary(
        stored=len(store),
        prepared=prepared,
        skipped=store.skipped,
        listed={s.name: {part: len(videos) for part, videos in s.parts.items()} for s in splits},
        missing={
            s.name: {
                part: sum(video.name not in builder.existing for video in videos)
                for part, videos in s.parts.items()
            }
            for s in splits
        },
        fingerprint=store.fingerprint,
        bytes=sum(path.stat().st_size for path in builder.store.glob("shards/*.arrow")),
        seconds=seconds,
    )


def find_videos(annotations: Annotations, folder: Path) -> dict[str, Path]:
    """Returns where the videos are, by name, sorted; those that are missing are left out.

    Raises:
        FileNotFoundError: If there is no folder, or none of the videos is in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no videos folder {folder}; give --videos DIR, where they are")
    videos = annotated_videos(annotations)
    found = {name: resolve_video(folder, videos[name].path) for name in sorted(videos)}
    existing = {name: path for name, path in found.items() if path is not None}
    if not existing:
        example = next(iter(videos.values()), None)
        looked_for = "" if example is None else f"; looked for {folder / example.path}, …"
        raise FileNotFoundError(
            f"none of the {len(videos)} videos of {annotations.dataset} is in {folder}{looked_for}"
        )
    return existing


def default_settings(dataset: str) -> StoreSettings:
    """Returns the settings that a dataset's store is made with where no others are asked for.

    Raises:
        ValueError: If there is no such dataset.
    """
    return StoreSettings(dataset=dataset, **find_reader(dataset).store)


def default_workers(settings: StoreSettings, cores: int | None = None) -> int:
    """Returns how many processes suit a machine of so many cores; None means this one's."""
    if cores is None:
        here = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if here else os.cpu_count() or 1
    on_gpu = settings.flow is not None and runs_on_gpu(settings.flow)
    return min(cores, GPU_WORKERS) if on_gpu else cores


@dataclass(slots=True)
class _Worker:
    child: ChildProcess
    jobs: deque[str] = field(default_factory=deque)
    ready: bool = False


class _Pool:
    """Worker processes that prepare videos until each is staged, by them or by others."""

    def __init__(
        self, builder: StoreBuilder, workers: int, deadline: float, flow_folder: Path | None
    ) -> None:
        self._builder = builder
        self._deadline = deadline
        self._flow_folder = flow_folder
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(self._start())
        except BaseException:
            self.close()
            raise
        self._attempts: dict[str | None, int] = {}  # by video; None: as it started

    def _start(self) -> _Worker:
        child = ChildProcess("study.data.store.preparation:serve")
        builder = self._builder
        child.send((builder.store, builder.settings, builder.generation))
        child.send((self._deadline, self._flow_folder))
        return _Worker(child)

    def close(self) -> None:
        for worker in self._workers:
            worker.child.kill()

    def run(self, todo: Sequence[str], progress: Callable[[Progress], None] | None) -> int:
        """Works off `todo`; ends early where the store was finished meanwhile by others.

        Returns:
            How many videos were prepared here.
        """
        waiting = deque(todo)
        busy: list[str] = []  # other processes are working on these
        left = len(todo)
        before = len(self._builder.existing) - left
        skipped = self._builder.count_skipped()
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
                self._builder.pack()
                unpacked = 0
            if progress:
                total = len(self._builder.existing)
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
            return self._builder.staging.file(name, ".arrow").stat().st_size
        except FileNotFoundError:
            return 0

    def _hand_out(self, waiting: deque[str]) -> None:
        for ahead in range(_JOBS_AHEAD):
            for worker in self._workers:
                if waiting and len(worker.jobs) <= ahead:
                    name = waiting.popleft()
                    worker.jobs.append(name)
                    worker.child.send((name, self._builder.existing[name]))

    def _outcomes(self) -> list[tuple[str, str]]:
        """Returns what became of videos within the next moments."""
        outcomes = []
        ready = wait([worker.child.connection for worker in self._workers], _POLL_SECONDS)
        for worker in [worker for worker in self._workers if worker.child.connection in ready]:
            try:
                outcome, detail = worker.child.receive()
            except ChildDiedError as death:
                outcomes += self._replace(worker, death)
                continue
            if outcome == "ready":
                worker.ready = True
                continue
            name = worker.jobs.popleft()
            if outcome == "full":
                raise OSError(errno.ENOSPC, detail)
            if outcome == "failed":
                raise RuntimeError(f"{self._builder.existing[name]}: {detail}")
            outcomes.append((name, outcome))
        return outcomes

    def _replace(self, worker: _Worker, death: ChildDiedError) -> list[tuple[str, str]]:
        """Starts a worker in place of one that was killed, and has its videos done again.

        A video at which a worker was killed before is skipped: once says nothing of the video, for
        the system kills processes too.

        Raises:
            RuntimeError: If it ended by itself, or two were killed before they could begin.
        """
        jobs = worker.jobs
        at = jobs[0] if worker.ready and jobs else None
        self._attempts[at] = self._attempts.get(at, 0) + 1
        if not death.by_signal or (not worker.ready and self._attempts[at] >= _ATTEMPTS):
            raise RuntimeError(f"a worker process {death}; what it printed says why")
        worker.child.kill()
        self._workers.remove(worker)
        self._workers.append(self._start())
        outcomes = []
        if at is not None and self._attempts[at] >= _ATTEMPTS:
            self._builder.skip(at, f"the process that prepared it {death}")
            outcomes.append((jobs.popleft(), "skipped"))
        outcomes += [(name, "busy") for name in jobs]
        return outcomes


def serve(connection: Connection) -> None:
    """Prepares one video after another in a worker process, until the connection is closed."""
    cv2.setNumThreads(1)
    store, settings, expected = connection.recv()
    deadline, flow_folder = connection.recv()
    locks = Locks(store)
    staging = Staging(store)
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
                elif generation(store) != expected:
                    answer = ("rescan", None)
                else:
                    make = partial(
                        encode_video, name, path, settings, reader, flow_folder=flow_folder
                    )
                    answer = _stage(name, path, staging, make)
            finally:
                locks.release(staging.lock_of(name))
            connection.send(answer)


def _stage(
    name: str, path: Path, staging: Staging, make: Callable[[], pa.RecordBatch]
) -> tuple[str, str | None]:
    try:
        try:
            staging.put(name, make())
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
