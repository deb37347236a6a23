"""Which videos of a split are trained, validated and tested on."""

from collections.abc import Container, Iterable
from dataclasses import dataclass

from study.data.datasets.annotations import Annotations, Video
from study.data.datasets.validation import carve_validation

__all__ = ["Parts", "split_parts"]

VALIDATION_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A split's videos by part, as far as the clip store has them.

    Attributes:
        train: The videos to train on.
        validation: The videos that the dataset names, or else those carved out of the listed train
            videos; none with ``train_on="all"``.
        test: The videos to test on.
        missing: How many listed videos the store doesn't have.
    """

    train: tuple[Video, ...]
    validation: tuple[Video, ...]
    test: tuple[Video, ...]
    missing: int


def split_parts(
    annotations: Annotations,
    split: str,
    *,
    stored: Container[str],
    train_on: str = "train",
    carve: int = 0,
) -> Parts:
    """Returns the train, validation and test videos of a split.

    A validation part that the dataset doesn't name is carved from the listed train videos, whether
    or not they are in the store, so that a missing video moves no other from one part to another.

    Args:
        annotations: The dataset's.
        split: The split's name.
        stored: Tells of a video's name whether the clip store has it.
        train_on: ``train`` holds the validation part out, ``all`` trains on it too.
        carve: The seed of which videos are carved.

    Raises:
        ValueError: If a part has no video left.
    """
    listed = annotations.splits[split]
    train, validation = listed.train, listed.validation
    if train_on == "all":
        train, validation = (*train, *validation), ()
    elif not validation:
        train, validation = carve_validation(train, fraction=VALIDATION_FRACTION, seed=carve)

    def present(videos: Iterable[Video]) -> tuple[Video, ...]:
        return tuple(video for video in videos if video.name in stored)

    parts = Parts(
        train=present(train),
        validation=present(validation),
        test=present(listed.test),
        missing=sum(video.name not in stored for video in listed.videos),
    )
    empty = [
        part
        for part in ("train", "validation", "test")
        if not getattr(parts, part) and not (part == "validation" and train_on == "all")
    ]
    if empty:
        raise ValueError(
            f"split {split!r} of {annotations.dataset} has no video in the "
            f"{' and '.join(empty)} part: the clip store lacks {parts.missing} of the split's "
            f"{len(listed.videos)} videos. Prepare more of them."
        )
    return parts
