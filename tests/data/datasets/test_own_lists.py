"""A dataset of one's own from its lists: what they say, what is refused, what is passed over."""

from collections import Counter
from pathlib import Path

import pytest

from study.data.datasets.annotations import Annotations, Split
from study.data.datasets.catalog import annotate
from study.data.datasets.list_files import ListFiles
from study.data.video.files import resolve_video
from tests.data.video_files import make_files


def read(
    folder: Path,
    lists: dict[str, str],
    *,
    strict: bool = False,
    classes: str | None = None,
    group: str | None = None,
    said: list[str] | None = None,
) -> Annotations:
    """Reads lists beside the folder of videos; unless `said` takes reports, there must be none."""
    beside = folder.parent / "lists"
    beside.mkdir(exist_ok=True)
    for name, text in lists.items():
        (beside / name).write_text(text)
    if classes is not None:
        (beside / "classes.names").write_text(classes)
    return annotate(
        "folder",
        videos=folder,
        lists=ListFiles.parse(
            [str(beside / name) for name in lists],
            strict=strict,
            classes=None if classes is None else beside / "classes.names",
        ),
        group=group,
        report=pytest.fail if said is None else said.append,
    )


def listed(split: Split) -> dict[str, list[tuple[str, int]]]:
    return {
        part: [(video.path, video.label) for video in videos]
        for part, videos in split.parts.items()
    }


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return make_files(tmp_path / "videos", *(f"{name}.mp4" for name in "abcdef"))


def test_one_file_a_part_gives_all_three_parts(videos: Path) -> None:
    lists = {"train.txt": "a.mp4 1\nb.mp4 0\n", "val.txt": "c.mp4 0\n", "test.txt": "d.mp4 1\n"}
    annotations = read(videos, lists, classes="run fast\njump\n")
    assert annotations.classes == ("run fast", "jump")
    assert listed(annotations.splits["1"]) == {
        "train": [("a.mp4", 1), ("b.mp4", 0)],
        "validation": [("c.mp4", 0)],
        "test": [("d.mp4", 1)],
    }
    assert [video.name for video in annotations.splits["1"].train] == ["jump/a", "run fast/b"]


def test_one_file_with_parts_splits_and_groups(videos: Path) -> None:
    text = """video,label,part,split,group
        a.mp4,walk,train,x,ann
        b.mp4,run,test,x,
        a.mp4,walk,test,y,ann
        b.mp4,run,train,y,
    """.replace("        ", "")
    annotations = read(videos, {"all.csv": text})
    assert annotations.classes == ("run", "walk")
    assert {name: listed(split) for name, split in annotations.splits.items()} == {
        "x": {"train": [("a.mp4", 1)], "test": [("b.mp4", 0)]},
        "y": {"train": [("b.mp4", 0)], "test": [("a.mp4", 1)]},
    }
    train, test = annotations.splits["x"].train, annotations.splits["x"].test
    assert (train[0].group, test[0].group) == ("ann", "run/b")
    assert annotations.has_groups


def test_numbers_without_names_are_the_names_of_the_classes_that_there_are(videos: Path) -> None:
    lists = {"train.txt": "a.mp4 10\nb.mp4 2\nc.mp4 02\n", "test.txt": "d.mp4 10\n"}
    annotations = read(videos, lists)
    assert annotations.classes == ("2", "10")
    assert [video.label for video in annotations.splits["1"].videos] == [1, 0, 0, 1]


def test_videos_lie_in_any_layout_under_any_suffix(tmp_path: Path) -> None:
    folder = make_files(
        tmp_path / "videos", "x/y/a.mp4", "odd.y4m", "z/b.MKV", "frames/c/1.jpg", "run/d.avi"
    )
    paths = ["./x//y/a.mp4", "odd.y4m", str(folder / "z" / "b.mp4"), "frames\\c", "x/../run/d.avi"]
    lists = {"train.txt": "".join(f"{path} 0\n" for path in paths[1:]), "test.txt": "x/y/a 0"}
    annotations = read(folder, lists, classes="run\n")
    found = {
        video.name: resolve_video(folder, video.path) for video in annotations.splits["1"].videos
    }
    assert found == {
        "run/x/y/a": folder / "x/y/a.mp4",
        "run/odd.y4m": folder / "odd.y4m",
        "run/z/b": folder / "z/b.MKV",
        "run/frames/c": folder / "frames/c",
        "run/d": folder / "run/d.avi",
    }


