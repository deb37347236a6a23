"""A user's own dataset: a folder of videos with their lists, or with a folder for each class."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

from study.data.datasets.annotations import Annotations, Split, Video
from study.data.datasets.groups import compile_group, group_of, leave_one_group_out
from study.data.datasets.list_files import ListFiles
from study.data.datasets.own_lists import TEST_FRACTION, read_own_lists
from study.data.datasets.reader import register_dataset
from study.data.datasets.validation import carve_validation
from study.data.video.files import VIDEO_SUFFIXES

__all__ = ["annotate"]

NAME = re.compile(r"[^\W_][\w.+-]{0,49}")


@register_dataset(
    "folder", title="folder", needs=("videos",), takes=("lists", "group", "name", "report")
)
def annotate(
    videos: Path,
    lists: ListFiles | None = None,
    group: str | None = None,
    name: str | None = None,
    report: Callable[[str], None] = warnings.warn,
) -> Annotations:
    """Takes classes and splits from lists, or the folders' names as classes.

    Args:
        videos: The folder. Without lists, its hidden folders, and files that are no videos, don't
            count.
        lists: The lists, see `study.data.datasets.own_lists`.
        group: A regular expression whose first capture group, searched in a video's file name
            without suffix (of lists: its path without suffix), names what it belongs to. Unless
            lists say the parts, each such group makes a split that tests on it and trains on the
            others. Without it there is one split "1" that tests on 30 % of each class.
        name: The dataset's name; "folder" without it.
        report: Receives what is passed over in lists, a sentence for each kind.

    Raises:
        FileNotFoundError: If a list is missing.
        ValueError: If the name is none that a dataset may have, there are no classes, a class has
            no videos, two videos have one name, the pattern doesn't fit, or lists are refused.
    """
    if name is not None and not NAME.fullmatch(name):
        raise ValueError(
            "a dataset's name begins with a letter or digit and has at most 50 letters, digits "
            f"and . _ + -, but got {name!r}; give another --name"
        )
    pattern = compile_group(group) if group is not None else None
    if lists is not None:
        classes, splits = read_own_lists(videos, lists, pattern, report)
    else:
        classes, splits = _read_folders(videos, pattern)
    return Annotations(
        dataset=name or "folder",
        classes=classes,
        splits=splits,
        flip_classes=tuple(range(len(classes))),
    )


def _read_folders(
    videos: Path, pattern: re.Pattern[str] | None
) -> tuple[tuple[str, ...], dict[str, Split]]:
    classes = tuple(sorted(entry.name for entry in videos.iterdir() if _is_visible_folder(entry)))
    if not classes:
        raise ValueError(f"{videos} has no class folders: expected {videos}/<class>/<video>")
    found = [
        video
        for label, class_name in enumerate(classes)
        for video in _class_videos(videos / class_name, label, pattern)
    ]
    if pattern is not None:
        return classes, leave_one_group_out(found, pattern)
    train, test = carve_validation(found, fraction=TEST_FRACTION, seed=0)
    return classes, {"1": Split(name="1", train=train, test=test)}


def _class_videos(folder: Path, label: int, pattern: re.Pattern[str] | None) -> list[Video]:
    videos: dict[str, Video] = {}
    for entry in sorted(folder.iterdir()):
        is_frames = _is_visible_folder(entry)
        if not is_frames and entry.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        stem = entry.name if is_frames else entry.stem
        name = f"{folder.name}/{stem}"
        if stem in videos:
            raise ValueError(f"{entry} and {videos[stem].path} have one name: expected one of them")
        videos[stem] = Video(
            name=name,
            path=f"{folder.name}/{entry.name}",
            label=label,
            group=name if pattern is None else group_of(stem, pattern, entry),
        )
    if not videos:
        raise ValueError(
            f"class folder {folder} has no videos: expected files named "
            f"{', '.join(sorted(VIDEO_SUFFIXES))} or folders of frames"
        )
    return list(videos.values())


def _is_visible_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))
