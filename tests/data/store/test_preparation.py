"""Preparation: the same store however it came about, and nothing lost on the way."""

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from study.data.datasets.catalog import annotate
from study.data.flow.compute import FlowSettings
from study.data.store import preparation, staging
from study.data.store.clip_store import ClipStore
from study.data.store.preparation import prepare
from tests.data.video_files import moving_square, write_video

ROOT = Path(__file__).parents[3]
SHARD_BYTES = 70_000  # so that ten small videos fill several shards

RUN = f"""
import json, sys
from pathlib import Path
from study.data.store import preparation
from study.data.store import staging
from study.data.datasets.catalog import annotate
from study.data.store.settings import StoreSettings
staging.SHARD_BYTES = preparation.SHARD_BYTES = {SHARD_BYTES}
videos, store, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
annotations = annotate("folder", videos=videos, group="(p[0-9])")
print("starting", flush=True)
summary = preparation.prepare(
    annotations, videos, store, StoreSettings.from_dict(settings), workers=int(sys.argv[4])
)
print(summary.prepared)
"""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(staging, "SHARD_BYTES", SHARD_BYTES)
    monkeypatch.setattr(preparation, "SHARD_BYTES", SHARD_BYTES)


@pytest.fixture(scope="module")
def undisturbed(videos, annotations, full_settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "SHARD_BYTES", SHARD_BYTES)
        patch.setattr(preparation, "SHARD_BYTES", SHARD_BYTES)
        prepare(annotations, videos, path, full_settings, workers=1)
    return path


def start(videos, store, settings, *, workers):
    told = (str(videos), str(store), json.dumps(settings.to_dict()), str(workers))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *told],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "starting\n"
    return process


def assert_same(one: Path, other: Path) -> None:
    files = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert files == sorted(
        str(path.relative_to(other)) for path in other.rglob("*") if path.is_file()
    )
    same, different, errors = filecmp.cmpfiles(one, other, files, shallow=False)
    assert (sorted(same), different, errors) == (files, [], [])


def test_shards_hold_the_videos_in_order_up_to_their_size(undisturbed, annotations):
    store = ClipStore.open(undisturbed)
    assert store.shards >= 3
    locations = store.locations()
    order = sorted(locations, key=lambda name: (locations[name].shard, locations[name].row))
    assert order == sorted(locations)
    sizes = [path.stat().st_size for path in sorted(undisturbed.glob("shards/*"))]
    assert SHARD_BYTES / 2 < max(sizes) < SHARD_BYTES
    assert list(store.verify()) == []


@pytest.mark.parametrize("staged", [0, 5])
def test_killed_at_any_moment_a_rerun_makes_the_same_store(
    videos, annotations, full_settings, undisturbed, tmp_path, staged
):
    store = tmp_path / "store"
    process = start(videos, store, full_settings, workers=2)
    while len(list(store.glob("staging/*/*"))) < staged:
        time.sleep(0.01)
    process.kill()
    process.wait()
    prepare(annotations, videos, store, full_settings, workers=1)
    assert_same(undisturbed, store)


@pytest.mark.parametrize("stage", ["shard", "manifest"])
def test_killed_while_packing_a_rerun_makes_the_same_store(
    videos, annotations, full_settings, undisturbed, tmp_path, monkeypatch, stage
):
    store = tmp_path / "store"
    name = {"shard": "open_shard", "manifest": "write_manifest"}[stage]
    real, calls = getattr(staging, name), []

    def die(*arguments):
        calls.append(arguments)
        if stage == "manifest" or len(calls) == 6:  # in the second shard
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(staging, name, die)
        with pytest.raises(KeyboardInterrupt):
            prepare(annotations, videos, store, full_settings, workers=1)
    with pytest.raises(FileNotFoundError, match="unfinished"):
        ClipStore.open(store)
    prepare(annotations, videos, store, full_settings, workers=1)
    assert_same(undisturbed, store)


def test_several_at_once_share_the_work_and_make_the_same_store(
    videos, full_settings, undisturbed, tmp_path
):
    store = tmp_path / "store"
    processes = [start(videos, store, full_settings, workers=1) for _ in range(3)]
    prepared = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(prepared) == 10  # each video once
    assert_same(undisturbed, store)