def test_lists_that_say_no_part_are_divided_as_a_folder_is(tmp_path: Path) -> None:
    names = [f"{c}/{p}_{i}.mp4" for c in ("run", "walk") for p in "xyz" for i in range(10)]
    folder = make_files(tmp_path / "videos", *names)
    lines = "".join(f"{name},{name.partition('/')[0]}\n" for name in names)
    split = read(folder, {"all.csv": f"video,label\n{lines}"}).splits["1"]
    assert Counter(video.label for video in split.test) == {0: 9, 1: 9}
    people = read(folder, {"all.csv": f"video,label\n{lines}"}, group="/(.)_").splits
    assert {name: {v.group for v in one.test} for name, one in people.items()} == {
        p: {p} for p in "xyz"
    }
    grouped = "".join(f"{line}," + line.split("/")[1][0] + "\n" for line in lines.splitlines())
    divided = read(folder, {"all.csv": f"video,label,group\n{grouped}"}).splits["1"]
    assert not {v.group for v in divided.train} & {v.group for v in divided.test}


TRAIN = "video,label,part\na.mp4,run,train\nb.mp4,walk,train\nc.mp4,run,test\n"
WRONG = {
    "a path that leads out": (
        TRAIN + "../x.mp4,run,test\n",
        r"1 paths lead out of .*: \.\./x\.mp4 \(",
    ),
    "an absolute path elsewhere": (TRAIN + "/etc/x.mp4,run,test\n", "1 paths lead out of"),
    "the folder itself": (TRAIN + "a/..,run,test\n", "1 paths lead out of"),
    "a video in two parts": (
        TRAIN + "./b.mp4,walk,test\n",
        r"1 videos are in two parts of split 1: \./b\.mp4 \(all\.csv, line 5\): train and test",
    ),
    "a video under two labels": (TRAIN + "a.mp4,walk,train\n", r"1 videos have two labels: a\.mp4"),
    "one file under two names": (TRAIN + "test/c.mp4,run,test\n", "1 videos are one file: c"),
    "one name for two files": (TRAIN + "c.avi,run,test\n", r"1 videos have one name: c\.mp4 and c"),
    "two spellings": (TRAIN + "d.mp4,RUN,test\n", '1 classes are .*several ways: "run" and "RUN"'),
    "no part to test on": ("video,label,part\na.mp4,run,train\n", "has no test videos: give test="),
    "validation alone": (
        "video,label,part\na.mp4,run,train\nb.mp4,run,val\n",
        "reported on the list named val, that is the test part",
    ),
    "a slash in a class": (TRAIN + "d.mp4,on/off,test\n", 'class name "on/off".*without a slash'),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_would_make_a_wrong_study_is_refused(videos: Path, wrong: str) -> None:
    text, reason = WRONG[wrong]
    with pytest.raises(ValueError, match=reason):
        read(videos, {"all.csv": text})


def test_all_that_is_wrong_is_counted_and_a_few_are_named(videos: Path) -> None:
    lines = "".join(f"../{number}.mp4,run,train\n" for number in range(5))
    with pytest.raises(ValueError, match="two labels") as refused:
        read(videos, {"all.csv": TRAIN + lines + "a.mp4,walk,train\n"})
    said = str(refused.value)
    assert said.startswith(f"5 paths lead out of {videos}: ../0.mp4 (all.csv, line 5), ../1.mp4")
    assert "../2.mp4" in said
    assert "../3.mp4" not in said


def test_the_same_spelling_but_for_separators_is_one_class_and_numbers_tell_classes_apart(
    videos: Path,
) -> None:
    alike = ["Play Guitar", "play_guitar", "PlayGuitar", "play-guitar"]
    lines = "".join(f"{v}.mp4,{name},train\n" for v, name in zip("abcd", alike, strict=True))
    with pytest.raises(ValueError, match="1 classes are written") as refused:
        read(videos, {"all.csv": f"video,label,part\n{lines}"})
    assert all(f'"{name}"' in str(refused.value) for name in alike)
    different = "a.mp4,step 1-1,train\nb.mp4,step 11,train\nc.mp4,step 11,test\n"
    assert len(read(videos, {"all.csv": f"video,label,part\n{different}"}).classes) == 2


@pytest.mark.parametrize(
    ("label", "classes", "reason"),
    [
        ("2", "run\nwalk\n", 'line 1: expected a number of 0 to 1 of .*classes.names, but got "2"'),
        ("0", "run\nrun\n", 'class name "run" is listed 2 times'),
        ("0", "run\nRun\n", '1 classes are written in several ways: "run" and "Run"'),
    ],
)
def test_labels_must_be_of_the_list_of_classes(
    videos: Path, label: str, classes: str, reason: str
) -> None:
    lists = {"train.txt": f"a.mp4 {label}\n", "test.txt": "b.mp4 1\n"}
    with pytest.raises(ValueError, match=reason):
        read(videos, lists, classes=classes)


def test_which_part_a_file_lists_must_be_said_of_each_of_several(videos: Path) -> None:
    with pytest.raises(ValueError, match=r"which part .*more\.txt lists isn't said: give train="):
        read(videos, {"train.txt": "a.mp4 0\n", "more.txt": "b.mp4 0\n"})


ABSENT = TRAIN.replace("\n", ",ann\n").replace("part,ann", "part,group") + (
    "c.mp4,run,test,ann\nx.mp4,fly,train,\ny.mp4,run,test,\n"
)


def test_what_is_absent_is_said_and_stays_listed(videos: Path) -> None:
    said: list[str] = []
    annotations = read(videos, {"all.csv": ABSENT}, said=said)
    assert said == [
        "1 lines list a video again: c.mp4 (all.csv, line 5)",
        "1 groups are in several parts of split 1: ann",
        f"2 videos are not in {videos}: x.mp4, y.mp4",
        "1 classes have no video there: fly",
    ]
    split = annotations.splits["1"]
    assert [video.path for video in split.train] == ["a.mp4", "b.mp4", "x.mp4"]
    assert [video.path for video in split.test] == ["c.mp4", "y.mp4"]


def test_what_is_absent_is_refused_of_strict_lists(videos: Path) -> None:
    with pytest.raises(ValueError, match=r"1 lines .*1 groups .*2 videos .*1 classes have no"):
        read(videos, {"all.csv": ABSENT}, strict=True)
    assert read(videos, {"all.csv": TRAIN}, strict=True).classes == ("run", "walk")


def test_groups_come_from_the_list_or_from_a_pattern(videos: Path) -> None:
    with pytest.raises(ValueError, match='have a column "group", so give no pattern'):
        read(videos, {"all.csv": ABSENT}, group="(.)")
    split = read(videos, {"all.csv": TRAIN}, group="(.)").splits["1"]
    assert [video.group for video in split.videos] == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r'finds no group in "a" of a\.mp4 \(all\.csv, line 2\)'):
        read(videos, {"all.csv": TRAIN}, group="(x)")


def test_real_clips_of_two_layouts_are_read_from_one_list(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "videos"
    clips = [f"weizmann/{path.parent.name}/{path.name}" for path in folder.glob("weizmann/*/*.avi")]
    frames = [f"ssv2_frames/{path.name}" for path in (folder / "ssv2_frames").iterdir()]
    lines = [f"{path},{path.split('/')[0]}\n" for path in (*clips, *frames)]
    (tmp_path / "list.csv").write_text("video,label\n" + "".join(lines))
    lists = ListFiles.parse([str(tmp_path / "list.csv")], strict=True)
    split = annotate("folder", videos=folder, lists=lists, report=pytest.fail).splits["1"]
    assert {video.path for video in split.videos} == {*clips, *frames}
    assert Counter(video.label for video in split.test) == {0: 4, 1: 27}
