"""The picture of a stored video."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from study.data.store.clip_store import ClipStore
from study.data.store.preparation import prepare
from study.data.store.preview import colour_flow, draw_preview
from study.prepare import main


@pytest.fixture(scope="module")
def store(videos, annotations, settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("preview") / "store"
    prepare(annotations, videos, path, settings, workers=1)
    return ClipStore.open(path)


@pytest.mark.parametrize(
    ("x", "y", "colour"),
    [
        (4, 0, (255, 0, 0)),  # right: red
        (0, -4, (128, 255, 0)),  # up
        (-4, 0, (0, 255, 255)),  # left
        (0, 4, (127, 0, 255)),  # down
        (0, 0, (255, 255, 255)),
        (2, 0, (255, 128, 128)),  # half as fast, half as deep
        (99, 0, (255, 0, 0)),
    ],
)
def test_directions_are_hues_and_speeds_are_saturations(x, y, colour):
    flow = np.array([x, y], np.float32).reshape(2, 1, 1)
    got = colour_flow(flow, 4)[0, 0]
    assert np.abs(got.astype(int) - colour).max() <= 1
    hue = (np.degrees(np.arctan2(-y, x)) % 360) / 360
    brute = colorsys.hsv_to_rgb(hue, min(1, np.hypot(x, y) / 4), 1)
    assert np.abs(got / 255 - brute).max() < 0.01


def test_a_preview_is_a_picture_with_colour(store, tmp_path):
    draw_preview(store, "run/p9", tmp_path / "preview.png")
    picture = np.asarray(Image.open(tmp_path / "preview.png").convert("RGB"))
    assert min(picture.shape[:2]) > 200
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500


def test_the_command_draws_a_video_by_its_name_or_stem(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("run/p9", "p9"):
        assert main(["--store", str(store.path), "--preview", name]) == 0
        assert "run/p9 is drawn in preview-run-p9.png" in capsys.readouterr().out
        (tmp_path / "preview-run-p9.png").unlink()
    monkeypatch.setattr(ClipStore, "skipped", {"run/p20": "empty file"})
    assert main(["--store", str(store.path), "--preview", "p20"]) == 2
    assert "run/p20 was skipped: empty file" in capsys.readouterr().err
    assert main(["--store", str(store.path), "--preview", "run/p77"]) == 2
    assert "has no video 'run/p77'; there are: run/p7" in capsys.readouterr().err