def test_what_a_killed_process_was_at_is_taken_over(videos, full_settings, undisturbed, tmp_path):
    store = tmp_path / "store"
    first = start(videos, store, full_settings, workers=1)
    while not (store / "lock").exists():
        time.sleep(0.01)
    second = start(videos, store, full_settings, workers=1)
    time.sleep(0.5)
    first.kill()
    first.wait()
    assert second.wait() == 0
    assert_same(undisturbed, store)


@pytest.mark.parametrize("process", ["preparation:serve", "decoders:serve"])
@pytest.mark.parametrize("done", [0, 2])
def test_a_process_that_is_killed_loses_nothing(
    videos, annotations, full_settings, undisturbed, tmp_path, process, done
):
    """Also one that has not begun yet."""
    killed: list[int] = []

    def kill_one(progress):
        if not killed and progress.done >= done and (pids := children_of(os.getpid(), process)):
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

    prepare(annotations, videos, tmp_path / "store", full_settings, workers=2, progress=kill_one)
    assert killed
    assert_same(undisturbed, tmp_path / "store")


def children_of(pid: int, process: str) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    found: list[int] = []
    for child in [int(child) for path in lists for child in path.read_text().split()]:
        if process.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(child)
        found += children_of(child, process)
    return found


def test_counting_what_is_staged_bears_with_others_that_clear_it_away(tmp_path, monkeypatch):
    for name in ("ab", "cd"):
        (tmp_path / "staging" / name).mkdir(parents=True)
        (tmp_path / f"staging/{name}/{name}0.arrow").touch()
    real = os.scandir

    def clear_first(path="."):
        if str(path).endswith("ab"):
            shutil.rmtree(path, ignore_errors=True)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", clear_first)
        assert staging.Staging(tmp_path).count() == 1


def test_a_rerun_of_a_finished_store_touches_nothing(
    videos, annotations, full_settings, undisturbed
):
    def state():
        return {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}

    before = state()
    summary = prepare(annotations, videos, undisturbed, full_settings)
    assert (summary.prepared, summary.stored) == (0, 10)
    assert state() == before


def test_a_shard_that_was_deleted_is_made_again(
    videos, annotations, full_settings, undisturbed, tmp_path
):
    store = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    locations = ClipStore.open(store).locations().values()
    (store / "shards/00001.arrow").unlink()
    summary = prepare(annotations, videos, store, full_settings, workers=1)
    assert summary.prepared == sum(location.shard == 1 for location in locations)
    assert_same(undisturbed, store)
    (store / "shards/00000.arrow").unlink()
    (store / "manifest.json").unlink()
    summary = prepare(annotations, videos, store, full_settings, workers=1)
    assert summary.prepared == sum(location.shard == 0 for location in locations)
    assert_same(undisturbed, store)


def test_a_shard_that_was_deleted_and_cannot_be_made_again_leaves_the_others(
    own_videos, annotations, full_settings, undisturbed, tmp_path
):
    store = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    locations = ClipStore.open(store).locations()
    (store / "shards/00000.arrow").unlink()
    for name, location in locations.items():
        if location.shard == 0:
            (own_videos / f"{name}.avi").unlink()
    summary = prepare(annotations, own_videos, store, full_settings, workers=1)
    assert summary.prepared == 0
    left = ClipStore.open(store)
    assert left.names == [name for name, location in locations.items() if location.shard > 0]
    assert list(left.verify()) == []


