"""What is known of a dataset before a video is opened: names, labels, groups, splits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Annotations", "Split", "Video", "mirror_classes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """One video of a dataset.

    Attributes:
        name: "<class>/<stem>", without suffix; unique within the dataset.
        path: Path below the videos folder, with "/" between its parts. A dataset whose releases
            come in several containers gives no suffix: `study.data.video.files` finds the file.
        label: Index into the dataset's classes.
        group: The source that the video was cut from. Videos of one group resemble each other, so a
            split that is carved never parts them.
    """

    name: str
    path: str
    label: int
    group: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One division of a dataset into videos to train on, perhaps to validate on, and to test on.

    Attributes:
        name: "1", "2", "3" for official splits; the group left out for leave-one-group-out.
        train: Videos to train on, in the order of the official list.
        test: Videos to test on, in the order of the official list.
        validation: Videos to validate on where the lists name them; otherwise they are carved out
            of `train`, see `study.data.datasets.parts`.
    """

    name: str
    train: tuple[Video, ...]
    test: tuple[Video, ...]
    validation: tuple[Video, ...] = ()

    @property
    def parts(self) -> dict[str, tuple[Video, ...]]:
        """The listed parts by name: train, validation where it is named, test."""
        named = {"validation": self.validation} if self.validation else {}
        return {"train": self.train, **named, "test": self.test}

    @property
    def videos(self) -> tuple[Video, ...]:
        """The videos of all parts."""
        return (*self.train, *self.validation, *self.test)


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """All that a dataset's official files say, existing videos or not.

    Attributes:
        dataset: The dataset's name in the catalog.
        classes: Class names; a label is an index into them.
        splits: The dataset's splits by name.
        flip_classes: For each label, the label of the video's mirror image (left and right
            swapped); the identity where a dataset's classes know no left and right.
        class_groups: For each class name, the group of classes that it is reported under; empty
            where a dataset has none.
    """

    dataset: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    flip_classes: tuple[int, ...]
    class_groups: dict[str, str] = field(default_factory=dict)

    @property
    def has_groups(self) -> bool:
        """Whether some video's group has another name than the video itself."""
        return any(
            video.group != video.name for split in self.splits.values() for video in split.videos
        )


_MIRRORED = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}
_MIRRORED |= {word.title(): mirrored.title() for word, mirrored in _MIRRORED.items()}


def mirror_classes(classes: Sequence[str]) -> tuple[int, ...]:
    """Returns the label of each class's mirror image, read from the names.

    "left" and "right" change places, and so do "clockwise" and "counterclockwise" (ours: a mirror
    turns one into the other). A class whose mirrored name is no class is its own mirror image.
    """
    labels = {name: label for label, name in enumerate(classes)}
    return tuple(labels.get(_mirror_name(name), label) for label, name in enumerate(classes))


def _mirror_name(name: str) -> str:
    return re.sub(r"[^\W_]+", lambda word: _MIRRORED.get(word[0], word[0]), name)
