"""The store's format: what is in a record, and that nothing else is needed to read it."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from study.data.datasets.annotations import Annotations, Split, Video
from study.data.flow.compute import compute_flow, quantise
from study.data.store.clip_store import (
    RECORD_SCHEMA,
    ClipStore,
    Place,
    StoreSettings,
    fingerprint,
    stack_pairs,
    stack_starts,
    write_manifest,
    write_settings,
)
from study.data.store.preparation import prepare
from study.data.video.reader import decode


@pytest.fixture(scope="module")
def full_store(videos, annotations, full_settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "store"
    prepare(annotations, videos, path, full_settings, workers=1)
    return ClipStore.open(path)


@pytest.fixture(scope="module")
def store(videos, annotations, settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("stacks") / "store"
    prepare(annotations, videos, path, settings, workers=1)
    return ClipStore.open(path)


def jpeg(picture, quality=95):
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def expected(path, settings):
    """A video's frames and fields as JPEGs, made from the whole video at once."""
    frames = decode(path, short_side=settings.short_side, frame_step=settings.frame_step)
    gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    fields = quantise(compute_flow(gray, settings.flow))
    rgb = [jpeg(np.ascontiguousarray(frame[..., ::-1])) for frame in frames]
    return rgb, [(jpeg(x), jpeg(y)) for x, y in fields]


def test_a_full_store_has_every_frame_and_every_field(full_store, videos, full_settings):
    for name in ("jump/p0", "run/p9"):
        rgb, flow = expected(videos / f"{name}.avi", full_settings)
        record = full_store.record(name)
        assert (record.width, record.height) == (32, 24)
        assert record.positions == len(flow) == len(rgb) - 1
        for position in range(record.positions):
            assert bytes(record.rgb(position)) == rgb[position]
            assert [(bytes(x), bytes(y)) for x, y in record.flow(position, 1)] == [flow[position]]


def test_flow_past_the_end_repeats_the_last_field(full_store):
    record = full_store.record("jump/p0")  # 8 frames, 7 fields
    stack = record.flow(4, 10)
    assert len(stack) == 10
    fields = [record.flow(position, 1)[0] for position in range(7)]
    assert stack == fields[4:] + [fields[6]] * 7


def test_stacks_are_the_full_stores_at_their_starts(store, full_store, settings):
    for name in store.names:
        record, full = store.record(name), full_store.record(name)
        starts = stack_starts(full.frames, settings)
        assert record.positions == len(starts) == 2
        for position, start in enumerate(starts):
            assert record.rgb(position) == full.rgb(int(start))
            for length in (1, 2, 3):
                assert record.flow(position, length) == full.flow(int(start), length)


@pytest.mark.parametrize(
    ("frames", "stacks", "length", "starts"),
    [
        (25, 3, 4, [3, 10, 17]),  # 21 possible starts in parts of 7
        (14, 1, 3, [5]),
        (5, 3, 4, [0]),
        (6, 3, 4, [0, 1]),  # two possible starts
        (2, 3, 10, [0]),  # shorter than a stack
    ],
)
def test_stacks_start_in_the_middle_of_equal_parts(frames, stacks, length, starts):
    settings = StoreSettings(dataset="d", stacks=stacks, flow_length=length)
    assert stack_starts(frames, settings).tolist() == starts


def test_stacks_never_leave_the_video_and_each_pair_is_stored_once():
    for frames in range(2, 40):
        for stacks in (1, 2, 3, 7):
            for length in (1, 4, 10):
                settings = StoreSettings(dataset="d", stacks=stacks, flow_length=length)
                starts = stack_starts(frames, settings)
                wanted = {
                    pair
                    for start in starts.tolist()
                    for pair in range(start, start + length)
                    if pair + 1 < frames
                }
                assert stack_pairs(starts, frames, settings).tolist() == sorted(wanted)
                assert 1 <= len(starts) <= stacks
                assert frames <= length or starts[-1] + length < frames


