"""A user's own dataset: a folder with a folder of videos for each class."""

import re
from pathlib import Path

from study.data.datasets.annotations import Annotations, Split, Video
from study.data.datasets.reader import register_dataset
from study.data.datasets.validation import carve_validation
from study.data.video.files import VIDEO_SUFFIXES, natural_key

__all__ = ["annotate"]

NAME = re.compile(r"[^\W_][\w.+-]{0,49}")


@register_dataset("folder", title="folder", needs=("videos",), takes=("group", "name"))
def annotate(videos: Path, group: str | None = None, name: str | None = None) -> Annotations:
    """Takes the folders' names as classes, and divides the videos that are in them.

    Args:
        videos: The folder. Its hidden folders, and files that are no videos, don't count.
        group: A regular expression whose first capture group, searched in a video's file name
            without suffix, names what it belongs to. Each such group makes a split that tests on
            it and trains on the others. Without it there is one split "1" that tests on 30 % of
            each class.
        name: The dataset's name; "folder" without it.

    Raises:
        ValueError: If the name is none that a dataset may have, there are no classes, a class has
            no videos, two videos have one name, or the pattern doesn't fit.
    """
    if name is not None and not NAME.fullmatch(name):
        raise ValueError(
            "a dataset's name begins with a letter or digit and has at most 50 letters, digits "
            f"and . _ + -, but got {name!r}; give another --name"
        )
    classes = sorted(entry.name for entry in videos.iterdir() if _is_visible_folder(entry))
    if not classes:
        raise ValueError(f"{videos} has no class folders: expected {videos}/<class>/<video>")
    pattern = _compile_group(group) if group is not None else None
    found = [
        video
        for label, class_name in enumerate(classes)
        for video in _class_videos(videos / class_name, label, pattern)
    ]
    if pattern is not None:
        splits = _leave_one_group_out(found, pattern)
    else:
        train, test = carve_validation(found, fraction=0.3, seed=0)
        splits = {"1": Split(name="1", train=train, test=test)}
    return Annotations(
        dataset=name or "folder",
        classes=tuple(classes),
        splits=splits,
        flip_classes=tuple(range(len(classes))),
    )


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
            group=name if pattern is None else _group_of(stem, pattern, entry),
        )
    if not videos:
        raise ValueError(
            f"class folder {folder} has no videos: expected files named "
            f"{', '.join(sorted(VIDEO_SUFFIXES))} or folders of frames"
        )
    return list(videos.values())


def _is_visible_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))


def _compile_group(group: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ValueError(f'group "{group}" is no regular expression: {error}') from None
    if pattern.groups < 1:
        raise ValueError(
            f'group "{group}" captures nothing: expected parentheses around the part of a file '
            'name that names its group, such as "^([^_]+)_"'
        )
    return pattern


def _group_of(stem: str, pattern: re.Pattern[str], path: Path) -> str:
    match = pattern.search(stem)
    if match is None or not match[1]:
        raise ValueError(f'group "{pattern.pattern}" finds no group in "{stem}" of {path}')
    return match[1]


def _leave_one_group_out(videos: list[Video], pattern: re.Pattern[str]) -> dict[str, Split]:
    groups = sorted({video.group for video in videos}, key=natural_key)
    if len(groups) < 2:
        raise ValueError(
            f'group "{pattern.pattern}" puts all {len(videos)} videos into one group, '
            f'"{groups[0]}": expected at least two to leave one out'
        )
    return {
        name: Split(
            name=name,
            train=tuple(video for video in videos if video.group != name),
            test=tuple(video for video in videos if video.group == name),
        )
        for name in groups
    }
