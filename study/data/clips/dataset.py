"""Clips of a store as a torch dataset: sampled, decoded, cropped; bytes until on the device."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from models.checks import check_number
from study.data.clips.decoding import KEPT_BYTES, DecodedVideo, Record
from study.data.clips.sampling import clip_positions
from study.data.clips.transforms import Crop, sampling, test_crops, training_crop
from study.data.datasets.annotations import Annotations, Video

__all__ = ["ClipDataset", "ClipSettings", "Store", "make_loader"]

INPUTS = ("rgb", "flow")
PREFETCH = 2  # batches that a loader process makes ahead of the one that is in use
Memory = Callable[[str, tuple[int, ...]], Tensor]
CLIP_STREAM = 1  # the first word of an item's seed, apart from those of order and dropout


class Store(Protocol):
    """What a dataset needs of a clip store."""

    @property
    def annotations(self) -> Annotations:
        """The dataset's classes, splits and videos."""

    def record(self, name: str) -> Record:
        """Returns a stored video's record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSettings:
    """How clips are taken from a video.

    Attributes:
        segments: Segments T of a clip.
        stride: Positions from one segment to the next, as of
            `study.data.clips.sampling.clip_positions`.
        flow_length: Flow fields L in a stack.
        crop_size: Side of a model's input in pixels.
        scales: Sides of the training crops as fractions of the short side; a test crop's side is
            within their range.
        flip: Whether half of the training clips are mirrored.
        clips: Clips of a test video.
        crops: Crops of a test clip: ``centre``, ``three`` or ``ten``, as of
            `study.data.clips.transforms.test_crops`, which checks it.
    """

    segments: int
    flow_length: int
    crop_size: int
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: bool = True
    stride: int | None = None
    clips: int = 1
    crops: str = "centre"


@dataclass(frozen=True, slots=True)
class _Clips:
    """The clips of one video that an item has.

    Attributes:
        video: The video.
        positions: (K, T) where the segments of each clip are taken.
        crops: The crops of each clip.
        sides: Height and width to which the crops are resized.
        label: The item's class.
    """

    video: DecodedVideo
    positions: NDArray[np.int64]
    crops: Sequence[Crop]
    sides: tuple[int, int]
    label: int

    def as_cut(self) -> "_Clips":
        """Returns the same with a crop that is neither resized nor mirrored."""
        [crop] = self.crops
        unmirrored = [replace(crop, mirrored=False)]
        return replace(self, crops=unmirrored, sides=(crop.height, crop.width))


def _new_memory(kind: str, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8)


class ClipDataset(Dataset[dict[str, Tensor]]):
    """The clips of some videos.

    An item is a dict of ``rgb`` (T, 3, S, S) uint8, ``flow`` (T, 2L, S, S) uint8 in the order x1,
    y1, x2, …, ``label`` and ``index``; inputs that aren't asked for are left out. Where the
    settings give a test video V > 1 views, ``rgb`` and ``flow`` have them in front: (V, T, …), all
    crops of the first clip, then of the next. `make_loader` gives items stacked.

    Images of a dataset that is small enough stay in memory once they are decoded, and so do their
    crops as far as there is room: each video may keep its part of `KEPT_BYTES`.

    Augmented items depend on the seed, the epoch and the index alone, whatever process makes
    them; of V videos, video i has the indices i + V, i + 2·V, … too, each another augmented clip.
    An augmented item that is mirrored has the mirrored video's label.

    Attributes:
        flip_classes: For each label, that of the mirrored video.

    Args:
        store: The clip store.
        videos: Videos that the store has.
        inputs: ``rgb``, ``flow`` or both.
        clip: How clips are taken.
        augment: Random positions and crops, for training; otherwise the test views.
        seed: Of the randomness.

    Raises:
        ValueError: If there is no video, or an input is unknown.
    """

    def __init__(
        self,
        store: Store,
        videos: Sequence[Video],
        *,
        inputs: Sequence[str] = INPUTS,
        clip: ClipSettings,
        augment: bool,
        seed: int = 0,
    ) -> None:
        unknown = sorted(set(inputs) - set(INPUTS))
        if unknown or not inputs:
            raise ValueError(f"inputs must be some of {INPUTS}, got {tuple(inputs)}")
        if not videos:
            raise ValueError("a dataset needs at least one video, got none")
        check_number("seed", seed, whole=True, least=0)
        self.store = store
        self.flip_classes = store.annotations.flip_classes
        self.videos = tuple(videos)
        self.inputs = tuple(inputs)
        self.clip = clip
        self.augment = augment
        self.seed = seed
        self._kept: dict[int, DecodedVideo] = {}
        # In shared memory, so that loader processes that outlive an epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.videos)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose randomness the next items have."""
        self._epoch.fill_(epoch)

    @property
    def mirrored_views(self) -> tuple[bool, ...]:
        """Whether each of the V views of a test video is a mirror image."""
        return tuple(crop.mirrored for crop in self._test_crops(1, 1)) * self.clip.clips

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.batch([index]).items()}

    def batch(
        self,
        indices: Sequence[int],
        *,
        resized: bool = True,
        memory: Memory = _new_memory,
    ) -> dict[str, Tensor]:
        """Items stacked to a batch; every crop is written straight to its place in it.

        Args:
            indices: The items.
            resized: False leaves it to `transforms.model_inputs` to resize and mirror augmented
                items: ``rgb`` (B, T, 3, H, W) and ``flow`` (B, T, 2L, H, W) have each item's crop
                as it was cut in the corner at the top left, H and W are those of the largest, what
                lies beyond a crop is undefined, and ``rows``, ``columns`` and ``mirrored``
                (`transforms.sampling`) tell the rest.
            memory: Gives an input of a name and shape the uint8 memory that it is written to.
        """
        clips = [self._choose(index) for index in indices]
        batch = {
            "label": torch.tensor([clip.label for clip in clips]),
            "index": torch.tensor(list(indices)),
        }
        if self.augment and not resized:
            batch |= sampling([clip.crops[0] for clip in clips], self.clip.crop_size)
            clips = [clip.as_cut() for clip in clips]
        for kind in self.inputs:
            batch[kind] = self._images(kind, clips, memory)
        return batch

    def _choose(self, index: int) -> _Clips:
        """Chooses where and how the clips of one video are taken."""
        place = index % len(self.videos)
        video, clip, label = self._decoded(place), self.clip, self.videos[place].label
        sides = (clip.crop_size, clip.crop_size)
        if not self.augment:
            positions = clip_positions(
                video.positions, clip.segments, stride=clip.stride, clips=clip.clips
            )
            crops = self._test_crops(video.height, video.width)
            return _Clips(video, positions, crops, sides, label)
        rng = np.random.default_rng((CLIP_STREAM, self.seed, int(self._epoch), index))
        positions = clip_positions(video.positions, clip.segments, stride=clip.stride, rng=rng)
        crop = training_crop(
            video.height,
            video.width,
            size=clip.crop_size,
            scales=clip.scales,
            flip=clip.flip,
            rng=rng,
        )
        if crop.mirrored:
            label = self.flip_classes[label]
        return _Clips(video, positions, [crop], sides, label)

    def _decoded(self, index: int) -> DecodedVideo:
        if index in self._kept:
            return self._kept[index]
        video = DecodedVideo(
            self.store.record(self.videos[index].name),
            flow_length=self.clip.flow_length,
            kept_bytes=KEPT_BYTES // len(self),
        )
        if video.is_kept:
            self._kept[index] = video
        return video

    def _test_crops(self, height: int, width: int) -> list[Crop]:
        clip = self.clip
        return test_crops(height, width, size=clip.crop_size, scales=clip.scales, crops=clip.crops)

    def _images(self, kind: str, clips: Sequence[_Clips], memory: Memory) -> Tensor:
        """Decodes each image once, to (B, T, C, H, W), or (B, V, T, C, H, W) with several views."""
        height, width = np.max([clip.sides for clip in clips], axis=0).tolist()
        image = (height, width, 3) if kind == "rgb" else (2 * self.clip.flow_length, height, width)
        count, segments = clips[0].positions.shape
        batch = memory(kind, (len(clips), count, len(clips[0].crops), segments, *image))
        pictures = batch.numpy()
        if kind == "rgb":
            pictures = pictures[..., None, :, :, :]  # one image, where a stack has 2L
            batch = batch.movedim(-1, -3)
        for one, images in zip(clips, pictures, strict=True):
            height, width = one.sides
            for k, t in product(range(count), range(segments)):
                out = images[k, :, t, :, :height, :width]
                one.video.cut(kind, int(one.positions[k, t]), one.crops, out)
        batch = batch.flatten(1, 2)
        return batch[:, 0] if batch.shape[1] == 1 else batch


