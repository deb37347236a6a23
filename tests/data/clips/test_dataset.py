import time
from collections.abc import Iterator
from itertools import islice
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch

from study.data.clips.dataset import PREFETCH, ClipDataset, ClipSettings, make_loader
from study.data.clips.transforms import model_inputs
from tests.memory_store import MemoryStore, make_store, make_video

CLIP = ClipSettings(segments=2, flow_length=2, crop_size=21, scales=(1.0, 0.875, 0.75), flip=True)
CPU = torch.device("cpu")
CENTRE = ClipSettings(segments=2, flow_length=2, crop_size=21)


def _place_store(frames: int = 6, height: int = 24, width: int = 30) -> MemoryStore:
    """Red and flow-x tell a pixel's column, green and flow-y its row, blue its frame."""
    rows, columns = np.mgrid[:height, :width]
    rgb = np.stack([np.stack([columns, rows, 0 * rows + t], -1) for t in range(frames)])
    flow = np.stack([np.stack([columns + t, rows + t]) for t in range(frames)])
    return MemoryStore({make_video(0): (rgb.astype(np.uint8), flow.astype(np.uint8))}, classes=1)


def _store_of_sizes(*sizes: tuple[int, int]) -> MemoryStore:
    rng = np.random.default_rng(0)
    noise = {
        make_video(k): (
            rng.integers(0, 256, (4, *size, 3), dtype=np.uint8),
            rng.integers(0, 256, (4, 2, *size), dtype=np.uint8),
        )
        for k, size in enumerate(sizes)
    }
    return MemoryStore(noise, classes=1)


def _data(store: MemoryStore, clip: ClipSettings = CLIP, **options: object) -> ClipDataset:
    settings: dict = {"augment": True, "seed": 3, **options}
    return ClipDataset(store, store.videos, clip=clip, **settings)


def _equal(one: dict, other: dict) -> bool:
    return all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one)


def test_a_test_clip_is_the_centre_of_the_segments_centres() -> None:
    item = _data(_place_store(), CENTRE, augment=False)[0]
    rows, columns = torch.meshgrid(torch.arange(1, 22), torch.arange(4, 25), indexing="ij")
    assert item["rgb"].shape == (2, 3, 21, 21)
    assert item["flow"].shape == (2, 4, 21, 21)
    assert item["rgb"].dtype == item["flow"].dtype == torch.uint8
    for t, frame in enumerate((1, 4)):  # the centres of frames 0..2 and 3..5
        assert torch.equal(item["rgb"][t].long(), torch.stack([columns, rows, 0 * rows + frame]))
        for k in range(2):  # order x1, y1, x2, y2; the second stack begins at frame 4
            assert torch.equal(item["flow"][t, 2 * k].long(), columns + frame + k)
            assert torch.equal(item["flow"][t, 2 * k + 1].long(), rows + frame + k)


def test_frame_and_flow_of_an_augmented_clip_share_crop_and_flip() -> None:
    data = _data(_place_store())
    mirrored = 0
    for epoch in range(40):
        data.set_epoch(epoch)
        item = data[0]
        for t in range(2):
            column, row, frame = item["rgb"][t].long()
            assert (frame == frame[0, 0]).all()
            flipped = bool(column[0, 0] > column[0, -1])
            mirrored += flipped
            for k in range(2):
                shift = min(int(frame[0, 0]) + k, 5)
                x, y = item["flow"][t, 2 * k : 2 * k + 2].long()
                assert (((255 - x) if flipped else x) - shift - column).abs().max() <= 1
                assert (y - shift - row).abs().max() <= 1
    assert 20 < mirrored < 60


def test_an_item_depends_on_seed_epoch_and_index_alone() -> None:
    store = make_store(videos=3)
    data, again = _data(store), _data(store)
    data.set_epoch(5)
    first = [data[i] for i in (0, 1, 2)]
    again.set_epoch(5)
    np.random.seed(1)  # noqa: NPY002 - no item may look at it
    assert all(_equal(again[i], first[i]) for i in (2, 0, 1))
    again.set_epoch(6)
    assert not _equal(again[0], first[0])
    other = _data(store, seed=4)
    other.set_epoch(5)
    assert not _equal(other[0], first[0])