@pytest.mark.parametrize("stage", ["open_shard", "write_manifest"])
def test_killed_while_a_deleted_shard_is_made_again_no_video_gets_the_record_of_another(
    own_videos, annotations, full_settings, undisturbed, tmp_path, monkeypatch, stage
):
    store = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    opened = ClipStore.open(store)
    first, second, *_ = (n for n, location in opened.locations().items() if location.shard == 0)
    (own_videos / f"{first}.avi").write_bytes(b"garbage")  # the others move up
    (store / "shards/00000.arrow").unlink()
    real = getattr(staging, stage)

    def die(path, *arguments):
        if stage == "write_manifest" or (store / "shards/00000.arrow").exists():
            raise KeyboardInterrupt
        return real(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(staging, stage, die)
        with pytest.raises(KeyboardInterrupt):
            prepare(annotations, own_videos, store, full_settings, workers=1)
    with pytest.raises(FileNotFoundError, match="unfinished"):  # to any other process as well
        ClipStore.open(store)
    with pytest.raises(ValueError, match=f"shard 00000 of .* holds '{second}' .* '{first}' was"):
        opened.record(first)
    summary = prepare(annotations, own_videos, store, full_settings, workers=1)
    assert list(summary.skipped) == [first]
    repaired, before = ClipStore.open(store), ClipStore.open(undisturbed)
    assert list(repaired.verify()) == []
    assert repaired.names == [name for name in before.names if name != first]
    for name in repaired.names:
        assert bytes(repaired.record(name).rgb(0)) == bytes(before.record(name).rgb(0))


def test_who_was_at_work_when_the_manifest_was_removed_makes_the_lost_videos_too(
    videos, annotations, full_settings, undisturbed, tmp_path, monkeypatch
):
    store = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    real = staging.StoreBuilder.finish
    shard = store / "shards/00000.arrow"

    def lose_a_shard_first(builder):
        if (store / "manifest.json").exists():
            shard.unlink()
            (store / "manifest.json").unlink()  # as another process that finds the shard gone
        return real(builder)

    monkeypatch.setattr(staging.StoreBuilder, "finish", lose_a_shard_first)
    prepare(annotations, videos, store, full_settings, workers=1)
    assert_same(undisturbed, store)


def test_a_shard_of_an_unfinished_store_that_is_damaged_can_be_deleted_too(
    videos, annotations, full_settings, undisturbed, tmp_path, monkeypatch
):
    store = tmp_path / "store"

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging, "write_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            prepare(annotations, videos, store, full_settings, workers=1)
    shard = store / "shards/00001.arrow"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"00001\.arrow can't be read .*: delete it and run"):
        prepare(annotations, videos, store, full_settings, workers=1)
    shard.unlink()
    prepare(annotations, videos, store, full_settings, workers=1)
    assert_same(undisturbed, store)


@pytest.fixture
def own_videos(videos, tmp_path):
    """A copy of the videos that a test may change."""
    return Path(shutil.copytree(videos, tmp_path / "videos"))


