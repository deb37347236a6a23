"""Where a dataset's videos lie, and in what order a folder's frames come."""

import os
import re
import stat
from functools import lru_cache
from pathlib import Path

__all__ = ["FLOW_PREFIXES", "VIDEO_SUFFIXES", "natural_key", "resolve_video"]

FLOW_PREFIXES = ("flow_x", "flow_y")
"""What names of precomputed flow begin with; such pictures may lie among a video's frames."""

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov"),
        *("mp4", "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv"),
    )
)
"""Suffixes, in lower case, of files that count as videos."""


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts names by the numbers in them: img_2 before img_10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def resolve_video(folder: Path, path: str) -> Path | None:
    """Finds a video's file, or its folder of frames, below the videos folder.

    The listed path is taken where it exists, whatever its suffix. Otherwise the same name with any
    container's suffix counts, or a folder of that name, in these places: the listed folder (also
    with underscores for blanks), and the videos folder itself; then the same below `train`, `val`,
    `validation` and `test`. Each directory is listed once and again only after it changed.

    Args:
        folder: The videos folder.
        path: The path below it that a dataset lists, with or without a suffix.

    Returns:
        The path, or None where the video is missing.
    """
    parent, _, name = path.rpartition("/")
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
    """Returns where a video may lie whose listed folder is `parent`."""
    parts = (folder, *(folder / part for part in ("train", "val", "validation", "test")))
    parents = (parent, parent.replace(" ", "_"), ".")
    return tuple(dict.fromkeys(part / parent for part in parts for parent in parents))


def _entries(directory: Path) -> dict[str, tuple[str, ...]]:
    """Lists a directory's videos by stem: files of a video suffix first, then a whole name."""
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
    found: dict[str, list[str]] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            stem, _, suffix = entry.name.rpartition(".")
            is_video = f".{suffix.lower()}" in VIDEO_SUFFIXES
            found.setdefault(stem if is_video else entry.name, []).append(entry.name)
    return {
        stem: tuple(sorted(names, key=lambda name: (name == stem, name)))
        for stem, names in found.items()
    }
