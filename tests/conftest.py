"""Fixtures that several test packages share."""

import fcntl
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
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


def pytest_configure() -> None:
    """Answers Ctrl-C as in a terminal, and so does what tests start; a background ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def signals_answered_as_before() -> Iterator[None]:
    """Ray Train answers Ctrl-C in its own way in a process that has trained with it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with slow tests first, so that no process is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def made_once(request: pytest.FixtureRequest, name: str, make: Callable[[Path], object]) -> Path:
    """Returns a folder that the first of the test processes to need it makes, for all of them.

    Args:
        request: That of a session's fixture.
        name: The folder's name.
        make: Fills the folder.
    """
    shared: Path = request.getfixturevalue("tmp_path_factory").getbasetemp()
    if hasattr(request.config, "workerinput"):  # one of several processes
        shared = shared.parent
    folder, done = shared / name, shared / f"{name}.done"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips and official split files; skips the test where there is none."""
    folder = real_clips()
    if not (folder / "videos").is_dir():
        pytest.skip(f"no real clips: {folder} is missing; set {VARIABLE} to their folder")
    return folder


TINY = StoreSettings(dataset="folder", short_side=32, stacks=2, flow_length=3)


@pytest.fixture(scope="session")
def tiny_store(request: pytest.FixtureRequest) -> Path:
    """A store of 4 classes × 8 rendered clips as a folder of class folders, 2 stacks of 3.

    Don't write here.
    """
    return made_once(request, "tiny", render_store) / "store"


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
def trained_results(tiny_store: Path, request: pytest.FixtureRequest) -> Path:
    """Results of the tiny store's study of ``tests.trained_study``; its networks are kept.

    Don't write here.
    """
    from tests.trained_study import train_study

    return made_once(request, "trained", lambda folder: train_study(tiny_store, folder))


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
