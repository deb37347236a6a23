"""Kinetics-400 (Kay et al., "The Kinetics human action video dataset", 2017)."""

import csv
import re
from pathlib import Path

from study.data.datasets.annotations import Annotations, Video
from study.data.datasets.lists import bad_line, make_split, read_class_names, read_text
from study.data.datasets.reader import register_dataset

__all__ = ["annotate"]


@register_dataset("kinetics400", title="Kinetics-400", needs=("splits",))
def annotate(splits: Path) -> Annotations:
    """Reads `train.csv` to train on and `validate.csv` to test on, as split "1".

    The labels of the official test list were withheld for long, so the field reports the
    validation list. Classes are those of `label_map_k400.txt`. A clip is named
    `<id>_<start>_<end>` with six digits each, whatever its container; its group is the id.
    """
    classes = read_class_names(splits / "label_map_k400.txt")
    labels = {name: label for label, name in enumerate(classes)}
    train = _read_list(splits / "train.csv", labels)
    test = _read_list(splits / "validate.csv", labels)
    return Annotations(
        dataset="kinetics400",
        classes=classes,
        splits={"1": make_split("1", train, test, splits)},
        flip_classes=tuple(range(len(classes))),
    )


def _read_list(path: Path, labels: dict[str, int]) -> list[Video]:
    columns = ("label", "youtube_id", "time_start", "time_end")
    lines = csv.reader(read_text(path).splitlines())
    header = next(lines, [])
    if not set(columns) <= set(header):
        raise bad_line(path, 1, ",".join(header), f'a header with "{",".join(columns)}"')
    class_at, id_at, start_at, end_at = (header.index(column) for column in columns)
    safe_id = re.compile(r"[\w-]+", re.ASCII).fullmatch
    videos = []
    for row in lines:
        if not row:
            continue
        try:
            class_name, youtube_id = row[class_at], row[id_at]
            label = labels[class_name]
            if not safe_id(youtube_id):
                raise ValueError(youtube_id)
            name = f"{class_name}/{youtube_id}_{int(row[start_at]):06d}_{int(row[end_at]):06d}"
        except (IndexError, KeyError, ValueError):
            raise bad_line(
                path,
                lines.line_num,
                ",".join(row),
                f'"{",".join(header)}" with a class of label_map_k400.txt, an id of letters, '
                "digits, - and _, and whole seconds",
            ) from None
        videos.append(Video(name=name, path=name, label=label, group=youtube_id))
    return videos
