"""HMDB51 as published, and what a bad line of it says."""

from collections import Counter
from pathlib import Path

import pytest

from study.data.datasets import hmdb51
from tests.data.datasets.annotated import by_name, check_clips_are_listed, count, write_files


def test_hmdb51_is_read_as_published(real_data: Path) -> None:
    annotations = hmdb51.annotate(real_data / "splits" / "hmdb51")
    assert count(annotations) == dict.fromkeys("123", (3570, 1530))
    assert len(annotations.classes) == 51
    for split in annotations.splits.values():
        assert set(Counter(v.label for v in split.train).values()) == {70}
        assert set(Counter(v.label for v in split.test).values()) == {30}
    videos = by_name(annotations)
    name = "golf/Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0"
    assert videos[name].path == f"{name}.avi"
    assert videos[name].group == "Golf_Tips_-_Hit_The_Driver_300+_Yards!!!"
    twice = videos["clap/boom_snap_clap_(challenge)_clap_u_nm_np1_fr_med_0"]
    assert twice.group == "boom_snap_clap_(challenge)"


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
        hmdb51.annotate(tmp_path)
    good = "a_wave_u_nm_np1_fr_med_0.avi 1 \nb_wave_u_nm_np1_fr_med_0.avi 2 \n"
    write_files(tmp_path, {f"wave_test_split{k}.txt": good for k in (1, 2, 3)})
    assert count(hmdb51.annotate(tmp_path)) == dict.fromkeys("123", (1, 1))
    (tmp_path / "wave_test_split2.txt").write_text(f"a_wave_u_nm_np1_fr_med_0.avi 0 \n{line} \n")
    with pytest.raises(ValueError, match=message):
        hmdb51.annotate(tmp_path)


def test_the_real_clips_are_in_the_lists(real_data: Path) -> None:
    annotations = hmdb51.annotate(real_data / "splits/hmdb51")
    check_clips_are_listed(annotations, real_data / "videos/hmdb51")
