"""Something-Something as published, and what a bad file of it says."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from study.data.datasets import something
from study.data.datasets.annotations import Annotations
from tests.data.datasets.annotated import check_numbered, swapped_classes, write_files


@pytest.mark.parametrize(
    ("annotate", "name", "counts"),
    [
        (something.annotate_v1, "something_v1", (86017, 11522)),
        (something.annotate_v2, "something_v2", (168913, 24777)),
    ],
)
def test_both_versions_are_read_as_published(
    real_data: Path,
    annotate: Callable[[Path], Annotations],
    name: str,
    counts: tuple[int, int],
) -> None:
    annotations = annotate(real_data / "splits" / name)
    assert annotations.dataset == name
    check_numbered(annotations, counts=counts, classes=174)
    assert swapped_classes(annotations) == {
        frozenset((f"{doing} something from {a}", f"{doing} something from {b}"))
        for doing in ("Pushing", "Pulling")
        for a, b in [("left to right", "right to left")]
    } | {frozenset(f"Turning the camera {s} while filming something" for s in ("left", "right"))}


def test_the_frame_lists_labels_are_those_of_the_labels_file(real_data: Path) -> None:
    """Train and validation have similar class frequencies, which another numbering would break."""
    split = something.annotate_v2(real_data / "splits" / "something_v2").splits["1"]
    train, test = (
        np.bincount([v.label for v in part], minlength=174) for part in (split.train, split.test)
    )
    shifted = [np.corrcoef(train, np.roll(test, shift))[0, 1] for shift in range(174)]
    assert shifted[0] > 0.7
    assert max(shifted[1:]) < 0.5


def test_something_v1_and_v2_have_one_set_of_names_numbered_differently(real_data: Path) -> None:
    v1 = something.annotate_v1(real_data / "splits" / "something_v1").classes
    v2 = something.annotate_v2(real_data / "splits" / "something_v2").classes
    assert set(v1) == set(v2)
    assert v1 != v2


SOMETHING_V2 = "something-something-v2"


def write_something_v2(folder: Path) -> None:
    entry = {"id": "7", "label": "moving a cup up", "template": "Moving [something] up"}
    files = {
        f"{SOMETHING_V2}-labels.json": '{"Moving something up": "0", "Holding something": "1"}',
        f"{SOMETHING_V2}-validation.json": json.dumps([entry]),
        f"{SOMETHING_V2}-train.json": json.dumps([{**entry, "id": "8"}]),
        "train_list.txt": "9 50 1\n",
    }
    write_files(folder, files)


def test_something_v2_takes_the_releases_train_list_before_the_frame_list(tmp_path: Path) -> None:
    write_something_v2(tmp_path)
    train = something.annotate_v2(tmp_path).splits["1"].train
    assert [v.name for v in train] == ["Moving something up/8"]
    (tmp_path / f"{SOMETHING_V2}-train.json").unlink()
    train = something.annotate_v2(tmp_path).splits["1"].train
    assert [v.name for v in train] == ["Holding something/9"]
    (tmp_path / "train_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"expected {SOMETHING_V2}-train\.json in"):
        something.annotate_v2(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (f"{SOMETHING_V2}-labels.json", '{"A": "0", "B": "2"}', "numbered from 0"),
        (f"{SOMETHING_V2}-labels.json", '["A", "B"]', "numbered from 0"),
        (f"{SOMETHING_V2}-labels.json", "{}", "expected class names, but it is empty"),
        (f"{SOMETHING_V2}-train.json", '[\n{"id": ', "line 2: not JSON"),
        (f"{SOMETHING_V2}-train.json", "{}", "expected a list of"),
        (f"{SOMETHING_V2}-train.json", '[{"id": "7"}]', "expected a list of"),
        (
            f"{SOMETHING_V2}-train.json",
            '[{"id": "../7", "template": "Holding [something]"}]',
            "entry 1: expected a list of",
        ),
        (
            f"{SOMETHING_V2}-train.json",
            '[{"id": "7", "template": "Eating [something]"}]',
            "entry 1: expected a list of .* of a known class",
        ),
    ],
)
def test_a_bad_something_v2_file_is_named(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    write_something_v2(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        something.annotate_v2(tmp_path)


@pytest.mark.parametrize("line", ["9 50", "9 50 2", "9 50 -1", "9 50 one"])
def test_a_bad_frame_list_line_is_named(tmp_path: Path, line: str) -> None:
    write_something_v2(tmp_path)
    (tmp_path / f"{SOMETHING_V2}-train.json").unlink()
    (tmp_path / "train_list.txt").write_text(f"9 50 1\n{line}\n")
    with pytest.raises(ValueError, match=r"train_list\.txt, line 2: expected .* 0 to 1"):
        something.annotate_v2(tmp_path)
