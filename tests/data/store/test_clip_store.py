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

from study.data.flow.compute import compute_flow, quantise
from study.data.flow.planes import unpack_plane
from study.data.store.clip_store import ClipStore
from study.data.store.preparation import prepare
from study.data.store.record import RECORD_SCHEMA
from study.data.store.settings import stack_starts, write_settings
from tests.data.video_files import decode_all


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
    """A video's frames as JPEGs and its fields, made from the whole video at once."""
    frames = decode_all(path, short_side=settings.short_side, frame_step=settings.frame_step)
    gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    fields = quantise(compute_flow(gray, settings.flow))
    rgb = [jpeg(np.ascontiguousarray(frame[..., ::-1])) for frame in frames]
    return rgb, fields


def unpacked(stack, settings):
    size = (settings.short_side, settings.short_side * 4 // 3)
    return np.array([[unpack_plane(plane, *size) for plane in pair] for pair in stack])


def test_a_full_store_has_every_frame_and_every_field(full_store, videos, full_settings):
    for name in ("jump/p0", "run/p9"):
        rgb, flow = expected(videos / f"{name}.avi", full_settings)
        record = full_store.record(name)
        assert (record.width, record.height) == (32, 24)
        assert record.positions == len(flow) == len(rgb) - 1
        for position in range(record.positions):
            assert bytes(record.rgb(position)) == rgb[position]
            [field] = unpacked(record.flow(position, 1), full_settings)
            assert np.array_equal(field, flow[position])


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


def test_a_frame_step_leaves_frames_out_before_flow(videos, annotations, settings, tmp_path):
    stepped = replace(settings, frame_step=3, stacks=None, flow_codec="jpeg")
    prepare(annotations, videos, tmp_path / "store", stepped, workers=1)
    record = ClipStore.open(tmp_path / "store").record("run/p9")  # 17 frames: 0, 3, …, 15
    rgb, flow = expected(videos / "run/p9.avi", stepped)
    assert [bytes(record.rgb(p)) for p in range(record.positions)] == rgb[:5]
    stack = [(bytes(x), bytes(y)) for x, y in record.flow(0, 5)]
    assert stack == [(jpeg(x), jpeg(y)) for x, y in flow]


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
        FileNotFoundError, match=r"of folder is unfinished: run `python -m study\.prepare"
    ):
        ClipStore.open(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="another format"):
        ClipStore.open(tmp_path)
    write_settings(tmp_path, settings)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json of .* is damaged .*: delete it and run"):
        ClipStore.open(tmp_path)


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
