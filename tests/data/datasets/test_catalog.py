from collections import Counter
from pathlib import Path

import pytest

from study.data.datasets.catalog import Video, annotate, list_datasets, resolve_video


def make_files(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def video(path: str) -> Video:
    return Video(name=path, path=path, label=0, group=path)


def test_the_datasets_are_listed() -> None:
    assert list_datasets() == [
        "embedded",
        "ucf101",
        "hmdb51",
        "kinetics400",
        "something_v1",
        "something_v2",
        "jester",
        "folder",
    ]


@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51", "something_v1", "something_v2", "jester"])
def test_official_datasets_are_annotated_from_their_split_files(
    real_data: Path, dataset: str
) -> None:
    annotations = annotate(dataset, splits=real_data / "splits" / dataset)
    assert annotations.dataset == dataset
    assert sorted(annotations.flip_classes) == list(range(len(annotations.classes)))
    for split in annotations.splits.values():
        names = [v.name for v in (*split.train, *split.test)]
        assert len(names) == len(set(names))
        for v in (*split.train[:50], *split.test[:50]):
            assert v.name.startswith(f"{annotations.classes[v.label]}/")


def test_a_request_that_cannot_be_met_is_refused_with_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='unknown dataset "ucf"; there are: embedded, ucf101, '):
        annotate("ucf")
    with pytest.raises(ValueError, match='"ucf101" needs splits: the folder of its official'):
        annotate("ucf101", videos=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected classInd\.txt in"):
        annotate("ucf101", splits=tmp_path)
    with pytest.raises(FileNotFoundError, match="no splits folder"):
        annotate("ucf101", splits=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no videos folder"):
        annotate("ucf101", videos=tmp_path / "nowhere", splits=tmp_path)
    with pytest.raises(ValueError, match='group is for "folder" alone'):
        annotate("ucf101", splits=tmp_path, group="(a)")
    for dataset in ("embedded", "folder"):
        with pytest.raises(ValueError, match="has no split files"):
            annotate(dataset, videos=tmp_path, splits=tmp_path)
    with pytest.raises(ValueError, match='"folder" needs videos'):
        annotate("folder")


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
        assert resolve_video(tmp_path, v) == tmp_path / v.path


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


def test_a_listed_path_is_found_before_other_containers_of_its_name(tmp_path: Path) -> None:
    make_files(tmp_path, "run/a.avi", "run/a.webm", "run/a/0001.jpg", "run/b.txt", "run/c/1.jpg")
    assert resolve_video(tmp_path, video("run/a.webm")) == tmp_path / "run/a.webm"
    assert resolve_video(tmp_path, video("run/a.mp4")) == tmp_path / "run/a.avi"
    assert resolve_video(tmp_path, video("run/a")) == tmp_path / "run/a"
    assert resolve_video(tmp_path, video("run/b")) is None
    assert resolve_video(tmp_path, video("run/c.avi")) == tmp_path / "run/c"
    assert resolve_video(tmp_path, video("walk/a")) is None


@pytest.mark.parametrize(
    "path",
    [
        "air drumming/x_000001_000011.mkv",
        "air_drumming/x_000001_000011.mp4",
        "x_000001_000011.webm",
        "train/air drumming/x_000001_000011.mp4",
        "val/air_drumming/x_000001_000011.mp4",
        "test/x_000001_000011.mp4",
    ],
)
def test_a_kinetics_clip_is_found_in_the_usual_layouts(tmp_path: Path, path: str) -> None:
    make_files(tmp_path, path, "air drumming/y_000001_000011.mp4")
    found = resolve_video(tmp_path, video("air drumming/x_000001_000011"))
    assert found == tmp_path / path
    assert resolve_video(tmp_path, video("archery/z_000001_000011")) is None


def test_real_clips_are_found(real_data: Path) -> None:
    found = resolve_video(real_data / "videos" / "jester", video("26792"))
    assert found == real_data / "videos" / "jester" / "26792.mp4"
    found = resolve_video(real_data / "videos" / "ssv2_frames", video("77005"))
    assert found == real_data / "videos" / "ssv2_frames" / "77005"
    clip = "abseiling/9r8wpMS2iEk_000048_000058"
    found = resolve_video(real_data / "videos" / "kinetics", video(clip))
    assert found == real_data / "videos" / "kinetics" / "9r8wpMS2iEk_000048_000058.mp4"


def test_a_video_that_appears_later_is_found(tmp_path: Path) -> None:
    assert resolve_video(tmp_path, video("run/a")) is None
    make_files(tmp_path, "run/a.mp4")
    assert resolve_video(tmp_path, video("run/a")) == tmp_path / "run/a.mp4"
    (tmp_path / "run/a.mp4").unlink()
    assert resolve_video(tmp_path, video("run/a")) is None


def test_links_that_loop_hide_no_other_video(tmp_path: Path) -> None:
    make_files(tmp_path, "run/a.mp4")
    (tmp_path / "run" / "loop").symlink_to(tmp_path / "run" / "loop")
    (tmp_path / "walk").symlink_to(tmp_path / "walk")
    assert resolve_video(tmp_path, video("run/a")) == tmp_path / "run/a.mp4"
    assert resolve_video(tmp_path, video("walk/a")) is None
    assert annotate("folder", videos=make_files(tmp_path, "run/b.mp4")).classes == ("run",)
