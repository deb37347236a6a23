"""Readers of the datasets' official split files, and the validation part that we carve from train.

Each reader takes the folder of split files as the dataset's release lays them out and names every
video that they list, whether it exists or not. A line that can't be understood is a `ValueError`
with its file, its number and what was expected there; a missing file is a `FileNotFoundError`.
"""

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from study.data.datasets.annotations import Annotations, Split, Video

__all__ = [
    "carve_validation",
    "mirror_classes",
    "read_hmdb51",
    "read_jester",
    "read_kinetics400",
    "read_something_v1",
    "read_something_v2",
    "read_ucf101",
]


def carve_validation(
    videos: Sequence[Video], *, fraction: float = 0.2, seed: int = 0
) -> tuple[tuple[Video, ...], tuple[Video, ...]]:
    """Divides videos into train and validation so that no group is in both.

    Groups are visited in an order drawn from `seed`, the classes of fewest groups first; a group
    goes to validation where that brings its classes closer to `fraction` of their videos. A class
    that is left without validation videos then gets its best fitting group. The last training
    group of a class never leaves train, so each class of at least two groups is in both parts
    (as far as groups that span several classes allow it), and a class of one group only in train.

    Args:
        videos: Videos to divide; their order doesn't matter to which part they go.
        fraction: Share of each class's videos to hold out, between 0 and 1.
        seed: Draws another division.

    Returns:
        Train and validation videos, each in the order of `videos`.

    Raises:
        ValueError: `fraction` isn't between 0 and 1, or no group can be spared.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, but got {fraction}")
    members: dict[str, dict[int, int]] = {}  # group -> label -> videos
    for video in videos:
        labels = members.setdefault(video.group, {})
        labels[video.label] = labels.get(video.label, 0) + 1
    held_out = _choose_groups(members, fraction, np.random.default_rng(seed))
    if not held_out:
        raise ValueError(
            f"no validation part can be carved from {len(videos)} videos in {len(members)} "
            "groups: no class has two groups (source videos) to divide"
        )
    train = tuple(video for video in videos if video.group not in held_out)
    validation = tuple(video for video in videos if video.group in held_out)
    return train, validation


def _choose_groups(
    members: dict[str, dict[int, int]], fraction: float, rng: np.random.Generator
) -> set[str]:
    names = sorted(members)
    order = [names[i] for i in rng.permutation(len(names))]
    groups_of: defaultdict[int, list[str]] = defaultdict(list)
    missing: defaultdict[int, float] = defaultdict(float)  # videos that validation still lacks
    for group in order:
        for label, count in members[group].items():
            groups_of[label].append(group)
            missing[label] += fraction * count
    left_in_train = {label: len(groups) for label, groups in groups_of.items()}
    held_out: set[str] = set()
    covered: set[int] = set()

    def can_leave(group: str) -> bool:
        return group not in held_out and all(left_in_train[y] > 1 for y in members[group])

    def cost(group: str) -> float:
        """How much the squared distance to the wanted counts grows if the group is held out."""
        return sum(n * n - 2 * n * missing[label] for label, n in members[group].items())

    def hold_out(group: str) -> None:
        held_out.add(group)
        for label, count in members[group].items():
            missing[label] -= count
            left_in_train[label] -= 1
            covered.add(label)

    rarest_first = sorted(groups_of, key=lambda label: (len(groups_of[label]), label))
    for label in rarest_first:
        for group in groups_of[label]:
            if missing[label] > 0 and can_leave(group) and cost(group) < 0:
                hold_out(group)
    for label in rarest_first:
        candidates = [] if label in covered else list(filter(can_leave, groups_of[label]))
        if candidates:
            hold_out(min(candidates, key=cost))
    return held_out


def mirror_classes(classes: Sequence[str]) -> tuple[int, ...]:
    """The label of each class's mirror image, read from the names.

    "left" and "right" change places, and so do "clockwise" and "counterclockwise" (ours: a mirror
    turns one into the other). A class whose mirrored name is no class is its own mirror image.
    """
    labels = {name: label for label, name in enumerate(classes)}
    return tuple(labels.get(_mirror_name(name), label) for label, name in enumerate(classes))


_MIRRORED = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}
_MIRRORED |= {word.title(): mirrored.title() for word, mirrored in _MIRRORED.items()}


def _mirror_name(name: str) -> str:
    return re.sub(r"\w+", lambda word: _MIRRORED.get(word[0], word[0]), name)


def read_ucf101(folder: Path) -> Annotations:
    """UCF101's three splits: `classInd.txt`, `trainlist01.txt`, `testlist01.txt`, …

    Clips of one class with the same `gXX` were cut from one source video: they are one group.
    """
    classes = _read_ucf101_classes(folder / "classInd.txt")
    labels = {name: label for label, name in enumerate(classes)}
    known: dict[str, Video] = {}
    splits = {}
    for name in ("1", "2", "3"):
        train, test = (
            [_ucf101_video(*line, labels, known) for line in _lines(folder / f"{part}0{name}.txt")]
            for part in ("trainlist", "testlist")
        )
        splits[name] = _make_split(name, train, test, folder)
    return Annotations(
        dataset="ucf101",
        classes=classes,
        splits=splits,
        flip_classes=tuple(range(len(classes))),
    )


def _read_ucf101_classes(path: Path) -> tuple[str, ...]:
    classes: list[str] = []
    for file, number, line in _lines(path):
        fields = line.split()
        if len(fields) != 2 or fields[0] != str(len(classes) + 1):
            raise _bad_line(file, number, line, f'"{len(classes) + 1} <class name>"')
        classes.append(fields[1])
    return _checked_classes(classes, path)


def _ucf101_video(
    file: Path, number: int, line: str, labels: dict[str, int], known: dict[str, Video]
) -> Video:
    path, *numbers = line.split()
    _check_inside(path, file, number)
    class_name, _, clip = path.partition("/")
    match = re.fullmatch(r"(.*_g(\d+)_c\d+)\.\w+", clip)
    if class_name not in labels or not match:
        raise _bad_line(
            file, number, line, '"<class>/v_<class>_gXX_cXX.avi" with a class of classInd.txt'
        )
    label = labels[class_name]
    if numbers not in ([], [str(label + 1)]):
        raise _bad_line(file, number, line, f'the class number "{label + 1}" of classInd.txt')
    if path not in known:
        known[path] = Video(
            name=f"{class_name}/{match[1]}",
            path=path,
            label=label,
            group=f"{class_name}_g{match[2]}",
        )
    return known[path]


def read_hmdb51(folder: Path) -> Annotations:
    """HMDB51's three splits: `<class>_test_split<1|2|3>.txt`, lines of file name and flag.

    Flag 1 is train, 2 is test, 0 is unused in that split. Clips cut from one film share what their
    names have before `_<class>_`: they are one group, also across classes.
    """
    files = {path.name: path for path in sorted(folder.glob("*_test_split[123].txt"))}
    classes = tuple(sorted({name.rpartition("_test_split")[0] for name in files}))
    if not classes:
        raise FileNotFoundError(
            f"no HMDB51 split files in {folder}: expected <class>_test_split1.txt, "
            "…_split2.txt and …_split3.txt for each class"
        )
    known: dict[str, Video] = {}
    splits = {}
    for name in ("1", "2", "3"):
        parts: dict[str, list[Video]] = {"0": [], "1": [], "2": []}
        for label, class_name in enumerate(classes):
            for line in _lines(folder / f"{class_name}_test_split{name}.txt"):
                flag, video = _hmdb51_video(*line, class_name, label, known)
                parts[flag].append(video)
        splits[name] = _make_split(name, parts["1"], parts["2"], folder)
    return Annotations(
        dataset="hmdb51",
        classes=classes,
        splits=splits,
        flip_classes=tuple(range(len(classes))),
    )


def _hmdb51_video(
    file: Path, number: int, line: str, class_name: str, label: int, known: dict[str, Video]
) -> tuple[str, Video]:
    clip, _, flag = line.rpartition(" ")
    clip = clip.rstrip()
    source, found, _ = clip.rpartition(f"_{class_name}_")
    if flag not in ("0", "1", "2") or not found:
        raise _bad_line(
            file,
            number,
            line,
            f'"<source>_{class_name}_<properties>.avi <flag>" with flag 0 (unused), 1 (train) '
            "or 2 (test)",
        )
    _check_inside(clip, file, number)
    path = f"{class_name}/{clip}"
    if path not in known:
        known[path] = Video(
            name=path.rpartition(".")[0] or path, path=path, label=label, group=source
        )
    return flag, known[path]


def read_kinetics400(folder: Path) -> Annotations:
    """Kinetics-400: `train.csv` to train on and `validate.csv` to test on, as split "1".

    The labels of the official test list were withheld for long, so the field reports the
    validation list. Classes are those of `label_map_k400.txt`. A clip is named
    `<id>_<start>_<end>` with six digits each, whatever its container; its group is the id.
    """
    classes = _read_class_names(folder / "label_map_k400.txt")
    labels = {name: label for label, name in enumerate(classes)}
    train = _read_kinetics_list(folder / "train.csv", labels)
    test = _read_kinetics_list(folder / "validate.csv", labels)
    return Annotations(
        dataset="kinetics400",
        classes=classes,
        splits={"1": _make_split("1", train, test, folder)},
        flip_classes=tuple(range(len(classes))),
    )


def _read_kinetics_list(path: Path, labels: dict[str, int]) -> list[Video]:
    columns = ("label", "youtube_id", "time_start", "time_end")
    lines = csv.reader(_text(path).splitlines())
    header = next(lines, [])
    if not set(columns) <= set(header):
        raise _bad_line(path, 1, ",".join(header), f'a header with "{",".join(columns)}"')
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
            raise _bad_line(
                path,
                lines.line_num,
                ",".join(row),
                f'"{",".join(header)}" with a class of label_map_k400.txt, an id of letters, '
                "digits, - and _, and whole seconds",
            ) from None
        videos.append(Video(name=name, path=name, label=label, group=youtube_id))
    return videos


def read_something_v1(folder: Path) -> Annotations:
    """Something-Something v1: `something-something-v1-{labels,train,validation}.csv`."""
    return _read_numbered("something_v1", folder, "something-something-v1")


def read_jester(folder: Path) -> Annotations:
    """Jester: `jester-v1-{labels,train,validation}.csv`."""
    return _read_numbered("jester", folder, "jester-v1")


def _read_numbered(dataset: str, folder: Path, prefix: str) -> Annotations:
    """A dataset of `<number>;<class name>` lists; split "1" tests on the validation list."""
    classes = _read_class_names(folder / f"{prefix}-labels.csv")
    labels = {name: label for label, name in enumerate(classes)}

    def read(part: str) -> list[Video]:
        path = folder / f"{prefix}-{part}.csv"
        rows = ((number, line.rstrip().partition(";")) for _, number, line in _lines(path))
        return _numbered_videos(
            path,
            ((number, video, class_name) for number, (video, _, class_name) in rows),
            labels,
            f'"<number>;<class>" with a class of {prefix}-labels.csv',
        )

    return _mirrored_annotations(dataset, classes, read("train"), read("validation"), folder)


def read_something_v2(folder: Path) -> Annotations:
    """Something-Something v2: `something-something-v2-{labels,train,validation}.json`.

    A video's class is its template without the brackets. Where the release's train list is
    missing, the field's `train_list.txt` (`<number> <frames> <label>`, numbered as the labels
    file numbers the classes) takes its place.
    """
    prefix = "something-something-v2"
    classes = _read_numbered_classes(folder / f"{prefix}-labels.json")
    labels = {name: label for label, name in enumerate(classes)}
    official, frame_list = folder / f"{prefix}-train.json", folder / "train_list.txt"
    if official.exists() or not frame_list.exists():
        train = _read_templates(official, labels)
    else:
        train = _read_frame_list(frame_list, classes)
    test = _read_templates(folder / f"{prefix}-validation.json", labels)
    return _mirrored_annotations("something_v2", classes, train, test, folder)


def _read_numbered_classes(path: Path) -> tuple[str, ...]:
    numbers = _json(path)
    expected = 'an object {"<class name>": "<number>", …} numbered from 0'
    try:
        classes = sorted(numbers, key=lambda name: int(numbers[name]))
        complete = [int(numbers[name]) for name in classes] == list(range(len(classes)))
    except (TypeError, ValueError):
        complete = False
    if not complete:
        raise ValueError(f"{path}: expected {expected}")
    return _checked_classes(classes, path)


def _read_templates(path: Path, labels: dict[str, int]) -> list[Video]:
    entries = _json(path)
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
    return _numbered_videos(path, rows, labels, f"{expected} of a known class", unit="entry")


def _read_frame_list(path: Path, classes: tuple[str, ...]) -> list[Video]:
    expected = f'"<number> <frames> <label>" with a label of 0 to {len(classes) - 1}'
    labels = {str(label): label for label in range(len(classes))}
    rows = []
    for file, number, line in _lines(path):
        fields = line.split()
        if len(fields) != 3 or fields[2] not in labels:
            raise _bad_line(file, number, line, expected)
        rows.append((number, fields[0], classes[labels[fields[2]]]))
    return _numbered_videos(
        path, rows, {name: label for label, name in enumerate(classes)}, expected
    )


def _numbered_videos(
    path: Path,
    rows: Iterable[tuple[int, str, str]],
    labels: dict[str, int],
    expected: str,
    unit: str = "line",
) -> list[Video]:
    """Videos from (line, number, class name) rows; each was filmed by itself: its own group."""
    videos = []
    for line, number, class_name in rows:
        if not (isinstance(number, str) and number.isdecimal() and class_name in labels):
            raise _bad_line(path, line, f"{number};{class_name}", expected, unit)
        videos.append(
            Video(
                name=f"{class_name}/{number}", path=number, label=labels[class_name], group=number
            )
        )
    return videos


def _mirrored_annotations(
    dataset: str, classes: tuple[str, ...], train: list[Video], test: list[Video], folder: Path
) -> Annotations:
    return Annotations(
        dataset=dataset,
        classes=classes,
        splits={"1": _make_split("1", train, test, folder)},
        flip_classes=mirror_classes(classes),
    )


def _make_split(name: str, train: list[Video], test: list[Video], folder: Path) -> Split:
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


def _read_class_names(path: Path) -> tuple[str, ...]:
    return _checked_classes([line for _, _, line in _lines(path)], path)


def _checked_classes(classes: Sequence[str], path: Path) -> tuple[str, ...]:
    """Class names are folder names as well, so a separator in one is refused."""
    if not classes:
        raise ValueError(f"{path}: expected class names, but it is empty")
    for name, count in Counter(classes).items():
        if count > 1 or "/" in name or name in (".", ".."):
            raise ValueError(
                f'{path}: class name "{name}" is listed {count} times: expected each once, '
                "without a slash"
            )
    return tuple(classes)


def _lines(path: Path) -> Iterator[tuple[Path, int, str]]:
    """The file's lines that aren't blank, with the file and their numbers, stripped."""
    for number, line in enumerate(_text(path).splitlines(), start=1):
        stripped = line.strip()
        if stripped:
            yield path, number, stripped


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}: expected {path.name} in {path.parent}")
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, but byte {error.start} is not") from None


def _check_inside(path: str, file: Path, number: int) -> None:
    parts = path.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        raise _bad_line(file, number, path, "a path that stays below the videos folder")


def _bad_line(file: Path, number: int, line: str, expected: str, unit: str = "line") -> ValueError:
    return ValueError(f'{file}, {unit} {number}: expected {expected}, but got "{line[:200]}"')
