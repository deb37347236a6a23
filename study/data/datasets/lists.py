"""What the official lists of several datasets have in common.

A line that can't be understood is a `ValueError` with its file, its number and what was expected
there; a missing file is a `FileNotFoundError`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from study.data.datasets.annotations import Annotations, Split, Video, mirror_classes

__all__ = [
    "bad_line",
    "check_classes",
    "check_inside",
    "make_split",
    "mirrored_annotations",
    "numbered_videos",
    "read_class_names",
    "read_json",
    "read_lines",
    "read_numbered",
    "read_text",
]


def read_numbered(dataset: str, folder: Path, prefix: str) -> Annotations:
    """Reads a dataset of `<number>;<class name>` lists; split "1" tests on the validation list.

    Args:
        dataset: The dataset's name.
        folder: Folder of the lists.
        prefix: What the lists' names have before `-labels.csv`, `-train.csv`, `-validation.csv`.
    """
    classes = read_class_names(folder / f"{prefix}-labels.csv")
    labels = {name: label for label, name in enumerate(classes)}

    def read(part: str) -> list[Video]:
        path = folder / f"{prefix}-{part}.csv"
        rows = ((number, line.rstrip().partition(";")) for _, number, line in read_lines(path))
        return numbered_videos(
            path,
            ((number, video, class_name) for number, (video, _, class_name) in rows),
            labels,
            f'"<number>;<class>" with a class of {prefix}-labels.csv',
        )

    return mirrored_annotations(dataset, classes, read("train"), read("validation"), folder)


def numbered_videos(
    path: Path,
    rows: Iterable[tuple[int, str, str]],
    labels: dict[str, int],
    expected: str,
    unit: str = "line",
) -> list[Video]:
    """Returns videos from (line, number, class name) rows; each is its own group."""
    videos = []
    for line, number, class_name in rows:
        if not (isinstance(number, str) and number.isdecimal() and class_name in labels):
            raise bad_line(path, line, f"{number};{class_name}", expected, unit)
        videos.append(
            Video(
                name=f"{class_name}/{number}", path=number, label=labels[class_name], group=number
            )
        )
    return videos


def mirrored_annotations(
    dataset: str, classes: tuple[str, ...], train: list[Video], test: list[Video], folder: Path
) -> Annotations:
    """Returns one split "1" of classes whose mirror images are read from their names."""
    return Annotations(
        dataset=dataset,
        classes=classes,
        splits={"1": make_split("1", train, test, folder)},
        flip_classes=mirror_classes(classes),
    )


def make_split(name: str, train: list[Video], test: list[Video], folder: Path) -> Split:
    """Returns a split that has videos in both parts and none twice.

    Raises:
        ValueError: If it hasn't; the message names the split and the folder of its lists.
    """
    listed = {video.name for video in train}
    listed.update(video.name for video in test)
    if len(listed) < len(train) + len(test):
        counts = Counter(video.name for video in (*train, *test))
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(
            f'split {name} in {folder} lists "{twice}" more than once: expected each video once, '
            "in train or in test"
        )
    for part, videos in (("train", train), ("test", test)):
        if not videos:
            raise ValueError(f"split {name} in {folder} has no {part} videos")
    return Split(name=name, train=tuple(train), test=tuple(test))


def read_class_names(path: Path) -> tuple[str, ...]:
    """Reads a file of one class name a line, in the order of their labels."""
    return check_classes([line for _, _, line in read_lines(path)], path)


def check_classes(classes: Sequence[str], path: Path) -> tuple[str, ...]:
    """Refuses class names of which one is listed twice, or can't name a folder.

    Raises:
        ValueError: If there is such a name, or none at all.
    """
    if not classes:
        raise ValueError(f"{path}: expected class names, but it is empty")
    for name, count in Counter(classes).items():
        if count > 1 or "/" in name or name in (".", ".."):
            raise ValueError(
                f'{path}: class name "{name}" is listed {count} times: expected each once, '
                "without a slash"
            )
    return tuple(classes)


def read_lines(path: Path) -> Iterator[tuple[Path, int, str]]:
    """Yields the file, the number and the stripped text of each line that isn't blank."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        stripped = line.strip()
        if stripped:
            yield path, number, stripped


def read_json(path: Path) -> Any:
    """Reads a JSON file."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, with or without a byte order mark."""
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}: expected {path.name} in {path.parent}")
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, but byte {error.start} is not") from None


def check_inside(path: str, file: Path, number: int) -> None:
    """Refuses a video's path that leads out of the videos folder; a list is untrusted input."""
    parts = path.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        raise bad_line(file, number, path, "a path that stays below the videos folder")


def bad_line(file: Path, number: int, line: str, expected: str, unit: str = "line") -> ValueError:
    """Returns the error to raise at a line, or other unit of a file, that can't be understood."""
    return ValueError(f'{file}, {unit} {number}: expected {expected}, but got "{line[:200]}"')
