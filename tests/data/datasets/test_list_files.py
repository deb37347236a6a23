"""Lists in the forms of the field's tools: each says the same of the same videos."""

from pathlib import Path

import pytest

from study.data.datasets.list_files import ListFiles, read_list

FORMS = {
    "a CSV with a header": "video,label\na b/c;1.mp4,3\nd.avi,0\n",
    "a CSV in another order, with quotes and a byte order mark": (
        '\ufeffLabel, Video\r\n3,"a b/c;1.mp4"\r\n\r\n0,d.avi\r\n'
    ),
    "mmaction2, videos": "a b/c;1.mp4 3\nd.avi 0\n",
    "mmaction2, folders of frames": "a b/c;1.mp4 120 3\nd.avi 7 0\n",
    "SlowFast, blank": "a b/c;1.mp4 3\nd.avi\t0\n",
    "SlowFast, comma": "a b/c;1.mp4,3\nd.avi, 0\n",
}


def read(tmp_path: Path, text: str, name: str = "list.csv", part: str | None = None) -> list:
    file = tmp_path / name
    file.write_text(text)
    return read_list(file, part, pytest.fail)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(tmp_path: Path, form: str) -> None:
    rows = read(tmp_path, FORMS[form])
    assert [(row.path, int(row.label)) for row in rows] == [("a b/c;1.mp4", 3), ("d.avi", 0)]
    assert {(row.part, row.split, row.group) for row in rows} == {(None, "1", None)}


def test_numbers_in_a_path_are_no_count_of_frames_where_other_lines_have_none(
    tmp_path: Path,
) -> None:
    assert [row.path for row in read(tmp_path, "clip 12 3\nother.mp4 1\n")] == [
        "clip 12",
        "other.mp4",
    ]


def test_a_header_names_parts_splits_and_groups_in_any_order(tmp_path: Path) -> None:
    text = "group,part,video,split,label\nann,TRAIN,a.mp4,2,run\n,val,b.mp4,2,walk\n"
    first, second = read(tmp_path, text, "train.csv")
    assert (first.part, first.split, first.group, first.label) == ("train", "2", "ann", "run")
    assert (second.part, second.split, second.group) == ("validation", "2", None)
    assert (second.file.name, second.line) == ("train.csv", 3)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train.txt", "train"),
        ("val.csv", "validation"),
        ("kinetics400_val_list_videos.txt", "validation"),
        ("ucf101_train_split_1_rawframes.txt", "train"),
        ("testlist01.txt", "test"),
        ("Validation.csv", "validation"),
        ("training_labels.csv", "train"),
        ("constraint.txt", None),
        ("latest.txt", None),
        ("train_and_test.txt", None),
    ],
)
def test_a_files_name_tells_its_part(tmp_path: Path, name: str, part: str | None) -> None:
    assert {row.part for row in read(tmp_path, "a.mp4 0\n", name)} == {part}
    assert {row.part for row in read(tmp_path, "a.mp4 0\n", name, "test")} == {"test"}


def test_a_part_may_stand_before_a_file() -> None:
    words = ["train=a=b.txt", "val=lists/b.txt", "x=y.txt", "test.txt"]
    assert ListFiles.parse(words).files == (
        (Path("a=b.txt"), "train"),
        (Path("lists/b.txt"), "validation"),
        (Path("x=y.txt"), None),
        (Path("test.txt"), None),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"list\.csv lists no video"),
        ("video,label\n", r"list\.csv lists no video"),
        ("video,class\na.mp4,run\n", r'line 1: expected a column "label" too'),
        ("video,label\na.mp4,run\nb.mp4\n", r'line 3: expected 2 fields, "video,label"'),
        ("video,label\na.mp4,\n", "line 2: expected a label in each line"),
        ("video,label,part\na.mp4,run,dev\n", "line 2: expected a part that is train, validation"),
        ("video,label,split\na.mp4,run,1\n", r'column "split", which needs a column "part"'),
        ("a.mp4 0\nb.mp4\n", r'line 2: expected "<path> <label>", .* but got "b\.mp4"'),
        ("a.mp4,0\nb.mp4;1\nc.mp4,1", r'line 2: expected .*a first line "video,label"'),
        ("a.mp4 run\n", r"line 1: expected .* labels as numbers"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        read(tmp_path, text)


def test_other_refusals_and_reports_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder: name the files"):
        read_list(tmp_path, None, pytest.fail)
    with pytest.raises(FileNotFoundError, match=r"no split file .*absent\.csv"):
        read_list(tmp_path / "absent.csv", None, pytest.fail)
    with pytest.raises(ValueError, match='given as the test part, but has a column "part"'):
        read(tmp_path, "video,label,part\na.mp4,run,train\n", part="test")
    (tmp_path / "list.csv").write_text("video,label,seconds,fold\na.mp4,run,3,1\n")
    said: list[str] = []
    read_list(tmp_path / "list.csv", None, said.append)
    assert said == [f"{tmp_path / 'list.csv'}: columns that are not read: seconds, fold"]
