"""The datasets that a study can name, and where their videos lie."""

import gc
import os
import re
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from study.data.datasets import embedded, official
from study.data.datasets.annotations import Annotations, Split, Video

__all__ = [
    "VIDEO_SUFFIXES",
    "Annotations",
    "Split",
    "Video",
    "annotate",
    "list_datasets",
    "resolve_video",
]

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov"),
        *("mp4", "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv"),
    )
)
"""Suffixes, in lower case, of files that count as videos."""

_OFFICIAL: dict[str, Callable[[Path], Annotations]] = {
    "ucf101": official.read_ucf101,
    "hmdb51": official.read_hmdb51,
    "kinetics400": official.read_kinetics400,
    "something_v1": official.read_something_v1,
    "something_v2": official.read_something_v2,
    "jester": official.read_jester,
}


def list_datasets() -> list[str]:
    """Names that `annotate` knows."""
    return ["embedded", *_OFFICIAL, "folder"]


def annotate(
    dataset: str,
    *,
    videos: Path | None = None,
    splits: Path | None = None,
    group: str | None = None,
) -> Annotations:
    """Reads a dataset's classes and splits. No video is opened, and missing ones are listed too.

    Args:
        dataset: One of `list_datasets()`.
        videos: Folder of the videos; only "folder" needs it here.
        splits: Folder of the official split files; "embedded" and "folder" have none.
        group: For "folder": a regular expression whose first capture group, searched in a video's
            file name without suffix, names what it belongs to. Each such group makes a split that
            tests on it and trains on the others. Without it there is one split "1" that tests on
            30 % of each class.

    Raises:
        ValueError: An unknown dataset, an argument that it doesn't take or lacks, or a list or
            folder that can't be understood.
        FileNotFoundError: A folder or a split file is missing.
    """
    if dataset not in list_datasets():
        raise ValueError(f'unknown dataset "{dataset}"; there are: {", ".join(list_datasets())}')
    if group is not None and dataset != "folder":
        raise ValueError(f'dataset "{dataset}" has its own groups: group is for "folder" alone')
    if dataset not in _OFFICIAL and splits is not None:
        raise ValueError(f'dataset "{dataset}" has no split files, but got splits={splits}')
    if dataset == "embedded":
        return embedded.annotate()
    for name, folder in (("videos", videos), ("splits", splits)):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"no {name} folder {folder}")
    if dataset == "folder":
        if videos is None:
            raise ValueError('dataset "folder" needs videos: a folder with a folder for each class')
        return _annotate_folder(videos, group)
    if splits is None:
        raise ValueError(f'dataset "{dataset}" needs splits: the folder of its official lists')
    return _read_official(dataset, splits)


def _read_official(dataset: str, splits: Path) -> Annotations:
    """Reads official lists with the garbage collector off: it would look again and again at the
    hundreds of thousands of videos made so far, which takes as long as making them."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _OFFICIAL[dataset](splits)
    finally:
        if collecting:
            gc.enable()


def _annotate_folder(folder: Path, group: str | None) -> Annotations:
    classes = sorted(entry.name for entry in folder.iterdir() if _is_visible_folder(entry))
    if not classes:
        raise ValueError(f"{folder} has no class folders: expected {folder}/<class>/<video>")
    pattern = _compile_group(group) if group is not None else None
    videos = [
        video
        for label, class_name in enumerate(classes)
        for video in _class_videos(folder / class_name, label, pattern)
    ]
    if pattern is not None:
        splits = _leave_one_group_out(videos, pattern)
    else:
        train, test = official.carve_validation(videos, fraction=0.3, seed=0)
        splits = {"1": Split(name="1", train=train, test=test)}
    return Annotations(
        dataset="folder",
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
    groups = sorted({video.group for video in videos})
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


def resolve_video(folder: Path, video: Video) -> Path | None:
    """Finds a video's file, or its folder of frames, below the videos folder.

    The listed path is taken where it exists. Otherwise the same name with any container's suffix
    counts, or a folder of that name, in these places: the listed folder (also with underscores for
    blanks), and the videos folder itself; then the same below `train`, `val`, `validation` and
    `test`. Each directory is listed once and again only after it changed.

    Returns:
        The path, or None where the video is missing.
    """
    parent, _, name = video.path.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    if f".{suffix.lower()}" not in VIDEO_SUFFIXES:
        stem = name
    for directory in _directories(folder, parent):
        names = _entries(directory).get(stem, ())
        if names:
            return directory / (name if name in names else names[0])
    return None


@lru_cache(maxsize=4096)
def _directories(folder: Path, parent: str) -> tuple[Path, ...]:
    """Where a video may lie whose listed folder is `parent`."""
    parts = (folder, *(folder / part for part in ("train", "val", "validation", "test")))
    parents = (parent, parent.replace(" ", "_"), ".")
    return tuple(dict.fromkeys(part / parent for part in parts for parent in parents))


def _entries(directory: Path) -> dict[str, tuple[str, ...]]:
    """The directory's videos by stem: files of a video suffix first, then a folder or a link."""
    try:
        status = directory.stat()
    except PermissionError:
        raise
    except OSError:  # it doesn't exist, or is a link that leads nowhere
        return {}
    if not stat.S_ISDIR(status.st_mode):
        return {}
    return _list_entries(directory, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _list_entries(directory: Path, changed: int) -> dict[str, tuple[str, ...]]:
    files: dict[str, list[str]] = {}
    folders: set[str] = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            stem, _, suffix = entry.name.rpartition(".")
            if f".{suffix.lower()}" in VIDEO_SUFFIXES:
                files.setdefault(stem, []).append(entry.name)
            elif not entry.is_file(follow_symlinks=False):
                folders.add(entry.name)
    return {
        stem: (*sorted(files.get(stem, ())), *((stem,) if stem in folders else ()))
        for stem in files.keys() | folders
    }
