import csv
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from study.data.datasets import official as splits
from study.data.datasets.annotations import Annotations, Video
from study.data.datasets.catalog import annotate
from study.data.datasets.official import carve_validation, mirror_classes


def make_videos(groups: list[tuple[int, str]]) -> list[Video]:
    return [
        Video(name=f"{label}/{i}", path=f"{label}/{i}.avi", label=label, group=group)
        for i, (label, group) in enumerate(groups)
    ]


def random_videos(seed: int, *, shared: bool) -> list[Video]:
    """Classes of one to many groups (the first: two) of unequal sizes; shared ones span classes."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in range(int(rng.integers(1, 9))):
        for group in range(int(rng.integers(1 + (label == 0), 15))):
            name = f"g{group}" if shared else f"{label}_g{group}"
            rows += [(label, name)] * int(rng.integers(1, 8))
    return make_videos([rows[i] for i in rng.permutation(len(rows))])


def groups_by_class(videos: tuple[Video, ...] | list[Video]) -> dict[int, set[str]]:
    groups: defaultdict[int, set[str]] = defaultdict(set)
    for video in videos:
        groups[video.label].add(video.group)
    return groups


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("shared", [False, True])
def test_carving_divides_videos_by_whole_groups(seed: int, shared: bool) -> None:
    videos = random_videos(seed, shared=shared)
    train, validation = carve_validation(videos, seed=seed)
    assert not {v.group for v in train} & {v.group for v in validation}
    position = {video.name: i for i, video in enumerate(videos)}
    for part in (train, validation):
        assert sorted(part, key=lambda v: position[v.name]) == list(part)
    assert sorted(v.name for v in train + validation) == sorted(v.name for v in videos)


@pytest.mark.parametrize("seed", range(40))
def test_every_class_of_two_groups_is_in_both_parts_and_close_to_the_fraction(seed: int) -> None:
    videos = random_videos(seed, shared=False)
    train, validation = carve_validation(videos, fraction=0.25, seed=seed)
    sizes = Counter(v.group for v in videos)
    for label, groups in groups_by_class(videos).items():
        held_out = groups_by_class(validation)[label]
        assert groups_by_class(train)[label] == groups - held_out
        if len(groups) == 1:
            assert not held_out
            continue
        assert held_out
        assert held_out < groups
        wanted = 0.25 * sum(sizes[g] for g in groups)
        got = sum(sizes[g] for g in held_out)
        assert abs(got - wanted) <= max(sizes[g] for g in groups) / 2 or len(held_out) == 1


@pytest.mark.parametrize("seed", range(10))
def test_shared_groups_leave_every_class_in_both_parts_where_that_is_possible(seed: int) -> None:
    """Persons that each play every class, as in Weizmann."""
    videos = make_videos(list(product(range(10), [f"person{i}" for i in range(8)])))
    train, validation = carve_validation(videos, seed=seed)
    assert {v.label for v in train} == {v.label for v in validation} == set(range(10))
    assert len({v.group for v in validation}) == 2  # 1.6 of 8 is wanted


def test_carving_depends_on_the_seed_and_not_on_the_order_of_videos() -> None:
    videos = random_videos(3, shared=False)
    train, validation = carve_validation(videos, seed=1)
    assert carve_validation(videos, seed=1) == (train, validation)
    backwards = carve_validation(videos[::-1], seed=1)
    assert backwards == (train[::-1], validation[::-1])
    others = [carve_validation(videos, seed=seed)[1] for seed in range(2, 6)]
    assert any(other != validation for other in others)


def test_a_class_of_one_group_stays_in_train() -> None:
    videos = make_videos([(0, "a"), (0, "a"), (1, "b"), (1, "c")])
    train, validation = carve_validation(videos, fraction=0.5)
    assert {v.group for v in train} > {"a"}
    assert {v.label for v in validation} == {1}


def test_carving_refuses_what_cannot_be_carved() -> None:
    with pytest.raises(ValueError, match="no class has two groups"):
        carve_validation(make_videos([(0, "a"), (0, "a"), (1, "b")]))
    with pytest.raises(ValueError, match="no class has two groups"):
        carve_validation([])
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            carve_validation(make_videos([(0, "a"), (0, "b")]), fraction=fraction)


def test_mirrored_names_swap_their_labels() -> None:
    classes = (
        "Pushing something from left to right",
        "Pulling it right out",
        "Swiping Left",
        "Pushing something from right to left",
        "Turning Hand Clockwise",
        "Swiping Right",
        "Putting something upright",
        "Turning Hand Counterclockwise",
    )
    assert mirror_classes(classes) == (3, 1, 5, 0, 7, 2, 6, 4)


def count(annotations: Annotations) -> dict[str, tuple[int, int]]:
    return {name: (len(s.train), len(s.test)) for name, s in annotations.splits.items()}


def by_name(annotations: Annotations) -> dict[str, Video]:
    return {v.name: v for s in annotations.splits.values() for v in (*s.train, *s.test)}


def test_ucf101_is_read_as_published(real_data: Path) -> None:
    ucf101 = splits.read_ucf101(real_data / "splits" / "ucf101")
    assert count(ucf101) == {"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696)}
    assert len(ucf101.classes) == 101
    assert ucf101.classes[0] == "ApplyEyeMakeup"
    assert ucf101.classes[100] == "YoYo"
    assert ucf101.flip_classes == tuple(range(101))
    videos = by_name(ucf101)
    assert len(videos) == 13320
    # The official file names say "HandStand", the official class and folder "Handstand".
    video = videos["HandstandPushups/v_HandStandPushups_g01_c01"]
    assert video.path == "HandstandPushups/v_HandStandPushups_g01_c01.avi"
    assert video.group == "HandstandPushups_g01"
    assert ucf101.classes[video.label] == "HandstandPushups"
    assert len({v.group for v in videos.values()}) == 101 * 25
    for split in ucf101.splits.values():
        assert not {v.group for v in split.train} & {v.group for v in split.test}


def test_ucf101_validation_is_a_fifth_of_every_class(real_data: Path) -> None:
    train = splits.read_ucf101(real_data / "splits" / "ucf101").splits["1"].train
    _, validation = carve_validation(train)
    shares = {
        label: sum(v.label == label for v in validation) / sum(v.label == label for v in train)
        for label in range(101)
    }
    assert min(shares.values()) > 0.12
    assert max(shares.values()) < 0.28
    assert len(validation) / len(train) == pytest.approx(0.2, abs=0.02)


def test_hmdb51_is_read_as_published(real_data: Path) -> None:
    hmdb51 = splits.read_hmdb51(real_data / "splits" / "hmdb51")
    assert count(hmdb51) == dict.fromkeys("123", (3570, 1530))
    assert len(hmdb51.classes) == 51
    for split in hmdb51.splits.values():
        assert set(Counter(v.label for v in split.train).values()) == {70}
        assert set(Counter(v.label for v in split.test).values()) == {30}
    videos = by_name(hmdb51)
    name = "golf/Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0"
    assert videos[name].path == f"{name}.avi"
    assert videos[name].group == "Golf_Tips_-_Hit_The_Driver_300+_Yards!!!"
    twice = videos["clap/boom_snap_clap_(challenge)_clap_u_nm_np1_fr_med_0"]
    assert twice.group == "boom_snap_clap_(challenge)"


def test_the_real_clips_are_in_the_lists(real_data: Path) -> None:
    for dataset, read in (("ucf101", splits.read_ucf101), ("hmdb51", splits.read_hmdb51)):
        folder = real_data / "videos" / dataset
        clips = {str(path.relative_to(folder)) for path in folder.glob("*/*.avi")}
        assert clips
        assert clips <= {v.path for v in by_name(read(real_data / "splits" / dataset)).values()}


@pytest.mark.parametrize(
    ("read", "folder", "counts", "classes"),
    [
        (splits.read_something_v1, "something_v1", (86017, 11522), 174),
        (splits.read_something_v2, "something_v2", (168913, 24777), 174),
        (splits.read_jester, "jester", (118562, 14787), 27),
    ],
)
def test_numbered_datasets_are_read_as_published(
    real_data: Path,
    read: Callable[[Path], Annotations],
    folder: str,
    counts: tuple[int, int],
    classes: int,
) -> None:
    annotations = read(real_data / "splits" / folder)
    assert annotations.dataset == folder
    assert count(annotations) == {"1": counts}
    assert len(annotations.classes) == classes
    train, test = annotations.splits["1"].train, annotations.splits["1"].test
    for part in (train, test):
        assert {v.label for v in part} == set(range(classes))
    assert all(v.path == v.group == v.name.rpartition("/")[2] for v in test)
    swapped = {
        frozenset((annotations.classes[a], annotations.classes[b]))
        for a, b in enumerate(annotations.flip_classes)
        if a != b
    }
    if folder == "jester":
        expected = {
            frozenset(("Swiping Left", "Swiping Right")),
            frozenset(("Sliding Two Fingers Left", "Sliding Two Fingers Right")),
            frozenset(("Turning Hand Clockwise", "Turning Hand Counterclockwise")),
        }
    else:
        expected = {
            frozenset((f"{doing} something from {a}", f"{doing} something from {b}"))
            for doing in ("Pushing", "Pulling")
            for a, b in [("left to right", "right to left")]
        } | {
            frozenset(f"Turning the camera {s} while filming something" for s in ("left", "right"))
        }
    assert swapped == expected


def test_the_frame_lists_labels_are_those_of_the_labels_file(real_data: Path) -> None:
    """Train and validation have similar class frequencies, which another numbering would break."""
    split = splits.read_something_v2(real_data / "splits" / "something_v2").splits["1"]
    train, test = (
        np.bincount([v.label for v in part], minlength=174) for part in (split.train, split.test)
    )
    shifted = [np.corrcoef(train, np.roll(test, shift))[0, 1] for shift in range(174)]
    assert shifted[0] > 0.7
    assert max(shifted[1:]) < 0.5


def test_something_v1_and_v2_have_one_set_of_names_numbered_differently(real_data: Path) -> None:
    v1 = splits.read_something_v1(real_data / "splits" / "something_v1").classes
    v2 = splits.read_something_v2(real_data / "splits" / "something_v2").classes
    assert set(v1) == set(v2)
    assert v1 != v2


def write_kinetics(folder: Path, rows: list[str]) -> None:
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    folder.mkdir(exist_ok=True)
    (folder / "train.csv").write_text("\n".join([header, *rows]) + "\n")


def test_kinetics_is_read_as_published(real_data: Path, tmp_path: Path) -> None:
    for name in ("validate.csv", "label_map_k400.txt"):
        (tmp_path / name).symlink_to(real_data / "splits" / "kinetics400" / name)
    with pytest.raises(FileNotFoundError, match=r"expected train\.csv in"):
        splits.read_kinetics400(tmp_path)
    write_kinetics(tmp_path, ['"petting animal (not cat)",-a_B3cdefgh,7,17,train,0'])
    kinetics = splits.read_kinetics400(tmp_path)
    assert count(kinetics) == {"1": (1, 19906)}
    assert len(kinetics.classes) == 400
    video = kinetics.splits["1"].train[0]
    assert video.name == video.path == "petting animal (not cat)/-a_B3cdefgh_000007_000017"
    assert video.group == "-a_B3cdefgh"
    assert kinetics.classes[video.label] == "petting animal (not cat)"


def test_a_list_of_kinetics_full_size_is_read_about_as_fast_as_its_lines(
    real_data: Path, tmp_path: Path
) -> None:
    for name in ("validate.csv", "label_map_k400.txt"):
        (tmp_path / name).symlink_to(real_data / "splits" / "kinetics400" / name)
    classes = (tmp_path / "label_map_k400.txt").read_text().splitlines()
    write_kinetics(
        tmp_path,
        [f"{classes[i % 400]},{i:011d},{i % 250},{i % 250 + 10},train,0" for i in range(240_000)],
    )
    began = time.process_time()  # which other work on the machine doesn't lengthen
    kinetics = annotate("kinetics400", splits=tmp_path)
    read = time.process_time() - began
    began = time.process_time()
    with (tmp_path / "train.csv").open(newline="") as lines:
        for i, (label, *row) in enumerate(csv.reader(lines)):
            Video(name=f"{label}/{row[0]}", path=f"{label}/{row[0]}", label=i, group=row[0])
    assert read < 4 * (time.process_time() - began)
    assert count(kinetics) == {"1": (240_000, 19_906)}
    train, validation = carve_validation(kinetics.splits["1"].train)
    assert (len(train), len(validation)) == (192_000, 48_000)


UCF101 = {
    "classInd.txt": "1 Archery\n2 Bowling\n",
    **{f"trainlist0{k}.txt": "Archery/v_Archery_g01_c01.avi 1\r\n\r\n" for k in (1, 2, 3)},
    **{f"testlist0{k}.txt": "Bowling/v_Bowling_g02_c01.avi\r\n" for k in (1, 2, 3)},
}


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


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
    assert count(splits.read_ucf101(tmp_path)) == dict.fromkeys("123", (1, 1))
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        splits.read_ucf101(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"expected {file} in"):
        splits.read_ucf101(tmp_path)


def test_a_split_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, UCF101)
    (tmp_path / "trainlist01.txt").write_bytes(b"RIFF\xff\xfe\x00AVI ")
    with pytest.raises(ValueError, match=r"trainlist01\.txt: expected UTF-8 text, but byte 4"):
        splits.read_ucf101(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("film_wave_u_nm_np1_fr_med_0.avi 3", "line 2: expected .* with flag 0"),
        ("film_golf_u_nm_np1_fr_med_0.avi 1", 'line 2: expected "<source>_wave_<properties>'),
        ("../film_wave_u_nm_np1_fr_med_0.avi 1", "line 2: expected a path that stays below"),
    ],
)
def test_a_bad_hmdb51_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match="no HMDB51 split files"):
        splits.read_hmdb51(tmp_path)
    good = "a_wave_u_nm_np1_fr_med_0.avi 1 \nb_wave_u_nm_np1_fr_med_0.avi 2 \n"
    write_files(tmp_path, {f"wave_test_split{k}.txt": good for k in (1, 2, 3)})
    assert count(splits.read_hmdb51(tmp_path)) == dict.fromkeys("123", (1, 1))
    (tmp_path / "wave_test_split2.txt").write_text(f"a_wave_u_nm_np1_fr_med_0.avi 0 \n{line} \n")
    with pytest.raises(ValueError, match=message):
        splits.read_hmdb51(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("juggling,0wR5jVB-WPk,1,11,train,0", "line 3: expected .* with a class of label_map_k400"),
        ("archery,../../etc,1,11,train,0", "line 3: expected .* an id of letters"),
        ("archery,0wR5jVB-WPk,1.5,11,train,0", "line 3: expected .* whole seconds"),
        ("archery,0wR5jVB-WPk", "line 3: expected"),
        ("archery,aaaaaaaaaaa,1,11,train,0", "more than once"),
    ],
)
def test_a_bad_kinetics_line_is_named(tmp_path: Path, row: str, message: str) -> None:
    write_kinetics(tmp_path, ["archery,bbbbbbbbbbb,1,11,val,0"])
    (tmp_path / "train.csv").rename(tmp_path / "validate.csv")
    (tmp_path / "label_map_k400.txt").write_text("archery\n")
    write_kinetics(tmp_path, ["archery,aaaaaaaaaaa,1,11,train,0", row])
    with pytest.raises(ValueError, match=message):
        splits.read_kinetics400(tmp_path)
    (tmp_path / "train.csv").write_text("label;id\n")
    with pytest.raises(ValueError, match="line 1: expected a header"):
        splits.read_kinetics400(tmp_path)


@pytest.mark.parametrize("line", ["7;Waving", "../7;Swiping", "7", "Swiping;7"])
def test_a_bad_jester_line_is_named(tmp_path: Path, line: str) -> None:
    files = {"jester-v1-labels.csv": "Swiping\n", "jester-v1-validation.csv": "9;Swiping\n"}
    write_files(tmp_path, {**files, "jester-v1-train.csv": f"8;Swiping\n{line}\n"})
    with pytest.raises(ValueError, match=r'jester-v1-train\.csv, line 2: expected "<number>;<clas'):
        splits.read_jester(tmp_path)


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
    train = splits.read_something_v2(tmp_path).splits["1"].train
    assert [v.name for v in train] == ["Moving something up/8"]
    (tmp_path / f"{SOMETHING_V2}-train.json").unlink()
    train = splits.read_something_v2(tmp_path).splits["1"].train
    assert [v.name for v in train] == ["Holding something/9"]
    (tmp_path / "train_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"expected {SOMETHING_V2}-train\.json in"):
        splits.read_something_v2(tmp_path)


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
        splits.read_something_v2(tmp_path)


@pytest.mark.parametrize("line", ["9 50", "9 50 2", "9 50 -1", "9 50 one"])
def test_a_bad_frame_list_line_is_named(tmp_path: Path, line: str) -> None:
    write_something_v2(tmp_path)
    (tmp_path / f"{SOMETHING_V2}-train.json").unlink()
    (tmp_path / "train_list.txt").write_text(f"9 50 1\n{line}\n")
    with pytest.raises(ValueError, match=r"train_list\.txt, line 2: expected .* 0 to 1"):
        splits.read_something_v2(tmp_path)
