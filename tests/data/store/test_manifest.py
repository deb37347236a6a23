"""The manifest and its tables: what a fingerprint tells, and how large a dataset may be."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from study.data.datasets.annotations import Annotations, Split, Video
from study.data.store.clip_store import ClipStore
from study.data.store.manifest import Location, fingerprint, write_manifest
from study.data.store.settings import StoreSettings, write_settings


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
        fingerprint(
            settings,
            annotated(
                video, splits={"1": Split(name="1", train=(video,), test=(), validation=(other,))}
            ),
            digests,
        ),
    }
    assert len(changed) == 9


def test_a_named_validation_part_is_read_back_as_it_was_written(tmp_path):
    train, validation, test = (
        Video(name=f"a/{part}", path=f"{part}.avi", label=0, group=part) for part in "xyz"
    )
    splits = {
        "1": Split(name="1", train=(train,), test=(test,), validation=(validation,)),
        "2": Split(name="2", train=(train, validation), test=(test,)),
    }
    annotations = Annotations(dataset="d", classes=("a",), splits=splits, flip_classes=(0,))
    settings = StoreSettings(dataset="d")
    write_settings(tmp_path, settings)
    write_manifest(tmp_path, settings, annotations, {}, {})
    assert ClipStore.open(tmp_path).annotations == annotations


MEASURE = """
import re, sys, time
from pathlib import Path
from study.data.datasets.annotations import Video
from study.data.store.clip_store import ClipStore

def report(began):
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(time.process_time() - began, int(peak[1]) / 1024)

began = time.process_time()  # which other work on the machine doesn't lengthen
store = ClipStore.open(sys.argv[1])
assert "class7/video0000007" in store and "class7/nothing" not in store
report(began)
assert len(store.annotations.splits["1"].train) == 160_000
report(began)
began = time.process_time()
made = [Video(name=f"{i}", path=f"{i}.mp4", label=0, group=f"{i // 7}") for i in range(240_000)]
report(began)
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
    locations = {
        video.name: Location(i // 200, i % 200, f"{i:032x}") for i, video in enumerate(every)
    }
    write_settings(tmp_path, settings)
    (tmp_path / "shards").mkdir()
    for number in range(1200):  # opening looks at none
        (tmp_path / f"shards/{number:05d}.arrow").touch()
    write_manifest(tmp_path, settings, annotations, locations, {})
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
