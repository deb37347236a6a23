"""``python -m study.gallery`` as a user types it, on networks that were trained and kept."""

import re
from base64 import b64decode
from html import unescape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from study import gallery
from study.command import DONE, REFUSED
from study.data.store.clip_store import ClipStore
from study.pictures import FRAMES, HEIGHT, draw_video
from study.results.store import ResultStore
from tests.trained_study import NAME


def command(results: Path, store: Path, output: Path, *arguments: str) -> int:
    given = ["--study", NAME, "--results", str(results), "--data", str(store)]
    return gallery.main([*given, "--output", str(output), *arguments])


def figures(page: str) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """The captions and the pictures of a page."""
    found = re.findall(r"<figcaption>(.*?)</figcaption>\s*<img src=\"data:.*?,(.*?)\"", page)
    return [(unescape(said), picture(b64decode(data))) for said, data in found]


def picture(file: bytes | memoryview) -> np.ndarray[Any, Any]:
    decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def test_the_pictures_of_a_video_are_the_stores(tiny_store: Path) -> None:
    store = ClipStore.open(tiny_store)
    name = store.names[0]
    frames, flow = draw_video(store, name)
    shown = min(FRAMES, store.record(name).positions)
    for strip in (frames, flow):
        assert picture(strip.jpeg).shape[:2] == (strip.height, strip.width)
        assert strip.width >= shown * HEIGHT
    first = store.record(name).rgb(store.record(name).positions // (2 * shown))
    drawn = picture(frames.jpeg)[:, :HEIGHT]
    assert picture(first).mean(axis=(0, 1)) == pytest.approx(drawn.mean(axis=(0, 1)), abs=6)


def test_the_page_has_every_video_with_the_maps_of_each_network(
    tiny_store: Path, trained_results: Path, tmp_path: Path
) -> None:
    arms = ("stil", "stil-awf-simplex", "spatial")
    output = tmp_path / "gallery.html"
    code = command(
        trained_results, tiny_store, output, "--arms", *arms, "--count", "2", "--device", "cpu"
    )
    assert code == DONE
    page = output.read_text()
    results = ResultStore(trained_results)
    lines = results.read("predictions", study=NAME, part="test").to_pylist()
    for name in re.findall(r"<h2>(.*?)</h2>", page):
        card = page.split(f"<h2>{name}</h2>")[1].partition("</section>")[0]
        rights = re.findall(r"(\d+) of 2</td>", card)
        for arm, right in zip(arms, rights, strict=True):
            of = [one for one in lines if (one["video"], one["arm"]) == (name, arm)]
            assert int(right) == sum(one["label"] == one["predicted"] for one in of)
        captions = [said for said, _ in figures(card)]
        shared = [said for said in captions if "attention" in said]
        assert len(shared) == 2, "two arms of one network share what it attends to, by stream"
        assert {said.partition(":")[0].rpartition(", ")[2] for said in shared} == {"RGB", "flow"}
        assert any(said.startswith("Spatial, RGB: Grad-CAM of ") for said in captions)
        assert not any(said.startswith("Spatial, flow") for said in captions)
    assert len(re.findall("<h2>", page)) == 2
    assert all(picture is not None for _, picture in figures(page))


def test_without_kept_networks_there_are_frames_and_flow(
    tiny_store: Path, trained_results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for folder in trained_results.iterdir():
        if folder.name != "networks":
            (results / folder.name).symlink_to(folder)
    name = ClipStore.open(tiny_store).annotations.splits["1"].test[0].name
    output = tmp_path / "gallery.html"
    code = command(results, tiny_store, output, "--arms", "stil", "--videos", name)
    assert code == DONE
    assert "There are no maps of" in capsys.readouterr().err
    page = output.read_text()
    assert [said.partition(":")[0] for said, _ in figures(page)] == ["Frames", "Flow"]
    assert f"<h2>{name}</h2>" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--count", "0"], "--count must be in 1..400, got 0"),
        (["--arms", "stil", "stil"], "--arms takes up to 8 names, each once, got 2"),
        (["--arms", "stl"], r"no arm 'stl' \(did you mean 'stil'\?\)"),
        (["--split", "7"], "no split '7'; it has 1"),
        (["--videos", "nobody"], "has no video 'nobody'"),
        (["--output", "."], "is a folder; name a file"),
        (["--output", "none/page.html"], "there is no folder none"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(
    arguments: list[str],
    said: str,
    tiny_store: Path,
    trained_results: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "gallery.html"
    assert command(trained_results, tiny_store, output, *arguments) == REFUSED
    assert re.search(said, capsys.readouterr().err)
    assert not output.exists()


def test_a_video_that_was_trained_on_is_refused(
    tiny_store: Path, trained_results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = ClipStore.open(tiny_store).annotations.splits["1"].train[0].name
    output = tmp_path / "gallery.html"
    assert command(trained_results, tiny_store, output, "--videos", name) == REFUSED
    assert f"{name} is no test video of split 1" in capsys.readouterr().err


def test_another_store_than_the_studys_is_refused(
    tiny_store: Path,
    trained_results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = ClipStore.open(tiny_store)
    other.fingerprint = "other"
    monkeypatch.setattr(ClipStore, "open", lambda path: other)
    assert command(trained_results, tiny_store, tmp_path / "gallery.html") == REFUSED
    assert "not the store that study" in capsys.readouterr().err
