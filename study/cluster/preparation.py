"""Preparation of one clip store by the nodes of a Ray cluster.

Every node runs `study.data.store.preparation.prepare` on the same store, and locks in the store
divide the work among them. Ray only starts the nodes, so one that is lost loses only the videos
that it was working on.
"""

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from study.cluster.connection import check_shared, running_ray
from study.data.datasets.annotations import Annotations
from study.data.store.preparation import (
    PreparationSummary,
    Progress,
    default_workers,
    find_videos,
    prepare,
)
from study.data.store.settings import StoreSettings
from study.data.store.staging import StoreBuilder

__all__ = ["prepare_on_cluster"]

_POLL_SECONDS = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What a node needs to know. Paths must lead to the same files on every node."""

    annotations: Annotations
    videos: Path
    store: Path
    settings: StoreSettings
    flow: Path | None
    workers: int
    deadline: float


def prepare_on_cluster(
    address: str | None,
    annotations: Annotations,
    videos_folder: Path,
    store_path: Path,
    settings: StoreSettings,
    *,
    nodes: int | None = None,
    flow_folder: Path | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    deadline: float = 60.0,
) -> PreparationSummary:
    """Makes a clip store as `prepare` does, on many nodes at once.

    Args:
        address: The cluster's; None starts Ray on this machine.
        annotations: The dataset's videos and splits.
        videos_folder: On storage that all nodes share.
        store_path: On storage that all nodes share.
        settings: What to store.
        nodes: Nodes to work on; None means those that the cluster has now. Where there are fewer,
            an autoscaler may add them.
        flow_folder: On storage that all nodes share.
        workers: Processes on each node; None means one for each core of the smallest, and
            a few at most where flow is computed on a GPU.
        progress: Called every two seconds or so.
        deadline: Seconds without progress after which a decoder is given up.

    Returns:
        What was prepared and what was skipped.

    Raises:
        ConnectionError: If there is no cluster at the address.
        FileNotFoundError: If a node doesn't see the store.
        RuntimeError: If no node could prepare; the message says why.
    """
    began = time.monotonic()
    builder = StoreBuilder(
        annotations, find_videos(annotations, videos_folder), store_path, settings
    )
    try:
        left = len(builder.open_videos(retry_skipped=False))
        total = len(builder.existing)
        done = before = total - left
        staged_before = builder.staging.count()
        if left:
            with running_ray(address) as cluster:
                check_shared(store_path.resolve())
                cores = [int(node.get("CPU", 0)) for node in cluster]
                cores = [count for count in cores if count] or [1]
                work = _Work(
                    annotations=annotations,
                    videos=videos_folder.resolve(),
                    store=store_path.resolve(),
                    settings=settings,
                    flow=None if flow_folder is None else flow_folder.resolve(),
                    workers=workers or default_workers(settings, min(cores)),
                    deadline=deadline,
                )
                if work.workers > max(cores):
                    logger.warning(
                        f"WAITING for a node of {work.workers} cores, one for each process; there "
                        f"is none of more than {max(cores)} now. Where none is to come, stop this "
                        "and give fewer --workers"
                    )

                def report() -> None:
                    nonlocal done  # never less, also when a node clears away what it staged
                    done = max(done, min(total, before + builder.staging.count() - staged_before))
                    if progress:
                        progress(Progress(done=done, total=total, skipped=0, before=before))

                _run(work, nodes or len(cores), report)
    finally:
        builder.close()
    # Nothing is left, or what the nodes that were lost last were at.
    summary = prepare(
        annotations,
        videos_folder,
        store_path,
        settings,
        flow_folder=flow_folder,
        workers=workers,
        deadline=deadline,
    )
    return replace(summary, prepared=left, seconds=time.monotonic() - began)


def _run(work: _Work, nodes: int, report: Callable[[], None]) -> None:
    """Runs the work on nodes until one of them reports that the store is finished."""
    task = ray.remote(num_cpus=work.workers, max_retries=0, scheduling_strategy="SPREAD")(_work_on)
    shared = ray.put(work)
    running = [task.remote(shared) for _ in range(nodes)]
    failures = []
    while running:
        ended, running = ray.wait(running, timeout=_POLL_SECONDS)
        report()
        for reference in ended:
            try:
                ray.get(reference)
            except ray.exceptions.RayError as error:
                failures.append(str(error).strip().splitlines()[-1])
                continue
            for other in running:  # they end by themselves, or wait for a node that never comes
                ray.cancel(other)
            return
    raise RuntimeError(f"no node could prepare: {failures[0]}")


def _work_on(work: _Work) -> None:
    for path in (work.videos, work.store / "settings.json", work.flow):
        if path is not None and not path.exists():
            raise FileNotFoundError(
                f"node {socket.gethostname()} doesn't see {path}: videos and store must be on "
                "storage that all nodes share"
            )
    prepare(
        work.annotations,
        work.videos,
        work.store,
        work.settings,
        flow_folder=work.flow,
        workers=work.workers,
        deadline=work.deadline,
    )
