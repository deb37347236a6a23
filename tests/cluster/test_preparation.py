"""Preparation by several nodes of a Ray cluster."""

import contextlib
import filecmp
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from study.cluster import preparation as cluster_preparation
from study.cluster.preparation import prepare_on_cluster
from study.data.datasets.catalog import annotate
from study.data.flow.compute import FlowSettings
from study.data.store.clip_store import ClipStore
from study.data.store.manifest import open_shard
from study.data.store.preparation import Progress, find_videos, prepare
from study.data.store.settings import StoreSettings
from study.data.store.staging import Locks, Staging
from study.prepare import main
from tests.data.video_files import moving_square, write_dataset, write_video

SETTINGS = StoreSettings(
    dataset="folder", short_side=24, flow=FlowSettings(scales=1, warps=1, iterations=5)
)


def assert_same(one: Path, other: Path) -> None:
    files = [str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()]
    assert filecmp.cmpfiles(one, other, files, shallow=False)[1:] == ([], [])


@pytest.fixture
def two_nodes(cluster: Cluster) -> Cluster:
    """The cluster with two nodes of a core each; a test before may have taken some away."""
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(num_cpus=1)
    return cluster


@pytest.mark.slow
def test_nodes_make_the_store_that_one_machine_makes(two_nodes, tmp_path):
    videos = write_dataset(tmp_path / "videos")
    annotations = annotate("folder", videos=videos)
    (videos / "run/p1.avi").write_bytes(b"")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    expected = prepare(annotations, videos, alone, SETTINGS, workers=1)
    seen: list[Progress] = []
    address = two_nodes.address
    summary = prepare_on_cluster(
        address, annotations, videos, shared, SETTINGS, nodes=2, workers=1, progress=seen.append
    )
    assert (summary.stored, summary.prepared) == (9, 10)
    assert summary.skipped == expected.skipped
    assert [report.total for report in seen] == [10] * len(seen)
    assert sorted(report.done for report in seen) == [report.done for report in seen]
    assert_same(alone, shared)
    again = prepare_on_cluster(address, annotations, videos, shared, SETTINGS)
    assert again.prepared == 0


def descendants(pid: int) -> list[int]:
    children = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            children += [int(child) for child in path.read_text().split()]
    return children + [pid for child in children for pid in descendants(child)]


def is_preparing(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return b"preparation:serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@pytest.mark.slow
def test_a_node_that_is_lost_at_work_loses_nothing_else(two_nodes, tmp_path, monkeypatch):
    videos = tmp_path / "videos"
    for number in range(24):
        frames = moving_square(16, height=72, width=96, seed=number)
        write_video(videos / f"{'ab'[number % 2]}/p{number:02}.avi", frames, codec="ffv1")
    annotations = annotate("folder", videos=videos)
    settings = StoreSettings(
        dataset="folder", short_side=72, flow=FlowSettings(iterations=60, epsilon=1e-6)
    )
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    shared.mkdir()
    # No video is free until both nodes are there, and a third of them until one is lost.
    gate = Locks(shared)
    locks = [Staging(shared).lock_of(name) for name in find_videos(annotations, videos)]
    assert all(gate.take(lock, wait=False) for lock in locks)
    nodes = sorted(two_nodes.worker_nodes, key=lambda node: node.node_id)
    steps: list[Any] = []  # the nodes' processes, then how far the preparation was

    def lose_a_node(progress):
        if not steps:
            trees = [descendants(node.all_processes["raylet"][0].process.pid) for node in nodes]
            if all(any(map(is_preparing, tree)) for tree in trees):
                steps.append(trees)
                for lock in locks[8:]:
                    gate.release(lock)
        elif len(steps) == 1 and progress.done >= 4:
            steps.append(progress.done)
            two_nodes.remove_node(nodes[0], allow_graceful=False)
            for pid in steps[0][0]:  # they would end by themselves, but not at once
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for lock in locks[:8]:
                gate.release(lock)

    monkeypatch.setattr(cluster_preparation, "_POLL_SECONDS", 0.1)
    summary = prepare_on_cluster(
        two_nodes.address, annotations, videos, shared, settings, progress=lose_a_node
    )
    assert 4 <= steps[1] <= 16
    assert (summary.stored, summary.skipped) == (24, {})
    store = ClipStore.open(shared)
    assert list(store.verify()) == []
    shards = [open_shard(path) for path in sorted(shared.glob("shards/*.arrow"))]
    records = [shard.get_batch(i) for shard in shards for i in range(shard.num_record_batches)]
    assert [record["name"][0].as_py() for record in records] == store.names  # each once
    prepare(annotations, videos, alone, settings, workers=2)
    assert_same(alone, shared)


def test_who_waits_for_a_larger_node_is_told_so(tmp_path, monkeypatch, caplog):
    for name in ("p1", "p2"):
        write_video(tmp_path / f"videos/run/{name}.avi", moving_square(2))
    nodes = [{"CPU": 1.0}, {"CPU": 2.0}, {}]

    def wait(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster_preparation, "running_ray", lambda _: contextlib.nullcontext(nodes))
    monkeypatch.setattr(cluster_preparation, "check_shared", lambda _: None)
    monkeypatch.setattr(cluster_preparation, "_run", wait)
    annotations, store = annotate("folder", videos=tmp_path / "videos"), tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        prepare_on_cluster("auto", annotations, tmp_path / "videos", store, SETTINGS, workers=3)
    assert "WAITING for a node of 3 cores" in caplog.text
    assert "more than 2 now" in caplog.text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--nodes 2", "--nodes is for a cluster"),
        ("--address auto --nodes 0", "--nodes must be at least 1, got 0"),
        ("--address auto --retry-skipped", "--retry-skipped is for one machine"),
        ("--address auto", "--address needs --videos DIR"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path, capsys, words, reason):
    given = ["embedded", "--store", str(tmp_path / "store"), *words.split()]
    assert main(given) == 2
    assert reason in capsys.readouterr().err
