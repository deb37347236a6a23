"""Hundreds of damaged files: no hang, no crash, no silent short read, bounded memory."""

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from study.data.datasets.annotations import Annotations, Split, Video
from study.data.flow.compute import FlowSettings
from study.data.store.clip_store import ClipStore
from study.data.store.preparation import prepare
from study.data.store.settings import StoreSettings
from study.data.video.reader import TOLERATED_FRAMES
from tests.data.video_files import moving_square, write_video

CLIPS = {  # frames that each has
    "ucf101/Archery/v_Archery_g01_c01.avi": 131,
    "ucf101/HorseRace/v_HorseRace_g20_c01.avi": 365,
    "ucf101/Surfing/v_Surfing_g02_c01.avi": None,
    "weizmann/run/ira_run.avi": 56,
    "weizmann/walk/denis_walk.avi": 68,
    "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi": 48,
    "hmdb51/pour/KOREAN_TEA_CEREMONY_-_Simple_Demo_pour_u_nm_np1_fr_med_0.avi": 430,
    "kinetics/9r8wpMS2iEk_000048_000058.mp4": 252,
    "kinetics/flipping_a_pancake.mkv": 310,
    "misc/gulpio_test.mp4": 140,
    "misc/gulpio_test.webm": 140,
    "ssv2_clips/smth-smth-1.webm": 47,
    "jester/123973.mp4": 35,
    "jester/102653.mp4": 37,
}


def damaged(whole: bytes, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Damaged copies of a file, each with the name of its damage."""
    for tenths in range(1, 10):
        yield f"cut{tenths}0", whole[: len(whole) * tenths // 10]
    for rate in (1e-5, 1e-4, 1e-3, 1e-2):
        for seed in range(2):
            yield f"noise{rate:g}_{seed}", noisy(whole, rate, seed)
    for place in (1, 5, 9):
        yield f"zeroed{place}0", zeroed(whole, len(whole) * place // 10, len(whole) // 10)
    yield "head", whole[1024:]
    yield "twice", whole + whole
    index = {".avi": b"idx1", ".mp4": b"stsz"}.get(suffix)
    if index:
        yield "index", zeroed(whole, whole.rindex(index) + 4, 2000)
    if suffix == ".mp4":
        for table in (b"stco", b"stts", b"stsc"):
            yield f"noisy_{table.decode()}", noisy_at(whole, whole.index(table) + 8)


def noisy(data: bytes, rate: float, seed: int) -> bytes:
    changed, rng = bytearray(data), random.Random(seed)
    for _ in range(max(1, int(len(data) * rate))):
        changed[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(changed)


def noisy_at(data: bytes, place: int) -> bytes:
    rng = random.Random(0)
    return data[:place] + rng.randbytes(64) + data[place + 64 :]


def zeroed(data: bytes, place: int, length: int) -> bytes:
    return data[:place] + bytes(min(length, len(data) - place)) + data[place + length :]


def annotate_all(folder: Path) -> Annotations:
    videos = tuple(
        Video(name=f"odd/{path.name}", path=path.name, label=0, group=path.name)
        for path in sorted(folder.iterdir())
    )
    split = Split(name="1", train=videos, test=())
    return Annotations(dataset="folder", classes=("odd",), splits={"1": split}, flip_classes=(0,))


SETTINGS = StoreSettings(
    dataset="folder",
    short_side=16,
    stacks=1,
    flow_length=1,
    flow=FlowSettings(scales=1, warps=1, iterations=1),
)


@pytest.fixture(scope="module")
def prepared(real_data, tmp_path_factory):
    """A store of all the damaged files, the frames of each original, and the peak memory."""
    folder = tmp_path_factory.mktemp("damaged")
    frames = {}
    for clip, count in CLIPS.items():
        path = real_data / "videos" / clip
        for damage, data in damaged(path.read_bytes(), path.suffix):
            name = f"{path.stem}-{damage}{path.suffix}"
            (folder / name).write_bytes(data)
            frames[f"odd/{name}"] = count, damage
    peaks: dict[str, int] = {}
    began = time.monotonic()
    summary = prepare(
        annotate_all(folder),
        folder,
        tmp_path_factory.mktemp("store") / "store",
        SETTINGS,
        workers=2,
        deadline=30,
        progress=lambda _: note_peaks(peaks),
    )
    print(
        f"\n{len(frames)} damaged files in {time.monotonic() - began:.0f} s: {summary.stored} "
        f"usable, {len(summary.skipped)} skipped; peak MB of a process: {peaks}"
    )
    path = tmp_path_factory.getbasetemp().glob("store*/store")
    return ClipStore.open(next(path)), frames, summary, peaks


def note_peaks(peaks: dict[str, int]) -> None:
    """Notes the highest resident memory of decoders and workers, in MB."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            status = (process / "status").read_text()
        except OSError:
            continue
        for kind in ("study.data.video.decoders:serve", "study.data.store.preparation:serve"):
            if kind.encode() in command and (peak := re.search(r"VmHWM:\s+(\d+)", status)):
                peaks[kind] = max(peaks.get(kind, 0), int(peak[1]) // 1024)


@pytest.mark.slow
def test_every_damaged_file_is_usable_or_skipped_with_a_reason(prepared):
    store, frames, summary, _ = prepared
    assert len(frames) > 300
    assert summary.stored + len(summary.skipped) == len(frames)
    assert all(name in store or len(store.skipped[name]) > 8 for name in frames)
    assert summary.stored > 20
    assert list(store.verify()) == []


@pytest.mark.slow
def test_no_damaged_file_is_silently_short(prepared):
    store, frames, _, _ = prepared
    short = {
        name: (store.record(name).frames, count)
        for name, (count, damage) in frames.items()
        if name in store and count and store.record(name).frames < count - TOLERATED_FRAMES
    }
    assert short == {}


@pytest.mark.slow
def test_every_truncation_is_found(prepared):
    store, frames, _, _ = prepared
    assert [name for name, (_, damage) in frames.items() if "cut" in damage and name in store] == []


@pytest.mark.slow
def test_memory_stays_bounded(prepared):
    *_, peaks = prepared
    assert peaks["study.data.video.decoders:serve"] < 600
    assert peaks["study.data.store.preparation:serve"] < 600


@pytest.mark.slow
def test_odd_but_whole_videos_are_used(real_data, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    clip = real_data / "videos/jester/102653.mp4"
    (folder / "wrong.avi").write_bytes(clip.read_bytes())
    (folder / "link.mp4").symlink_to(clip)
    write_video(folder / "odd.avi", moving_square(9, height=51, width=67), codec="ffv1")
    write_video(folder / "tall.avi", moving_square(9, height=96, width=64), codec="ffv1")
    uneven(folder / "uneven.mp4")
    summary = prepare(
        annotate_all(folder), folder, tmp_path / "store", SETTINGS, workers=1, deadline=30
    )
    assert summary.skipped == {}
    store = ClipStore.open(tmp_path / "store")
    sizes = {name: (store.record(name).width, store.record(name).height) for name in store.names}
    assert sizes["odd/odd.avi"] == (21, 16)
    assert sizes["odd/tall.avi"] == (16, 24)
    counts = {name: store.record(name).frames for name in store.names}
    assert counts["odd/uneven.mp4"] == 20
    assert counts["odd/wrong.avi"] == counts["odd/link.mp4"] == 37


def uneven(path: Path) -> None:
    """A video of variable frame rate: 20 frames, the pauses between them of 1 to 40 ticks."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.integers(1, 40, 20))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=100)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for picture, when in zip(moving_square(20), times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = int(when)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
