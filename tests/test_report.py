"""``python -m study.report`` as a user runs it."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from study import report
from study.results.findings import studies
from study.results.store import ResultStore
from tests.sample_results import ARMS, row, training, write_protocol, write_rows, write_study

VOID = {"meta", "br", "hr", "img", "link", "input"}
NASTY = '<img src=x onerror=alert(1)> & "quoted" {{ 7 * 7 }}'


class Checked(HTMLParser):
    """Reads a page; fails on tags that don't nest and on anything fetched from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            outside = name in ("src", "href", "xlink:href") and not (value or "").startswith("#")
            assert not outside or (value or "").startswith("data:"), (tag, name, value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def read(path: Path) -> tuple[str, Checked]:
    """The page's words, and what it is made of."""
    html = path.read_text(encoding="utf-8")
    checked = Checked()
    checked.feed(html)
    checked.close()
    assert checked.open == []
    assert not re.search(r"url\((?!#)|@import", html)
    assert "script" not in checked.tags
    return " ".join(" ".join(checked.text).split()), checked


def run(tmp_path: Path, *arguments: str) -> tuple[str, Checked]:
    output = tmp_path / "report.html"
    command = ["--results", str(tmp_path / "results"), "--output", str(output), *arguments]
    assert report.main(command) == 0
    return read(output)


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def test_a_whole_study_is_one_page_that_needs_nothing_from_outside(
    store: ResultStore, tmp_path: Path
) -> None:
    write_study(store, missing=13000)
    text, checked = run(tmp_path)
    assert "STILT, Table 4" in text
    assert "13000 videos of UCF101 are missing" in text
    assert "MISSING VIDEOS" in text
    assert "6 finished, 0 failed" in text
    assert "Confusions of the best arm, Two-stream + STIL + AWF" in text
    assert "13 complete, 6 pruned, 1 failed" in text
    assert "interaction = true" in text
    assert checked.tags.count("svg") == 4  # comparison, confusion, search, epochs
    compared = text.partition("Arms compared on UCF101")[2].partition("Confusions")[0]
    assert "288 test videos" in compared
    assert "Budget spent" in compared
    assert sum(compared.count(verdict) for verdict in ("better", "worse", "not shown")) >= len(ARMS)


def test_the_arm_to_compare_with_can_be_named(store: ResultStore, tmp_path: Path) -> None:
    write_study(store, seeds=1, classes=4)
    text, _ = run(tmp_path, "--against", "spatial")
    assert "Each arm against Spatial" in text
    text, _ = run(tmp_path)
    assert "Each arm against Two-stream on" in text


def test_figures_are_written_in_addition_to_the_page(
    store: ResultStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write("trainings", "t", [training("t")])
    epoch = {"training_id": "t", "epoch": 1, "lr": 0.1, "train_loss": 1.5, "losses": {}}
    store.write("epochs", "t", [{**epoch, "seconds": 1.0}])
    write_rows(store, row("stil", 0.5))
    folder = tmp_path / "figures"
    text, _ = run(tmp_path, "--figures", str(folder))
    assert "50.0" in text
    assert {path.name for path in folder.iterdir()} == {
        f"ucf101-epochs.{kind}" for kind in ("png", "svg", "pdf")
    }
    assert f"wrote 3 files to {folder}" in capsys.readouterr().out


def test_a_study_with_nothing_but_a_failure_has_a_page(store: ResultStore, tmp_path: Path) -> None:
    failed = training("t" * 40, status="failed", error=NASTY, missing_videos=None)
    store.write("trainings", "t", [failed])
    write_protocol(store, "first")
    text, checked = run(tmp_path)
    assert NASTY in text
    assert "img" not in checked.tags
    assert "0 finished, 1 failed" in text


def test_rows_without_predictions_say_so(store: ResultStore, tmp_path: Path) -> None:
    store.write("trainings", "t", [training("t")])
    write_rows(store, row("stil", 0.5))
    text, _ = run(tmp_path)
    assert "hold no predictions" in text
    assert "50.0" in text


def test_every_name_from_the_results_is_escaped(store: ResultStore, tmp_path: Path) -> None:
    write_study(store, study=NASTY, dataset=NASTY, classes=3, seeds=1)
    text, checked = run(tmp_path)
    assert NASTY in text
    assert "img" not in checked.tags


def test_the_last_study_is_shown_unless_one_is_named(store: ResultStore, tmp_path: Path) -> None:
    start = training("t")["started_at"]
    for number, study in enumerate(["older", "newer"]):
        line = training(study, study=study, started_at=start.replace(day=2 + number))
        store.write("trainings", study, [line])
    assert studies(store) == ["newer", "older"]
    assert run(tmp_path)[0].startswith("newer")
    assert run(tmp_path, "--study", "older")[0].startswith("older")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "nope"], "there is no study 'nope'; there are stilt-ucf101"),
        (
            ["--against", "nope"],
            "has no arm 'nope'; it has spatial, temporal",
        ),
        (["--results", "nothing"], "no results folder 'nothing'"),
        (["--output", "."], "is a folder; name a file"),
        (["--output", "nowhere/report.html"], "there is no folder nowhere"),
        (["--figures", "file"], "is a file; name a folder"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(
    store: ResultStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    write_study(store, seeds=1, classes=2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert report.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert re.search(message, err)
    assert not (tmp_path / "report.html").exists()


def test_an_empty_results_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--results", str(tmp_path)]) == 2
    assert "holds no training; run python -m study.run first" in capsys.readouterr().err


@pytest.mark.slow
def test_a_browser_shows_the_page(store: ResultStore, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    write_study(store)
    run(tmp_path)
    shot = tmp_path / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1180,2000"]
    subprocess.run(
        [browser, *flags, f"--screenshot={shot}", (tmp_path / "report.html").as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert shot.stat().st_size > 50_000
