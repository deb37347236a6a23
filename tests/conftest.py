"""Fixtures that several test packages share."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.real_clips import VARIABLE, real_clips
from study.data.datasets import embedded
from study.data.datasets.annotations import Video
from study.data.datasets.catalog import annotate
from study.data.store.preparation import prepare
from study.data.store.settings import StoreSettings
from tests.plug_ins import plug_ins_forgotten

CLASSES = ("what_yellow", "what_cyan", "how_left", "how_right")
CLIPS = 8  # of each class


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips and official split files; skips the test where there is none."""
    folder = real_clips()
    if not (folder / "videos").is_dir():
        pytest.skip(f"no real clips: {folder} is missing; set {VARIABLE} to their folder")
    return folder


TINY = StoreSettings(dataset="folder", short_side=32, stacks=2, flow_length=3)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 4 classes × 8 rendered clips as a folder of class folders, 2 stacks of 3."""
    return render_store(tmp_path_factory.mktemp("tiny"))


def render_store(folder: Path, settings: StoreSettings = TINY) -> Path:
    """Renders the tiny store's videos into a folder and prepares them."""
    videos = [video for name in CLASSES for video in videos_of(name)[:CLIPS]]
    embedded.render_dataset(folder / "videos", videos)
    prepare(
        annotate("folder", videos=folder / "videos"),
        folder / "videos",
        folder / "store",
        settings,
        workers=2,
    )
    return folder / "store"


@pytest.fixture(scope="session")
def trained_results(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the tiny store's study of ``tests.trained_study``; its networks are kept."""
    from tests.trained_study import train_study

    return train_study(tiny_store, tmp_path_factory.mktemp("trained") / "results")


def videos_of(class_name: str) -> list[Video]:
    train = embedded.annotate().splits["1"].train
    return [video for video in train if video.name.startswith(f"{class_name}/")]


@pytest.fixture
def plug_in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, of whose modules and what they register nothing is left afterwards."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with plug_ins_forgotten(tmp_path):
        yield folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; skips the test where none may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
