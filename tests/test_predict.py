"""``python -m study.predict`` as a user types it."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from study import predict
from study.command import DONE, FAILED, REFUSED
from study.data.video.reader import VideoReader
from tests.data.video_files import decode_all
from tests.test_prediction import test_videos
from tests.trained_study import NAME


@pytest.fixture
def video(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A video in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = Path(next(iter(test_videos(tiny_store).values())))
    Path("walk.avi").symlink_to(path)
    return "walk.avi"


def command(results: Path, *arguments: str) -> list[str]:
    return ["--study", NAME, "--arm", "stil", "--results", str(results), *arguments]


def test_every_format_and_the_overlay_say_the_same(
    video: str, trained_results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.avi").write_bytes(b"no video")
    code = predict.main(command(trained_results, "--format", "json", video, "bad.avi"))
    assert code == DONE
    out, err = capsys.readouterr()
    found, bad = json.loads(out)
    assert (found["video"], bad["video"]) == (video, "bad.avi")
    assert f"skipped bad.avi: {bad['skipped']}" in err
    scores = [one["score"] for one in found["classes"]]
    assert len(scores) == 4, "there are no more classes"
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    for one in found["classes"]:
        assert one["score"] == pytest.approx(np.mean(list(one["streams"].values())))

    assert predict.main(command(trained_results, "--format", "csv", "--top", "2", video)) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["class"] for line in lines] == [one["class"] for one in found["classes"][:2]]
    assert [line["rank"] for line in lines] == ["1", "2"]

    overlaid = command(trained_results, "--overlay", "seen.mp4", video)
    assert predict.main(overlaid) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == video
    assert [line.split()[1] for line in text.splitlines()[1:]] == [
        one["class"] for one in found["classes"]
    ]
    with VideoReader() as reader:
        plain, seen = reader.open(video), reader.open("seen.mp4")
    assert (seen.frames, min(seen.width, seen.height)) == (plain.frames, 240)
    before, after = (decode_all(Path(name), short_side=240) for name in (video, "seen.mp4"))
    changed = np.abs(after.astype(int) - before).mean(axis=(0, 3))
    assert changed[:40, :40].mean() > 3 * changed[-40:, -40:].mean(), "text at the top left"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.avi"], REFUSED, "there is no video nowhere.avi"),
        (["bad.avi"], FAILED, "no video could be used"),
        (["--top", "0", "bad.avi"], REFUSED, "--top must be at least 1"),
        (["--overlay", "o.mp4", "a", "b"], REFUSED, "--overlay draws on one video, got 2"),
        (["--clips", "no/c", "bad.avi"], REFUSED, "--clips no/c: there is no folder"),
        (["--arm", "other", "bad.avi"], REFUSED, "no rows of arm 'other'"),
        (["--results", "none", "bad.avi"], REFUSED, "no results folder 'none'"),
    ],
)
def test_what_can_not_be_done_is_said_in_a_line(
    arguments: list[str],
    code: int,
    said: str,
    video: str,
    trained_results: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("bad.avi").write_bytes(b"no video")
    assert predict.main(command(trained_results, *arguments)) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("study.predict: ")
    assert said in last
