"""UCF101 as published, and what a bad file of it says."""

from pathlib import Path

import pytest

from study.data.datasets import ucf101
from study.data.datasets.validation import carve_validation
from tests.data.datasets.annotated import by_name, check_clips_are_listed, count, write_files


def test_ucf101_is_read_as_published(real_data: Path) -> None:
    annotations = ucf101.annotate(real_data / "splits" / "ucf101")
    assert count(annotations) == {"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696)}
    assert len(annotations.classes) == 101
    assert annotations.classes[0] == "ApplyEyeMakeup"
    assert annotations.classes[100] == "YoYo"
    assert annotations.flip_classes == tuple(range(101))
    videos = by_name(annotations)
    assert len(videos) == 13320
    # The official file names say "HandStand", the official class and folder "Handstand".
    video = videos["HandstandPushups/v_HandStandPushups_g01_c01"]
    assert video.path == "HandstandPushups/v_HandStandPushups_g01_c01.avi"
    assert video.group == "HandstandPushups_g01"
    assert annotations.classes[video.label] == "HandstandPushups"
    assert len({v.group for v in videos.values()}) == 101 * 25
    for split in annotations.splits.values():
        assert not {v.group for v in split.train} & {v.group for v in split.test}


def test_ucf101_validation_is_a_fifth_of_every_class(real_data: Path) -> None:
    train = ucf101.annotate(real_data / "splits" / "ucf101").splits["1"].train
    _, validation = carve_validation(train)
    shares = {
        label: sum(v.label == label for v in validation) / sum(v.label == label for v in train)
        for label in range(101)
    }
    assert min(shares.values()) > 0.12
    assert max(shares.values()) < 0.28
    assert len(validation) / len(train) == pytest.approx(0.2, abs=0.02)


UCF101 = {
    "classInd.txt": "1 Archery\n2 Bowling\n",
    **{f"trainlist0{k}.txt": "Archery/v_Archery_g01_c01.avi 1\r\n\r\n" for k in (1, 2, 3)},
    **{f"testlist0{k}.txt": "Bowling/v_Bowling_g02_c01.avi\r\n" for k in (1, 2, 3)},
}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "classInd.txt",
            "1 Archery\n3 Bowling\n",
            'line 2: expected "2 <class name>", but got "',
        ),
        ("classInd.txt", "1 Archery\n2 Archery\n", r'class name "Archery" is listed 2 times'),
        ("classInd.txt", "\n", "expected class names, but it is empty"),
        ("trainlist02.txt", "\n/etc/v_Archery_g01_c01.avi 1", "line 2: expected a path that stays"),
        ("trainlist02.txt", "Archery/../v_Archery_g01_c01.avi 1", "line 1: expected a path that s"),
        ("testlist03.txt", "..\\Archery\\v_Archery_g01_c01.avi", "line 1: expected a path that st"),
        ("testlist03.txt", "C:/Archery/v_Archery_g01_c01.avi", "line 1: expected a path that sta"),
        (
            "testlist03.txt",
            "Golf/v_Golf_g01_c01.avi",
            "expected .* with a class of classInd",
        ),
        ("testlist03.txt", "Archery/v_Archery.avi", r"line 1: expected .*gXX_cXX\.avi"),
        ("trainlist01.txt", "Archery/v_Archery_g01_c01.avi 2", 'expected the class number "1"'),
        ("trainlist01.txt", "", "split 1 in .* has no train videos"),
        ("testlist01.txt", "Archery/v_Archery_g01_c01.avi", "more than once"),
    ],
)
def test_a_bad_ucf101_file_is_named_with_the_line_and_what_was_expected(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    write_files(tmp_path, UCF101)
    assert count(ucf101.annotate(tmp_path)) == dict.fromkeys("123", (1, 1))
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        ucf101.annotate(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"expected {file} in"):
        ucf101.annotate(tmp_path)


def test_a_split_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, UCF101)
    (tmp_path / "trainlist01.txt").write_bytes(b"RIFF\xff\xfe\x00AVI ")
    with pytest.raises(ValueError, match=r"trainlist01\.txt: expected UTF-8 text, but byte 4"):
        ucf101.annotate(tmp_path)


def test_the_real_clips_are_in_the_lists(real_data: Path) -> None:
    annotations = ucf101.annotate(real_data / "splits/ucf101")
    check_clips_are_listed(annotations, real_data / "videos/ucf101")
