from dataclasses import replace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch

from study.data.clips.dataset import ClipDataset, ClipSettings
from study.data.clips.decoding import DecodedVideo
from study.data.clips.transforms import Crop
from tests.memory_store import MemoryStore, make_store

CLIP = ClipSettings(segments=2, flow_length=2, crop_size=21)
IMAGES = 3 * 4 * (1 + 2 * CLIP.flow_length)  # a frame and a stack at each position of each video


@pytest.fixture
def decode(monkeypatch: pytest.MonkeyPatch) -> Mock:
    decode = Mock(wraps=cv2.imdecode)
    monkeypatch.setattr(cv2, "imdecode", decode)
    return decode


def _epochs(store: MemoryStore, *, augment: bool = True) -> list[dict[str, torch.Tensor]]:
    data = ClipDataset(store, store.videos, clip=CLIP, augment=augment, seed=3)
    batches = []
    for epoch in range(20):
        data.set_epoch(epoch)
        batches.append(data.batch([2, 0, 1]))
    return batches


@pytest.mark.parametrize("augment", [True, False])
def test_kept_images_give_the_clips_that_decoding_each_time_gives(
    augment: bool, decode: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(videos=3)
    kept = _epochs(store, augment=augment)
    assert decode.call_count <= IMAGES
    monkeypatch.setattr("study.data.clips.dataset.KEPT_BYTES", 0)
    decode.reset_mock()
    again = _epochs(store, augment=augment)
    assert decode.call_count == 20 * 3 * CLIP.segments * (1 + 2 * CLIP.flow_length)
    for one, other in zip(kept, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def _whole_images(video: DecodedVideo) -> list[np.ndarray]:
    whole = [Crop(top=0, left=0, height=24, width=30)]
    images = []
    for position in range(4):
        for kind, shape in (("rgb", (1, 1, 24, 30, 3)), ("flow", (1, 4, 24, 30))):
            images.append(np.empty(shape, np.uint8))
            video.cut(kind, position, whole, images[-1])
    return images


def test_a_video_keeps_all_its_images_or_none_and_no_more_than_allowed(decode: Mock) -> None:
    record = make_store(videos=1, size=(24, 30)).records["class 0/0"]
    needed = 24 * 30 * 4 * (3 + 2 * 2)
    for allowed, times in ((needed, 1), (needed - 1, 2)):
        video = DecodedVideo(record, flow_length=2, kept_bytes=allowed)
        decode.reset_mock()
        seen = [_whole_images(video) for _ in range(2)]
        assert decode.call_count == times * 4 * (1 + 2 * 2)
        assert sum(image.nbytes for image in seen[0]) == needed
        assert all(np.array_equal(one, other) for one, other in zip(*seen, strict=True))


def test_a_crop_is_resized_once_where_there_is_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = Mock(wraps=cv2.resize)
    monkeypatch.setattr(cv2, "resize", resize)
    record = make_store(videos=1, size=(24, 30)).records["class 0/0"]
    decoded, frame = 24 * 30 * 4 * (3 + 2 * 2), 12 * 12 * 3
    left = Crop(top=0, left=0, height=24, width=24)
    for room, times in ((frame, 1), (frame - 1, 3)):
        video = DecodedVideo(record, flow_length=2, kept_bytes=decoded + room)
        resize.reset_mock()
        views = np.empty((3, 1, 12, 12, 3), np.uint8)
        video.cut("rgb", 1, [left, replace(left, mirrored=True), left], views)
        assert resize.call_count == times
        assert np.array_equal(views[0], views[2])
        assert np.array_equal(views[0], views[1, :, :, ::-1])