def test_loader_processes_make_the_same_items_and_see_a_new_epoch() -> None:
    data = _data(make_store(videos=4))
    batches = [[0, 3], [2, 1]]
    loader = make_loader(data, batches, device=CPU, workers=2)
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches.reverse()
        for indices, batch in zip(batches, loader, strict=True):
            assert batch["index"].tolist() == indices
            for row, index in enumerate(indices):
                expected = data[index]
                assert torch.equal(batch["rgb"][row], expected["rgb"])
                assert torch.equal(batch["flow"][row], expected["flow"])


def _check(batches: list[list[int]], loaded: Iterator[dict], data: ClipDataset) -> None:
    for indices, batch in zip(batches, loaded, strict=True):
        expected = data.batch(indices)
        assert batch.keys() == expected.keys()
        assert _equal(batch, expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_that_is_used_again_has_the_right_batch_while_it_is_valid(workers: int) -> None:
    data = _data(make_store(videos=9))
    batches: list[list[int]] = []
    loader = make_loader(data, batches, device=CPU, workers=workers)
    epochs = [
        [[0, 1], [2, 3], [4, 5], [6, 7], [8]],
        [[k] for k in range(9)],
        [list(range(9)), [3, 2, 1], list(range(9)), [4]] * 2,  # larger than before
        [[5, 7]],
        [[k, 8 - k] for k in range(9)],
    ]
    for epoch, batches[:] in enumerate(epochs):
        data.set_epoch(epoch)
        loaded = iter(loader)
        if epoch == 2:  # broken off while batches are under way
            _check(batches[:2], islice(loaded, 2), data)
            data.set_epoch(17)
            loaded = iter(loader)
        _check(batches, loaded, data)


def test_a_batch_is_valid_until_the_next_is_taken() -> None:
    data = _data(make_store(videos=8))
    batches = [[k] for k in range(8)]
    taken = []
    for indices, batch in zip(
        batches, make_loader(data, batches, device=CPU, workers=1), strict=True
    ):
        time.sleep(0.1)  # the loader process does all that it was told to do
        expected = data.batch(indices)
        assert _equal(batch, expected)
        taken.append((batch, expected))
    for batch, expected in taken:  # label and index stay, and so does what the memory held last
        assert torch.equal(batch["label"], expected["label"])
        assert torch.equal(batch["index"], expected["index"])
    valid = [torch.equal(batch["rgb"], expected["rgb"]) for batch, expected in taken]
    assert valid == [False] * (8 - PREFETCH - 1) + [True] * (PREFETCH + 1)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.parametrize("workers", [0, 1])
def test_clips_for_a_gpu_are_finished_there_to_what_a_cpu_gets(workers: int) -> None:
    data = _data(_store_of_sizes((24, 30), (40, 28), (19, 50)))
    batches = [[0, 1, 2], [1]]
    loader = make_loader(data, batches, device=torch.device("cuda"), workers=workers)
    for epoch in range(4):
        data.set_epoch(epoch)
        for indices, batch in zip(batches, loader, strict=True):
            expected = data.batch(indices)
            assert torch.equal(batch["label"], expected["label"])
            inputs, wanted = model_inputs(batch, CPU), model_inputs(expected, CPU)
            for kind, values in wanted.items():
                assert (inputs[kind] - values).abs().max() < 1 / 255 / 0.229  # a grey level
                assert inputs[kind].stride() == values.stride()


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_test_views_for_a_gpu_are_those_for_a_cpu() -> None:
    clip = ClipSettings(segments=2, flow_length=2, crop_size=21, crops="ten")
    data = _data(_store_of_sizes((24, 30), (40, 28)), clip, augment=False)
    [batch] = make_loader(data, [[0, 1]], device=torch.device("cuda"), workers=0)
    expected = data.batch([0, 1])
    assert batch.keys() == expected.keys()
    assert _equal(batch, expected)


def test_loader_processes_start_where_opencv_has_threads() -> None:
    cv2.setNumThreads(4)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (9, 9), 3)
    data = _data(make_store(videos=2))
    loader = make_loader(data, [[0], [1]], device=CPU, workers=1)
    assert [batch["index"].item() for batch in loader] == [0, 1]


