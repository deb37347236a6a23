"""Studies side by side: matched by protocol and training, with what differs between them."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from study import report
from study.results.comparison import compare
from study.results.predictions import judgements
from study.results.side_by_side import Side, SideBySide, read_side, side_by_side
from study.results.store import ResultStore
from tests.sample_results import ARMS, PROTOCOL, training, write_protocol, write_study

BEST = {**ARMS, "stil": ("stil", "average", 0.99)}


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ResultStore, ResultStore]:
    """Two labs' results: of one protocol and name, in the second with another seed's luck."""
    ours, theirs = (ResultStore(tmp_path / name) for name in ("ours", "theirs"))
    write_study(ours, study="one", classes=6)
    write_study(theirs, study="two", classes=6, arms=BEST)
    return ours, theirs


def compared(*sides: Mapping[str, Side]) -> SideBySide:
    (one,) = side_by_side(sides)
    return one


def cells(one: SideBySide, title: str) -> dict[str, list[str]]:
    (section,) = [section for section in one.sections if title in section.title]
    return {line[0]: list(line[1:]) for line in section.grid.rows}


def test_each_arm_is_compared_with_itself_video_by_video(
    stores: tuple[ResultStore, ResultStore],
) -> None:
    ours, theirs = stores
    one = compared(read_side(ours, "one", "one"), read_side(theirs, "two", "two"))
    rows = cells(one, "arm by arm")
    judged = [
        judgements(store, study=study, dataset="ucf101", protocol=PROTOCOL)["stil"]
        for store, study in ((ours, "one"), (theirs, "two"))
    ]
    (expected,) = compare(dict(zip("ab", judged, strict=True)), "a")
    points, interval, verdict = rows["Two-stream + STIL"][2:]
    assert points == f"+{100 * expected.estimate.value:.1f}"
    ends = [float(end.replace("−", "-")) for end in re.findall(r"[+−][\d.]+", interval)]
    corrected = expected.estimate.interval(0.05 / len(ARMS))
    assert corrected is not None
    assert ends == pytest.approx([100 * corrected.low, 100 * corrected.high], abs=0.051)
    assert verdict == "better"
    assert "Two-stream + STIL is better in two by" in one.headline
    assert "share a protocol" in one.headline
    assert "0 of 6 trainings" in one.headline


def test_a_merge_is_a_copy_of_files(stores: tuple[ResultStore, ResultStore]) -> None:
    ours, theirs = stores
    apart = compared(read_side(ours, "one", "one"), read_side(theirs, "two", "two"))
    shutil.copytree(theirs.root, ours.root, dirs_exist_ok=True)
    merged = ResultStore(ours.root)
    assert compared(read_side(merged, "one", "one"), read_side(merged, "two", "two")) == apart


def test_the_same_trainings_are_not_compared(tmp_path: Path) -> None:
    ours, copy = ResultStore(tmp_path / "ours"), ResultStore(tmp_path / "copy")
    write_study(ours, study="one", classes=2)
    shutil.copytree(ours.root, copy.root)
    one = compared(read_side(ours, "one", "here"), read_side(copy, "one", "there"))
    assert all(line[2:] == ["–", "–", "same trainings"] for line in cells(one, "arm").values())
    assert "6 of 6 trainings of there are also in here" in one.headline
    assert "no arm that both have is shown to differ" in one.headline


def test_settings_and_machines_that_differ_are_shown(tmp_path: Path) -> None:
    sides = []
    for name, rate, device in (("one", 0.01, "L4"), ("two", 0.02, "H200")):
        store = ResultStore(tmp_path / name)
        write_study(store, study=name, classes=2, seeds=1)
        write_protocol(store, name, settings={"learning_rate": rate, "epochs": 3})
        for net in ("plain", "stil"):
            identity = f"{name}-ucf101-{net}-0"
            store.write("trainings", identity, [training(identity, study=name, device_kind=device)])
        sides.append(read_side(store, name, name))
    one = compared(*sides)
    assert cells(one, "Settings that differ") == {"settings.learning_rate": ["0.01", "0.02"]}
    assert cells(one, "Machines that differ") == {"device": ["L4", "H200"]}


def test_studies_of_different_datasets_are_refused(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    write_study(store, study="one", classes=1, seeds=1)
    write_study(store, study="two", dataset="hmdb51", classes=1, seeds=1)
    with pytest.raises(ValueError, match=r"no dataset is in two .* rows of ucf101; hmdb51"):
        side_by_side([read_side(store, "one", "one"), read_side(store, "two", "two")])


def test_the_command_compares_folders_and_studies(
    stores: tuple[ResultStore, ResultStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    roots = [store.root for store in stores]
    assert report.main(["--results", *roots, "--output", str(page)]) == 0
    assert "<h1>two against one</h1>" in page.read_text()
    shutil.copytree(roots[1], roots[0], dirs_exist_ok=True)
    merged = ["--results", roots[0], "--output", str(page)]
    assert report.main([*merged, "--study", "one", "two"]) == 0
    assert "<h1>two against one</h1>" in page.read_text()
    assert report.main([*merged, "--study", "one", "one"]) == 2
    assert "a study can't be compared with itself" in capsys.readouterr().err
    assert report.main(["--results", *roots, roots[0], "--study", "one", "two"]) == 2
    assert "got 2 names for 3 folders" in capsys.readouterr().err
