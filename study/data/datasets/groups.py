"""Groups of a user's own videos, found in their names, and splits that leave one group out."""

import re
from collections.abc import Sequence

from study.data.datasets.annotations import Split, Video
from study.data.video.files import natural_key

__all__ = ["compile_group", "group_of", "leave_one_group_out"]


def compile_group(group: str) -> re.Pattern[str]:
    """Compiles the regular expression whose first capture group names a video's group.

    Raises:
        ValueError: If it is no regular expression, or captures nothing.
    """
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


def group_of(stem: str, pattern: re.Pattern[str], path: object) -> str:
    """Returns the group that the pattern finds in a video's name without suffix.

    Args:
        stem: The name.
        pattern: The pattern.
        path: Where the video is listed or lies, for the message.

    Raises:
        ValueError: If it finds none.
    """
    match = pattern.search(stem)
    if match is None or not match[1]:
        raise ValueError(f'group "{pattern.pattern}" finds no group in "{stem}" of {path}')
    return match[1]


def leave_one_group_out(videos: Sequence[Video], pattern: re.Pattern[str]) -> dict[str, Split]:
    """Returns a split for each group, named after it, that tests on it and trains on the others.

    Raises:
        ValueError: If there is one group only.
    """
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
