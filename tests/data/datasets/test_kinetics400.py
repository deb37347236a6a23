"""Kinetics-400 as published, what a bad line of it says, and how fast it is read."""

import csv
import time
from pathlib import Path

import pytest

from study.data.datasets import kinetics400
from study.data.datasets.annotations import Video
from study.data.datasets.catalog import annotate
from study.data.datasets.validation import carve_validation
from tests.data.datasets.annotated import count


def write_kinetics(folder: Path, rows: list[str]) -> None:
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    folder.mkdir(exist_ok=True)
    (folder / "train.csv").write_text("\n".join([header, *rows]) + "\n")


def test_kinetics_is_read_as_published(real_data: Path, tmp_path: Path) -> None:
    for name in ("validate.csv", "label_map_k400.txt"):
        (tmp_path / name).symlink_to(real_data / "splits" / "kinetics400" / name)
    with pytest.raises(FileNotFoundError, match=r"expected train\.csv in"):
        kinetics400.annotate(tmp_path)
    write_kinetics(tmp_path, ['"petting animal (not cat)",-a_B3cdefgh,7,17,train,0'])
    kinetics = kinetics400.annotate(tmp_path)
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
        kinetics400.annotate(tmp_path)
    (tmp_path / "train.csv").write_text("label;id\n")
    with pytest.raises(ValueError, match="line 1: expected a header"):
        kinetics400.annotate(tmp_path)
