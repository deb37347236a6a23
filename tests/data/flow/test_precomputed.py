"""Flow that was computed before, in the field's layouts."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from study.data.flow.compute import dequantise, quantise
from study.data.flow.planes import unpack_plane
from study.data.flow.precomputed import PrecomputedFlow
from study.data.store.clip_store import ClipStore
from study.data.store.preparation import prepare
from study.data.store.settings import StoreSettings
from study.data.video.reader import BadVideoError
from study.prepare import main


def smooth_field(height, width, seed):
    """(2, H, W) float32 in pixels, up to about ±12."""
    coarse = np.random.default_rng(seed).uniform(-12, 12, (2, 3, 4)).astype(np.float32)
    return np.stack([cv2.resize(plane, (width, height)) for plane in coarse])


def write_flow(folder, count, layout, *, height=24, width=32, seed=0):
    """Writes a video's flow and returns it, (F, 2, H, W) uint8."""
    fields = np.stack([quantise(smooth_field(height, width, (seed, i))) for i in range(count)])
    names = {
        "files": ("flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg"),
        "folders": ("x/{}.jpg", "y/{}.jpg"),
        "tsn": ("u/frame{:06d}.jpg", "v/frame{:06d}.jpg"),
    }[layout]
    for number, field in enumerate(fields, start=1):
        for name, plane in zip(names, field, strict=True):
            path = folder / name.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), plane, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return fields


@pytest.mark.parametrize("layout", ["files", "folders", "tsn"])
@pytest.mark.parametrize("place", ["run/p1", "p1"])
def test_every_layout_is_found_in_the_order_of_its_numbers(tmp_path, layout, place):
    fields = write_flow(tmp_path / place, 12, layout)
    flow = PrecomputedFlow.find(tmp_path, "run/p1", 13)
    assert len(flow) == 12
    got = np.stack([flow.field(i, 32, 24) for i in range(12)])
    assert np.abs(got.astype(int) - fields).max() <= 2  # what JPEG loses


def test_a_resized_field_has_displacements_of_the_new_size(tmp_path):
    write_flow(tmp_path / "p1", 1, "files", height=48, width=96)
    flow = PrecomputedFlow.find(tmp_path, "run/p1", 2)
    original = dequantise(flow.field(0, 96, 48))
    got = dequantise(flow.field(0, 32, 24))  # a third as wide, half as high
    blocks = original.reshape(2, 24, 2, 32, 3).mean((2, 4))
    expected = blocks * np.array([1 / 3, 1 / 2])[:, None, None]
    assert np.abs(got - expected).max() <= 20 / 255 + 1e-5  # half a grey level


def test_flow_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(BadVideoError, match="no precomputed flow: neither"):
        PrecomputedFlow.find(tmp_path, "run/p1", 13)
    write_flow(tmp_path / "p1", 5, "files")
    with pytest.raises(BadVideoError, match="has 5 fields for 13 frames"):
        PrecomputedFlow.find(tmp_path, "run/p1", 13)
    (tmp_path / "p1/flow_y_00003.jpg").unlink()
    with pytest.raises(BadVideoError, match="of 5 x and 4 y fields"):
        PrecomputedFlow.find(tmp_path, "run/p1", 6)
    write_flow(tmp_path / "p1", 5, "files")
    whole = (tmp_path / "p1/flow_y_00003.jpg").read_bytes()
    (tmp_path / "p1/flow_y_00003.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadVideoError, match=r"flow_y_00003\.jpg is damaged"):
        PrecomputedFlow.find(tmp_path, "run/p1", 6).field(2, 32, 24)


def test_a_store_takes_precomputed_flow(videos, annotations, settings, tmp_path):
    fields = {}
    for number in range(10):
        name = f"{('jump', 'run')[number % 2]}/p{number}"
        if number != 3:
            fields[name] = write_flow(tmp_path / "flow" / name, 7 + number, "files", seed=number)
    store = tmp_path / "store"
    words = f"folder --videos {videos} --flow {tmp_path}/flow --store {store} --short-side 24"
    assert main([*words.split(), "--name", "folder", "--quality", "100", "--workers", "1"]) == 0
    opened = ClipStore.open(store)
    assert opened.settings == StoreSettings(
        dataset="folder", short_side=24, flow=None, jpeg_quality=100
    )
    assert list(opened.skipped) == ["run/p3"]
    for name, expected in fields.items():
        record = opened.record(name)
        stack = record.flow(0, record.positions)
        got = np.array(
            [[unpack_plane(p, record.height, record.width) for p in pair] for pair in stack]
        )
        assert np.abs(got.astype(int) - expected).max() <= 2  # what the files' JPEG lost
    shutil.rmtree(tmp_path / "flow")
    with pytest.raises(FileNotFoundError, match="no flow folder"):
        prepare(annotations, videos, store, opened.settings, flow_folder=tmp_path / "flow")
    with pytest.raises(ValueError, match="takes precomputed flow: give its folder, --flow"):
        prepare(annotations, videos, store, opened.settings)


def test_precomputed_flow_goes_with_every_frame_alone(videos, settings, capsys):
    with pytest.raises(ValueError, match="frame_step must be 1 with it, got 2"):
        replace(settings, flow=None, frame_step=2)
    words = f"folder --videos {videos} --store nowhere --flow . --flow-backend opencv"
    assert main(words.split()) == 2
    assert "give no flow backend or option" in capsys.readouterr().err
