"""UCF101 (Soomro, Zamir and Shah, "UCF101: A dataset of 101 human action classes", 2012)."""

import re
from pathlib import Path

from study.data.datasets.annotations import Annotations, Split, Video
from study.data.datasets.lists import bad_line, check_classes, check_inside, make_split, read_lines
from study.data.datasets.reader import register_dataset

__all__ = ["annotate"]


@register_dataset("ucf101", title="UCF101", needs=("splits",))
def annotate(splits: Path) -> Annotations:
    """Reads the three splits from `classInd.txt`, `trainlist01.txt`, `testlist01.txt` and so on.

    Clips of one class with the same `gXX` were cut from one source video: they are one group.
    """
    classes = _read_classes(splits / "classInd.txt")
    labels = {name: label for label, name in enumerate(classes)}
    known: dict[str, Video] = {}
    read: dict[str, Split] = {}
    for name in ("1", "2", "3"):
        train, test = (
            [
                _parse_video(*line, labels, known)
                for line in read_lines(splits / f"{part}0{name}.txt")
            ]
            for part in ("trainlist", "testlist")
        )
        read[name] = make_split(name, train, test, splits)
    return Annotations(
        dataset="ucf101",
        classes=classes,
        splits=read,
        flip_classes=tuple(range(len(classes))),
    )


def _read_classes(path: Path) -> tuple[str, ...]:
    classes: list[str] = []
    for file, number, line in read_lines(path):
        fields = line.split()
        if len(fields) != 2 or fields[0] != str(len(classes) + 1):
            raise bad_line(file, number, line, f'"{len(classes) + 1} <class name>"')
        classes.append(fields[1])
    return check_classes(classes, path)


def _parse_video(
    file: Path, number: int, line: str, labels: dict[str, int], known: dict[str, Video]
) -> Video:
    path, *numbers = line.split()
    check_inside(path, file, number)
    class_name, _, clip = path.partition("/")
    match = re.fullmatch(r"(.*_g(\d+)_c\d+)\.\w+", clip)
    if class_name not in labels or not match:
        raise bad_line(
            file, number, line, '"<class>/v_<class>_gXX_cXX.avi" with a class of classInd.txt'
        )
    label = labels[class_name]
    if numbers not in ([], [str(label + 1)]):
        raise bad_line(file, number, line, f'the class number "{label + 1}" of classInd.txt')
    if path not in known:
        known[path] = Video(
            name=f"{class_name}/{match[1]}",
            path=path,
            label=label,
            group=f"{class_name}_g{match[2]}",
        )
    return known[path]