def test_a_frame_step_leaves_frames_out_before_flow(videos, annotations, settings, tmp_path):
    stepped = replace(settings, frame_step=3, stacks=None)
    prepare(annotations, videos, tmp_path / "store", stepped, workers=1)
    record = ClipStore.open(tmp_path / "store").record("run/p9")  # 17 frames: 0, 3, …, 15
    rgb, flow = expected(videos / "run/p9.avi", stepped)
    assert [bytes(record.rgb(p)) for p in range(record.positions)] == rgb[:5]
    assert [(bytes(x), bytes(y)) for x, y in record.flow(0, 5)] == flow


def test_a_store_needs_nothing_else(store, annotations, settings):
    assert store.annotations == annotations
    assert store.settings == settings
    assert len(store) == 10
    assert "jump/p0" in store
    assert "jump/p1" not in store
    assert "" not in store
    assert 7 not in store
    split = next(iter(annotations.splits.values()))
    assert store.names == sorted(video.name for video in (*split.train, *split.test))
    assert store.skipped == {}


def test_a_copy_in_another_process_reads_the_same(store):
    copy = pickle.loads(pickle.dumps(store))
    assert copy.fingerprint == store.fingerprint
    script = (
        "import pickle, sys; store = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(bytes(store.record('run/p3').rgb(1)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(store),
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        check=True,
    )
    assert out.stdout == bytes(store.record("run/p3").rgb(1))


def test_what_is_not_there_is_said(store):
    with pytest.raises(KeyError, match="no video 'run/p0': it was missing"):
        store.record("run/p0")
    record = store.record("run/p3")
    with pytest.raises(IndexError, match=r"position must be in 0..1 for run/p3, got 2"):
        record.rgb(2)
    with pytest.raises(ValueError, match="flow length must be from 1 to 3, got 4"):
        record.flow(0, 4)


def test_opening_what_is_no_finished_store_says_what_to_do(tmp_path, settings):
    with pytest.raises(FileNotFoundError, match=r"no clip store in .*study\.prepare"):
        ClipStore.open(tmp_path)
    write_settings(tmp_path, settings)
    with pytest.raises(
        FileNotFoundError, match=r"unfinished: run `python -m study\.prepare folder"
    ):
        ClipStore.open(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="another format"):
        ClipStore.open(tmp_path)
    write_settings(tmp_path, settings)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json of .* is damaged .*: delete it and run"):
        ClipStore.open(tmp_path)


def test_settings_survive_json(settings, full_settings):
    for given in (settings, replace(settings, flow=None), full_settings):
        assert StoreSettings.from_dict(json.loads(json.dumps(given.to_dict()))) == given


def test_a_length_of_stacks_means_nothing_without_stacks(full_settings):
    assert replace(full_settings, flow_length=5).to_dict() == full_settings.to_dict()


@pytest.mark.parametrize(
    "wrong",
    [{"short_side": 4}, {"frame_step": 0}, {"stacks": 0}, {"jpeg_quality": 101}, {"stacks": 1.5}],
)
def test_wrong_settings_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} must be a whole number from .*, got {value}"):
        StoreSettings(dataset="folder", **wrong)


