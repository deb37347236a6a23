"""A model, a space and a dataset from outside, as ``docs/plugins.md`` writes and types them."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from study.results.store import ResultStore
from tests.integration.conftest import ROOT

PAGE = (ROOT / "docs" / "plugins.md").read_text()
FILES = dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [
    [shlex.split(line.removeprefix("$ ")) for line in block.splitlines()]
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
]
SMALL = (
    *("--weights", "none", "--tuning", "fixed", "--seeds", "1", "--epochs", "1"),
    *("--set", "options.backbone=small", "batch_size=8", "test_segments=2"),
)


def write(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(FILES[name])
    return folder


def type_in(folder: Path, command: list[str], *more: str, installed: Path | None = None) -> str:
    """Runs a command of the page in a folder, with more flags; returns what it prints."""
    start = {"python": [sys.executable], "pip": [sys.executable, "-m", "pip"]}[command[0]]
    path = map(str, filter(None, (installed, ROOT)))
    done = subprocess.run(
        [*start, *command[1:], *more],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def type_here(plug_in_folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Does the same in this process and the current folder, which saves Python's start."""

    def run(command: list[str], *more: str) -> str:
        assert command[:2] == ["python", "-m"]
        assert import_module(command[2]).main([*command[3:], *more]) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_a_file_of_ones_own_is_planned_trained_shown_and_reported(
    plug_in_folder: Path, type_here: Callable[..., str], tiny_store: Path, tmp_path: Path
) -> None:
    """Its folder is neither the current one nor on the path of Ray's workers."""
    file = write(tmp_path / "lab", "gem.py") / "gem.py"
    plan, run, query, report = (
        [str(file) if word == "gem.py" else word for word in command] for command in COMMANDS[0]
    )

    planned = type_here(plan, "--data", str(tiny_store), *SMALL)
    assert "2 arms × 1 seed from 2 trainings" in planned
    ran = type_here(run, "--data", str(tiny_store), *SMALL)
    assert f"--table gem --space {file}" in ran
    assert not list(Path("results").rglob("gem.py")), "nothing of what was shipped is left"
    trainings = ResultStore("results").read("trainings").to_pylist()
    assert [(line["model"], line["status"]) for line in trainings] == [("gem", "finished")] * 2
    assert re.search(r"^Generalised mean +\d", type_here(query), re.MULTILINE)
    type_here(report)
    assert "Generalised mean" in Path("report.html").read_text()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that trains nothing and two nodes of one core, which have nothing of the plug-in."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    head = {"num_cpus": 0, "include_log_monitor": False, "no_monitor": True}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
    finally:
        made.shutdown()


@pytest.mark.slow
def test_an_installed_package_prepares_its_dataset_and_trains_on_two_nodes(
    cluster: Cluster,
    plug_in_folder: Path,
    type_here: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_store: Path,
    tmp_path: Path,
) -> None:
    """Two workers of a core each: one training needs both nodes."""
    package, site = write(tmp_path / "package", *FILES), tmp_path / "site"
    install, prepare, run, query = COMMANDS[1]
    offline = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
    type_in(package, install, *offline, "--target", str(site))
    monkeypatch.syspath_prepend(site)
    Path("clips").symlink_to(tiny_store.parent / "videos")

    size = ("--short-side", "32", "--stacks", "2", "--flow-length", "3")
    assert "32 videos" in type_here(prepare, *size)
    workers = ("--workers", "2", "--cpus-per-worker", "0.9", "--arms", "gem", "--at-once", "1")
    cluster_flags = (*workers, "--address", cluster.address)
    type_here(run, *SMALL, *cluster_flags)
    (training,) = ResultStore("results").read("trainings").to_pylist()
    assert (training["dataset"], training["workers"]) == ("gem_clips", 2)
    shown = type_here(query)
    assert "GeM clips" in shown
    assert re.search(r"^Generalised mean +\d", shown, re.MULTILINE)