def make_loader(
    data: ClipDataset, batches: Iterable[list[int]], *, device: torch.device, workers: int
) -> "DataLoader[dict[str, Tensor]]":
    """Loads the batches in their order; each new iteration reads `batches` again.

    The ``rgb`` and ``flow`` of a batch from a loader process are valid until the next batch is
    taken or a new iteration begins: then their memory is another batch's. Copies that
    `study.data.clips.transforms.model_inputs` makes stay.

    Args:
        data: The clips.
        batches: Indices of each batch.
        device: Where the batches will go. For a GPU they are put in pinned memory, and augmented
            items are only cut: `transforms.model_inputs` resizes and mirrors them there.
        workers: Processes that load and stay for all iterations, each with `PREFETCH` + 1 batches
            of shared memory; 0 loads in this one.
    """
    if workers > 0:
        _one_thread()  # a process that is forked while OpenCV has threads hangs in OpenCV
    cuda = device.type == "cuda"
    return DataLoader(
        _Batches(data, resized=not cuda),
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers > 0 else None,
        persistent_workers=workers > 0,
        pin_memory=cuda,
        worker_init_fn=_one_thread,
        collate_fn=_as_it_is,
    )


class _Batches(Dataset[dict[str, Tensor]]):
    """Batches of a dataset; those of a loader process are in memory that it shares and reuses.

    New shared memory for each batch would cost a quarter of the loader's time: the system clears
    each page when it is first written. A process gets its next batch to make when the oldest of
    the `PREFETCH` before it is taken, so with one piece of memory more than that, it
    never writes to a batch that waits or is in use.
    """

    def __init__(self, data: ClipDataset, *, resized: bool) -> None:
        self._data = data
        self._resized = resized
        self._pieces: list[dict[str, Tensor]] = [{} for _ in range(PREFETCH + 1)]

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        if get_worker_info() is None:
            return self._data.batch(indices, resized=self._resized)
        batch = self._data.batch(indices, resized=self._resized, memory=self._shared_memory)
        self._pieces.append(self._pieces.pop(0))
        return {
            name: values if name in INPUTS else _InMessage(values) for name, values in batch.items()
        }

    def _shared_memory(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        piece, size = self._pieces[0], math.prod(shape)
        if kind not in piece or len(piece[kind]) < size:
            piece.pop(kind, None)  # its memory is free before more is asked for
            storage = torch.UntypedStorage._new_shared(size)
            piece[kind] = torch.empty(0, dtype=torch.uint8).set_(storage)
        return piece[kind][:size].view(shape)


class _InMessage:
    """A small tensor, sent in the message itself instead of in shared memory of its own."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.numpy()

    def __reduce__(self) -> tuple[Callable[[NDArray[Any]], Tensor], tuple[NDArray[Any]]]:
        return torch.from_numpy, (self._values,)


def _as_it_is(batch: Any) -> Any:
    return batch


def _one_thread(worker: int = 0) -> None:
    cv2.setNumThreads(1)
