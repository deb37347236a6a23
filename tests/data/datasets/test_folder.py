"""A folder of class folders as a dataset."""

from collections import Counter
from pathlib import Path

import pytest

from study.data.datasets.catalog import annotate
from study.data.video.files import resolve_video
from tests.data.video_files import make_files


def test_weizmann_is_split_by_leaving_one_person_out(real_data: Path) -> None:
    weizmann = annotate("folder", videos=real_data / "videos" / "weizmann", group="^([^_]+)_")
    assert len(weizmann.classes) == 10
    assert list(weizmann.classes) == sorted(weizmann.classes)
    assert len(weizmann.splits) == 9
    everything = {v.name for v in (*weizmann.splits["ido"].train, *weizmann.splits["ido"].test)}
    assert len(everything) == 90
    for person, split in weizmann.splits.items():
        assert split.name == person
        assert len(split.test) == 10
        assert {v.label for v in split.test} == set(range(10))
        assert all(v.name.partition("/")[2].startswith(f"{person}_") for v in split.test)
        assert {v.name for v in split.train} == everything - {v.name for v in split.test}
        assert {v.group for v in split.train} == set(weizmann.splits) - {person}


def test_a_folder_without_groups_is_split_once_and_by_class(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"{c}/{i:02d}.mp4" for c in ("run", "walk") for i in range(10)))
    annotations = annotate("folder", videos=tmp_path)
    assert annotations.classes == ("run", "walk")
    assert list(annotations.splits) == ["1"]
    split = annotations.splits["1"]
    assert Counter(v.label for v in split.train) == {0: 7, 1: 7}
    assert Counter(v.label for v in split.test) == {0: 3, 1: 3}
    assert annotate("folder", videos=tmp_path) == annotations


def test_groups_come_in_the_order_of_the_numbers_in_their_names(tmp_path: Path) -> None:
    people = ["person10", "person9", "person1", "person2"]
    make_files(tmp_path, *(f"run/{person}_run.mp4" for person in people))
    splits = annotate("folder", videos=tmp_path, group="^([^_]+)_").splits
    assert list(splits) == ["person1", "person2", "person9", "person10"]


def test_a_folder_takes_videos_of_any_container_and_folders_of_frames(tmp_path: Path) -> None:
    make_files(
        tmp_path,
        "run/a.MP4",
        "run/b.webm",
        "run/c.d.avi",
        "run/frames/0001.jpg",
        "run/notes.txt",
        "run/.hidden/x.jpg",
        "__MACOSX/a.mp4",
        ".git/config",
        "README.md",
    )
    annotations = annotate("folder", videos=tmp_path)
    assert annotations.classes == ("run",)
    split = annotations.splits["1"]
    found = {v.name: v.path for v in (*split.train, *split.test)}
    assert found == {
        "run/a": "run/a.MP4",
        "run/b": "run/b.webm",
        "run/c.d": "run/c.d.avi",
        "run/frames": "run/frames",
    }
    for v in (*split.train, *split.test):
        assert resolve_video(tmp_path, v.path) == tmp_path / v.path


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("(", "is no regular expression"),
        ("^[^_]+_", "captures nothing: expected parentheses"),
        ("^(x)_", 'finds no group in "ann_1" of .*run'),
        ("^(x?)", 'finds no group in "ann_1" of .*run'),
        ("([a-z]+)", "puts all 2 videos into one group"),
    ],
)
def test_a_group_pattern_that_does_not_fit_is_refused(
    tmp_path: Path, group: str, message: str
) -> None:
    make_files(tmp_path, "run/ann_1.avi", "run/ann_2.avi")
    with pytest.raises(ValueError, match=message):
        annotate("folder", videos=tmp_path, group=group)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match=r"has no class folders: expected .*/<class>/"):
        annotate("folder", videos=tmp_path)
    make_files(tmp_path, "run/notes.txt")
    with pytest.raises(ValueError, match=r"run has no videos: expected files .*\.avi"):
        annotate("folder", videos=tmp_path)
    make_files(tmp_path, "run/a.avi", "run/a.mp4")
    with pytest.raises(ValueError, match="have one name"):
        annotate("folder", videos=tmp_path)
