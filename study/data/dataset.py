"""Clips of a store as a torch dataset: sampled, decoded, cropped; bytes until on the device."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from study.data.annotations import Annotations, Video
from study.data.sampling import segment_positions, view_positions
from study.data.transforms import Crop, cut, test_crops, training_crop
from study.training.hyperparameters import CROPS, Hyperparameters

__all__ = ["ClipDataset", "ClipSettings", "Record", "Store", "make_loader"]

INPUTS = ("rgb", "flow")
CLIP_STREAM = 1  # the first word of an item's seed, apart from those of order and dropout


class Record(Protocol):
    """What a dataset reads of a stored video; `study.data.clip_store.ClipRecord` has it."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def positions(self) -> int: ...
    def rgb(self, position: int) -> Any: ...
    def flow(self, position: int, length: int) -> Sequence[tuple[Any, Any]]: ...


class Store(Protocol):
    """What a dataset needs of a clip store."""

    @property
    def annotations(self) -> Annotations: ...
    def record(self, name: str) -> Record: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSettings:
    """How clips are taken from a video.

    Attributes:
        segments: Segments T of a clip.
        flow_length: Flow fields L in a stack.
        crop_size: Side of a model's input in pixels.
        scales: Sides of the training crops as fractions of the short side.
        flip: Whether half of the training clips are mirrored.
        clips: Clips of a test video.
        crops: Crops of a test clip: ``centre``, ``three`` or ``ten``.
    """

    segments: int
    flow_length: int
    crop_size: int
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    clips: int = 1
    crops: str = "centre"

    def __post_init__(self) -> None:
        if self.crops not in CROPS:
            raise ValueError(f"crops must be one of {', '.join(CROPS)}, got {self.crops!r}")

    @classmethod
    def of(cls, hyperparameters: Hyperparameters, *, views: bool = False) -> "ClipSettings":
        """The settings of a training's clips: with `views` as its test scores are made, without
        as it trains and validates (one clip, one centre crop)."""
        return cls(
            segments=hyperparameters.test_segments if views else hyperparameters.segments,
            flow_length=hyperparameters.flow_length,
            crop_size=hyperparameters.crop_size,
            scales=hyperparameters.scales,
            flip=hyperparameters.flip,
            clips=hyperparameters.test_clips if views else 1,
            crops=hyperparameters.test_crops if views else "centre",
        )


class ClipDataset(Dataset[dict[str, Any]]):
    """The clips of some videos.

    An item is a dict of ``rgb`` (T, 3, S, S) uint8, ``flow`` (T, 2L, S, S) uint8 in the order x1,
    y1, x2, …, ``label`` and ``index``; inputs that aren't asked for are left out. Where the
    settings give a test video V > 1 views, ``rgb`` and ``flow`` have them in front: (V, T, …), all
    crops of the first clip, then of the next.

    Augmented items depend on the seed, the epoch and the index alone, whatever process makes
    them. An augmented item that is mirrored has the mirrored video's label.

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
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.store = store
        self.flip_classes = store.annotations.flip_classes
        self.videos = tuple(videos)
        self.inputs = tuple(inputs)
        self.clip = clip
        self.augment = augment
        self.seed = seed
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
        crops = test_crops(1, 1, size=1, crops=self.clip.crops)
        return tuple(crop.mirrored for crop in crops) * self.clip.clips

    def __getitem__(self, index: int) -> dict[str, Any]:
        video = self.videos[index]
        record = self.store.record(video.name)
        label = video.label
        if self.augment:
            rng = np.random.default_rng((CLIP_STREAM, self.seed, int(self._epoch), index))
            positions = segment_positions(record.positions, self.clip.segments, rng=rng)[None]
            crops = [self._training_crop(record, rng)]
            if crops[0].mirrored:
                label = self.flip_classes[label]
        else:
            positions = view_positions(record.positions, self.clip.segments, clips=self.clip.clips)
            crops = test_crops(
                record.height, record.width, size=self.clip.crop_size, crops=self.clip.crops
            )
        item: dict[str, Any] = {"label": label, "index": index}
        for kind in self.inputs:
            views = self._views(record, kind, positions, crops)
            item[kind] = views if len(views) > 1 else views[0]
        return item

    def _training_crop(self, record: Record, rng: np.random.Generator) -> Crop:
        return training_crop(
            record.height,
            record.width,
            size=self.clip.crop_size,
            scales=self.clip.scales,
            flip=self.clip.flip,
            rng=rng,
        )

    def _views(
        self, record: Record, kind: str, positions: NDArray[np.int64], crops: Sequence[Crop]
    ) -> Tensor:
        """(V, T, C, S, S): every crop of every clip, each image decoded once."""
        clips, segments = positions.shape
        size = self.clip.crop_size
        shape = (size, size, 3) if kind == "rgb" else (2 * self.clip.flow_length, size, size)
        views = np.empty((clips, len(crops), segments, *shape), np.uint8)
        read = self._rgb if kind == "rgb" else self._flow
        for k, clip in enumerate(positions):
            for t, position in enumerate(clip):
                read(record, int(position), crops, views[k, :, t])
        flat = torch.from_numpy(views).flatten(0, 1)
        return flat.permute(0, 1, 4, 2, 3) if kind == "rgb" else flat

    def _rgb(
        self, record: Record, position: int, crops: Sequence[Crop], out: NDArray[np.uint8]
    ) -> None:
        frame = _decode(record.rgb(position), cv2.IMREAD_COLOR_RGB, record, position)
        for crop, image in zip(crops, out, strict=True):  # image: (S, S, 3)
            cut(frame, crop, image)

    def _flow(
        self, record: Record, position: int, crops: Sequence[Crop], out: NDArray[np.uint8]
    ) -> None:
        pairs = record.flow(position, self.clip.flow_length)
        for k, data in enumerate(plane for pair in pairs for plane in pair):
            plane = _decode(data, cv2.IMREAD_GRAYSCALE, record, position)
            for crop, stack in zip(crops, out, strict=True):  # stack: (2L, S, S)
                cut(plane, crop, stack[k])
                if crop.mirrored and k % 2 == 0:
                    np.subtract(255, stack[k], out=stack[k])


def _decode(data: Any, flags: int, record: Record, position: int) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if len(data) else None
    if image is None or image.shape[:2] != (record.height, record.width):
        got = "no image" if image is None else f"{image.shape[1]}×{image.shape[0]} pixels"
        raise ValueError(
            f"clip store: position {position} of {getattr(record, 'name', 'a video')} gives "
            f"{got} instead of {record.width}×{record.height} pixels; prepare the store again"
        )
    return image


def make_loader(
    data: ClipDataset, batches: Iterable[list[int]], *, device: torch.device, workers: int
) -> "DataLoader[dict[str, Any]]":
    """Loads the batches in their order; each new iteration reads `batches` anew.

    Args:
        data: The clips.
        batches: Indices of each batch.
        device: Where the batches will go; for a GPU they are put in pinned memory.
        workers: Processes that load and stay for all iterations; 0 loads in this one.
    """
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