def test_verification_finds_a_single_wrong_byte(store, tmp_path):
    assert list(store.verify()) == []
    copy = tmp_path / "store"
    subprocess.run(["cp", "-r", str(store.path), str(copy)], check=True)
    shard = copy / "shards/00000.arrow"
    data = bytearray(shard.read_bytes())
    picture = bytes(ClipStore.open(copy).record("run/p3").rgb(1))
    data[data.index(picture) + len(picture) // 2] ^= 1
    shard.write_bytes(data)
    assert list(ClipStore.open(copy).verify()) == [
        "run/p3: shard 00000 holds something else than was prepared"
    ]
    shard.write_bytes(data[:100])
    assert all("can't be read" in line for line in ClipStore.open(copy).verify())
    with pa.ipc.new_file(str(shard), RECORD_SCHEMA) as writer:
        writer.write_batch(store.batch(0))
    lines = list(ClipStore.open(copy).verify())
    assert [line.partition(":")[0] for line in lines] == store.names[1:]
    assert all("shard 00000 can't be read" in line for line in lines)


def test_the_fingerprint_tells_what_training_can_see():
    settings = StoreSettings(dataset="d")
    video = Video(name="a/1", path="a/1.avi", label=0, group="g")
    other = Video(name="b/1", path="b/1.avi", label=1, group="g")

    def annotated(first, **changes):
        known = {
            "dataset": "d",
            "classes": ("a", "b"),
            "splits": {"1": Split(name="1", train=(first,), test=(other,))},
            "flip_classes": (0, 1),
        }
        return Annotations(**{**known, **changes})

    digests = {"a/1": "x", "b/1": "y"}
    known = fingerprint(settings, annotated(video), digests)
    assert known == fingerprint(settings, annotated(replace(video, path="a/1.mp4")), digests)
    assert known == fingerprint(settings, annotated(video), dict(reversed(digests.items())))
    changed = {
        known,
        fingerprint(replace(settings, short_side=64), annotated(video), digests),
        fingerprint(settings, annotated(video), {**digests, "b/1": "z"}),
        fingerprint(settings, annotated(video), {"a/1": "x"}),
        fingerprint(settings, annotated(replace(video, label=1)), digests),
        fingerprint(settings, annotated(replace(video, group="h")), digests),
        fingerprint(settings, annotated(video, flip_classes=(1, 0)), digests),
        fingerprint(settings, annotated(video, class_groups={"a": "what"}), digests),
    }
    assert len(changed) == 8


MEASURE = """
import re, sys, time
from pathlib import Path
from study.data.datasets.annotations import Video
from study.data.store.clip_store import ClipStore

def told(began):
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(time.process_time() - began, int(peak[1]) / 1024)

began = time.process_time()  # which other work on the machine doesn't lengthen
store = ClipStore.open(sys.argv[1])
assert "class7/video0000007" in store and "class7/nothing" not in store
told(began)
assert len(store.annotations.splits["1"].train) == 160_000
told(began)
began = time.process_time()
made = [Video(name=f"{i}", path=f"{i}.mp4", label=0, group=f"{i // 7}") for i in range(240_000)]
told(began)
"""


@pytest.mark.slow
def test_240_000_videos_open_at_once_and_in_200_megabytes(tmp_path):
    settings = StoreSettings(dataset="large")
    every = [
        Video(
            name=f"class{number % 400}/video{number:07d}",
            path=f"class{number % 400}/video{number:07d}.mp4",
            label=number % 400,
            group=f"group{number // 7}",
        )
        for number in range(240_000)
    ]
    annotations = Annotations(
        dataset="large",
        classes=tuple(f"class{number}" for number in range(400)),
        splits={"1": Split(name="1", train=tuple(every[:160_000]), test=tuple(every[160_000:]))},
        flip_classes=tuple(range(400)),
    )
    places = {video.name: Place(i // 200, i % 200, f"{i:032x}") for i, video in enumerate(every)}
    write_settings(tmp_path, settings)
    (tmp_path / "shards").mkdir()
    for number in range(1200):  # opening looks at none
        (tmp_path / f"shards/{number:05d}.arrow").touch()
    write_manifest(tmp_path, settings, annotations, places, {})
    assert ClipStore.open(tmp_path).annotations == annotations
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        check=True,
        text=True,
    ).stdout.split()
    opened, opened_megabytes, read, read_megabytes, making, _ = map(float, out)
    print(f"open: {opened:.3f} s, process of {opened_megabytes:.0f} MB")
    print(f"and with annotations as objects: {read:.3f} s, process of {read_megabytes:.0f} MB")
    print(f"making as many objects: {making:.3f} s")
    assert opened < making / 5
    assert read < 4 * making
    assert opened_megabytes <= read_megabytes < 200