def test_a_mirrored_clip_has_the_label_of_the_mirrored_class() -> None:
    plain = _place_store()
    left = make_video(1, label=1)
    rgb = np.tile(np.arange(30, dtype=np.uint8)[:, None], (3, 24, 1, 3))
    store = MemoryStore(
        {left: (rgb, np.zeros((3, 2, 24, 30), np.uint8))}, classes=3, flip_classes=(0, 2, 1)
    )
    data = ClipDataset(store, store.videos, clip=CLIP, augment=True)
    seen = set()
    for epoch in range(20):
        data.set_epoch(epoch)
        item = data[0]
        flipped = bool(item["rgb"][0, 0, 0, 0] > item["rgb"][0, 0, 0, -1])
        assert item["label"] == (2 if flipped else 1)
        seen.add(flipped)
    assert seen == {False, True}
    assert ClipDataset(store, store.videos, clip=CENTRE, augment=False)[0]["label"] == 1
    assert _data(plain)[0]["label"] == 0


@pytest.mark.parametrize("size", [(5, 7), (200, 31), (21, 21)])
def test_frames_of_any_size_give_clips_of_one_size(size: tuple[int, int]) -> None:
    store = make_store(videos=1, classes=1, size=size)
    for augment in (False, True):
        item = _data(store, augment=augment)[0]
        assert item["rgb"].shape == (2, 3, 21, 21)
        assert item["flow"].shape == (2, 4, 21, 21)


def test_views_are_every_crop_of_the_first_clip_then_of_the_next() -> None:
    clip = ClipSettings(segments=2, flow_length=2, crop_size=21, clips=2, crops="ten")
    data = _data(_place_store(), clip, augment=False)
    item = data[0]
    assert item["rgb"].shape == (20, 2, 3, 21, 21)
    assert item["flow"].shape == (20, 2, 4, 21, 21)
    assert data.mirrored_views == ((False,) * 5 + (True,) * 5) * 2
    # each frame's number is its blue: points 1/4 and 3/4 of frames 0..2 and 3..5
    assert item["rgb"][:, :, 2, 0, 0].tolist() == [[0, 3]] * 10 + [[2, 5]] * 10
    for view, other in ((0, 5), (12, 17)):
        assert torch.equal(item["rgb"][view].flip(-1), item["rgb"][other])
        assert torch.equal(255 - item["flow"][view, :, 0::2].flip(-1), item["flow"][other, :, 0::2])
        assert torch.equal(item["flow"][view, :, 1::2].flip(-1), item["flow"][other, :, 1::2])


def test_each_image_is_decoded_once_for_all_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = ClipSettings(segments=2, flow_length=2, crop_size=21, crops="ten")
    data = _data(_place_store(), clip, augment=False)
    decode = Mock(wraps=cv2.imdecode)
    monkeypatch.setattr(cv2, "imdecode", decode)
    data[0]
    assert decode.call_count == 2 * (1 + 2 * 2)


def test_only_the_wanted_inputs_are_read() -> None:
    store = _place_store()
    both = _data(store)[0]
    for kind in ("rgb", "flow"):
        item = _data(store, inputs=(kind,))[0]
        assert set(item) == {kind, "label", "index"}
        assert torch.equal(item[kind], both[kind])


@pytest.mark.parametrize("data", [b"", b"no image", None])
def test_a_damaged_image_is_named(data: bytes | None) -> None:
    store = _place_store()
    record = store.records["class 0/0"]
    record._rgb = [make_store().records["class 0/0"].rgb(0)[:40] if data is None else data] * 6
    with pytest.raises(ValueError, match=r"position \d of class 0/0 .* 30×24 pixels"):
        _data(store)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ("depth",)}, "inputs must be some of"),
        ({"inputs": ()}, "inputs must be some of"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _data(_place_store(), **change)


def test_no_videos_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one video"):
        ClipDataset(_place_store(), [], clip=CLIP, augment=False)
