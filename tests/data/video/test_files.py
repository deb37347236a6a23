"""Where a video's file is found."""

from pathlib import Path

import pytest

from study.data.datasets.catalog import annotate
from study.data.video.files import resolve_video
from tests.data.video_files import make_files


def test_a_listed_path_is_found_before_other_containers_of_its_name(tmp_path: Path) -> None:
    make_files(tmp_path, "run/a.avi", "run/a.webm", "run/a/0001.jpg", "run/b.txt", "run/c/1.jpg")
    assert resolve_video(tmp_path, "run/a.webm") == tmp_path / "run/a.webm"
    assert resolve_video(tmp_path, "run/a.mp4") == tmp_path / "run/a.avi"
    assert resolve_video(tmp_path, "run/a") == tmp_path / "run/a"
    assert resolve_video(tmp_path, "run/b") is None
    assert resolve_video(tmp_path, "run/b.txt") == tmp_path / "run/b.txt"
    assert resolve_video(tmp_path, "run/c.avi") == tmp_path / "run/c"
    assert resolve_video(tmp_path, "walk/a") is None


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
    found = resolve_video(tmp_path, "air drumming/x_000001_000011")
    assert found == tmp_path / path
    assert resolve_video(tmp_path, "archery/z_000001_000011") is None


def test_real_clips_are_found(real_data: Path) -> None:
    found = resolve_video(real_data / "videos" / "jester", "26792")
    assert found == real_data / "videos" / "jester" / "26792.mp4"
    found = resolve_video(real_data / "videos" / "ssv2_frames", "77005")
    assert found == real_data / "videos" / "ssv2_frames" / "77005"
    clip = "abseiling/9r8wpMS2iEk_000048_000058"
    found = resolve_video(real_data / "videos" / "kinetics", clip)
    assert found == real_data / "videos" / "kinetics" / "9r8wpMS2iEk_000048_000058.mp4"


def test_a_video_that_appears_later_is_found(tmp_path: Path) -> None:
    assert resolve_video(tmp_path, "run/a") is None
    make_files(tmp_path, "run/a.mp4")
    assert resolve_video(tmp_path, "run/a") == tmp_path / "run/a.mp4"
    (tmp_path / "run/a.mp4").unlink()
    assert resolve_video(tmp_path, "run/a") is None


def test_links_that_loop_hide_no_other_video(tmp_path: Path) -> None:
    make_files(tmp_path, "run/a.mp4")
    (tmp_path / "run" / "loop").symlink_to(tmp_path / "run" / "loop")
    (tmp_path / "walk").symlink_to(tmp_path / "walk")
    assert resolve_video(tmp_path, "run/a") == tmp_path / "run/a.mp4"
    assert resolve_video(tmp_path, "walk/a") is None
    assert annotate("folder", videos=make_files(tmp_path, "run/b.mp4")).classes == ("run",)