def bad_videos(folder):
    (folder / "run/p20.avi").touch()
    (folder / "run/p21.avi").write_bytes(b"garbage" * 1000)
    whole = (folder / "run/p9.avi").read_bytes()
    (folder / "run/p22.avi").write_bytes(whole[: len(whole) // 2])
    write_video(folder / "run/p23.avi", moving_square(1), codec="ffv1")
    (folder / "run/p24.avi").symlink_to("p24.avi")


def test_bad_videos_are_skipped_with_their_reasons(own_videos, settings, tmp_path):
    bad_videos(own_videos)
    annotations = annotate("folder", videos=own_videos)
    summary = prepare(annotations, own_videos, tmp_path / "store", settings, workers=1)
    assert (summary.stored, summary.prepared) == (10, 15)
    assert sorted(summary.skipped) == [f"run/p{n}" for n in range(20, 25)]
    for name, reason in {
        "run/p20": "empty file",
        "run/p21": "can't be read as a video",
        "run/p22": "of 17 frames",
        "run/p23": "one frame only",
        "run/p24": "symbolic links",
    }.items():
        assert reason in summary.skipped[name]
    store = ClipStore.open(tmp_path / "store")
    assert store.skipped == summary.skipped
    manifest = json.loads((tmp_path / "store/manifest.json").read_text())
    assert manifest["skipped"].keys() == set(summary.skipped)
    with pytest.raises(KeyError, match="empty file"):
        store.record("run/p20")


def test_a_skipped_video_is_tried_again_when_its_file_changed(own_videos, settings, tmp_path):
    bad_videos(own_videos)
    annotations = annotate("folder", videos=own_videos)
    store = tmp_path / "store"
    prepare(annotations, own_videos, store, settings, workers=1)
    assert prepare(annotations, own_videos, store, settings, workers=1).prepared == 0
    shutil.copy(own_videos / "run/p9.avi", own_videos / "run/p22.avi")
    summary = prepare(annotations, own_videos, store, settings, workers=1)
    assert (summary.prepared, summary.stored) == (1, 11)
    assert "run/p22" not in summary.skipped
    again = prepare(annotations, own_videos, store, settings, workers=1, retry_skipped=True)
    assert (again.prepared, again.stored, again.skipped) == (4, 11, summary.skipped)
    assert list(ClipStore.open(store).verify()) == []


def test_videos_that_appear_later_are_added(own_videos, settings, tmp_path):
    hidden = tmp_path / "p4.avi"
    (own_videos / "jump/p4.avi").rename(hidden)
    annotations = annotate("folder", videos=own_videos)
    summary = prepare(annotations, own_videos, tmp_path / "grown", settings, workers=1)
    assert summary.stored == 9
    before = ClipStore.open(tmp_path / "grown")
    hidden.rename(own_videos / "jump/p4.avi")
    annotations = annotate("folder", videos=own_videos)
    summary = prepare(annotations, own_videos, tmp_path / "grown", settings, workers=1)
    assert (summary.stored, summary.prepared) == (10, 1)
    grown = ClipStore.open(tmp_path / "grown")
    assert grown.annotations == annotations
    assert list(grown.verify()) == []
    assert grown.fingerprint != before.fingerprint
    assert "jump/p4" not in before  # who has it open goes on with the old state
    assert bytes(before.record("jump/p2").rgb(0)) == bytes(grown.record("jump/p2").rgb(0))
    prepare(annotations, own_videos, tmp_path / "fresh", settings, workers=1)
    assert grown.fingerprint == ClipStore.open(tmp_path / "fresh").fingerprint


def test_missing_videos_are_counted_for_each_split_and_part(own_videos, settings, tmp_path):
    annotations = annotate("folder", videos=own_videos, group="(p[0-9])")
    (own_videos / "jump/p4.avi").unlink()
    (own_videos / "run/p5.avi").write_bytes(b"")
    summary = prepare(annotations, own_videos, tmp_path / "store", settings, workers=1)
    assert summary.listed["p4"] == {"train": 9, "test": 1}
    assert summary.missing["p4"] == {"train": 0, "test": 1}
    assert summary.missing["p5"] == {"train": 1, "test": 0}


def test_other_settings_are_refused_by_name(
    videos, annotations, full_settings, settings, undisturbed
):
    with pytest.raises(ValueError, match=r"short_side is 24 there, 32 here\. Give the same"):
        prepare(annotations, videos, undisturbed, replace(full_settings, short_side=32))
    with pytest.raises(ValueError, match=r"stacks is None there, 2 here; flow_length is unset"):
        prepare(annotations, videos, undisturbed, settings)


@pytest.mark.parametrize(("backend", "workers"), [("tvl1", 32), ("tvl1-gpu", 4)])
def test_few_processes_share_a_gpu_by_default(full_settings, monkeypatch, backend, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(32), raising=False)
    settings = replace(full_settings, flow=FlowSettings(backend=backend))
    assert preparation.default_workers(settings) == workers
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    assert preparation.default_workers(settings) == 2


def test_what_cannot_work_is_refused_before_anything_starts(
    videos, annotations, settings, tmp_path
):
    store = tmp_path / "store"
    with pytest.raises(FileNotFoundError, match="no videos folder"):
        prepare(annotations, tmp_path / "nowhere", store, settings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none of the 10 videos of folder .* looked for"):
        prepare(annotations, tmp_path / "empty", store, settings)
    with pytest.raises(ValueError, match="workers must be a whole number of at least 1, got 0"):
        prepare(annotations, videos, store, settings, workers=0)
    with pytest.raises(ValueError, match="settings are for dataset 'ucf101'"):
        prepare(annotations, videos, store, replace(settings, dataset="ucf101"))
    assert not store.exists()
    with pytest.raises(ValueError, match=r"holds other things \(jump, …\)"):
        prepare(annotations, videos, videos, settings)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        prepare(annotations, videos, tmp_path / "file", settings)


def test_a_full_disk_stops_clearly_and_corrupts_nothing(
    videos, annotations, full_settings, undisturbed, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        with pytest.raises(OSError, match="no space left"):
            prepare(annotations, videos, disk / "store", full_settings, workers=1)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        summary = prepare(annotations, videos, disk / "store", full_settings, workers=1)
        assert 0 < summary.prepared < 10
        assert_same(undisturbed, disk / "store")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
