"""Something-Something v1 and v2 (Goyal et al., "The something something video database", 2017)."""

from pathlib import Path

from study.data.datasets.annotations import Annotations, Video
from study.data.datasets.lists import (
    bad_line,
    check_classes,
    mirrored_annotations,
    numbered_videos,
    read_json,
    read_lines,
    read_numbered,
)
from study.data.datasets.reader import register_dataset

__all__ = ["annotate_v1", "annotate_v2"]


@register_dataset("something_v1", title="Something v1", needs=("splits",))
def annotate_v1(splits: Path) -> Annotations:
    """Reads `something-something-v1-{labels,train,validation}.csv`."""
    return read_numbered("something_v1", splits, "something-something-v1")


@register_dataset("something_v2", title="Something v2", needs=("splits",))
def annotate_v2(splits: Path) -> Annotations:
    """Reads `something-something-v2-{labels,train,validation}.json`.

    A video's class is its template without the brackets. Where the release's train list is
    missing, the field's `train_list.txt` (`<number> <frames> <label>`, numbered as the labels
    file numbers the classes) takes its place.
    """
    prefix = "something-something-v2"
    classes = _read_numbered_classes(splits / f"{prefix}-labels.json")
    labels = {name: label for label, name in enumerate(classes)}
    official, frame_list = splits / f"{prefix}-train.json", splits / "train_list.txt"
    if official.exists() or not frame_list.exists():
        train = _read_templates(official, labels)
    else:
        train = _read_frame_list(frame_list, classes)
    test = _read_templates(splits / f"{prefix}-validation.json", labels)
    return mirrored_annotations("something_v2", classes, train, test, splits)


def _read_numbered_classes(path: Path) -> tuple[str, ...]:
    numbers = read_json(path)
    expected = 'an object {"<class name>": "<number>", …} numbered from 0'
    try:
        classes = sorted(numbers, key=lambda name: int(numbers[name]))
        complete = [int(numbers[name]) for name in classes] == list(range(len(classes)))
    except (TypeError, ValueError):
        complete = False
    if not complete:
        raise ValueError(f"{path}: expected {expected}")
    return check_classes(classes, path)


def _read_templates(path: Path, labels: dict[str, int]) -> list[Video]:
    entries = read_json(path)
    expected = 'a list of {"id": "<number>", "template": "<class with [something]>", …}'
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected {expected}")
    try:
        rows = [
            (number, entry["id"], entry["template"].replace("[", "").replace("]", ""))
            for number, entry in enumerate(entries, start=1)
        ]
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{path}: expected {expected}") from None
    return numbered_videos(path, rows, labels, f"{expected} of a known class", unit="entry")


def _read_frame_list(path: Path, classes: tuple[str, ...]) -> list[Video]:
    expected = f'"<number> <frames> <label>" with a label of 0 to {len(classes) - 1}'
    labels = {str(label): label for label in range(len(classes))}
    rows = []
    for file, number, line in read_lines(path):
        fields = line.split()
        if len(fields) != 3 or fields[2] not in labels:
            raise bad_line(file, number, line, expected)
        rows.append((number, fields[0], classes[labels[fields[2]]]))
    return numbered_videos(
        path, rows, {name: label for label, name in enumerate(classes)}, expected
    )
