"""``python -m study.export`` as a user types it, and the commands of its guide."""

import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import cv2
import pytest

from study import export, portable
from study.command import REFUSED
from tests.data.video_files import decode_all
from tests.test_prediction import test_videos
from tests.trained_study import NAME

GUIDE = Path(export.__file__).parents[1] / "docs" / "predict-and-export.md"


def test_the_guides_commands_do_what_it_says(
    tiny_store: Path,
    trained_results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").symlink_to(trained_results)
    path = next(iter(test_videos(tiny_store).values()))
    shutil.copy(path, "walk.avi")
    frames = Path("frames")
    frames.mkdir()
    write_frames(path, frames)
    typed = re.findall(r"^\$ (.+)$", GUIDE.read_text(), re.MULTILINE)
    assert len(typed) == 7
    for line in typed:
        program, *words = shlex.split(line)
        if program == "cd":
            monkeypatch.chdir(words[0])
        elif words[0] == "-m":
            assert import_module(words[1]).main(words[2:]) == 0, capsys.readouterr().err
        else:
            subprocess.run([sys.executable, *words], check=True)
    assert (tmp_path / "seen.mp4").is_file()
    assert "program.pt2" in capsys.readouterr().out


def write_frames(video: str, folder: Path) -> None:
    for number, frame in enumerate(decode_all(Path(video), short_side=64)):
        cv2.imwrite(str(folder / f"{number:05}.png"), frame[..., ::-1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", "9"], "no seed 9 on split 1; it has 1, 2"),
        (["--output", "."], "--output . must be a new or an empty folder"),
        (["--onnx"], "--onnx needs nowhere_onnx: pip install 'two-stream-study[onnx]'"),
    ],
)
def test_what_can_not_be_exported_is_refused_in_a_line(
    arguments: list[str],
    said: str,
    trained_results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").touch()
    monkeypatch.setattr(portable, "ONNX_PACKAGES", ("nowhere_onnx",))
    command = ["--study", NAME, "--arm", "stil", "--results", str(trained_results)]
    assert export.main([*command, "--output", "new", *arguments]) == REFUSED
    error = capsys.readouterr().err
    assert error.startswith("study.export: ")
    assert said in error
    assert not Path("new").exists()
