"""``python -m study.report`` as a user runs it."""

import base64
import hashlib
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.request import urlopen

import pytest

from study import report
from study.results.charts import PAIRED
from study.results.findings import studies
from study.results.status import RunningJob, Status, write_status
from study.results.store import ResultStore
from tests.sample_results import (
    ARMS,
    row,
    training,
    write_protocol,
    write_rows,
    write_study,
    write_trials,
)

VOID = {"meta", "br", "hr", "img", "link", "input"}
NASTY = '<img src=x onerror=alert(1)> & "quoted" {{ 7 * 7 }}'


class Checked(HTMLParser):
    """Reads a page; fails on tags that don't nest and on anything fetched from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.links += [(value or "")[1:]] if name == "href" and tag == "a" else []
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
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text.append(data)


def read(path: Path) -> tuple[str, Checked]:
    """The page's words, and what it is made of."""
    html = path.read_text(encoding="utf-8")
    checked = Checked()
    checked.feed(html)
    checked.close()
    assert checked.open == []
    assert not re.search(r"url\((?!#)|@import", html)
    assert len(set(checked.ids)) == len(checked.ids)
    assert set(checked.links) <= set(checked.ids)
    (script,) = checked.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
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
    assert text.index("has the highest top-1 accuracy") < text.index("STILT, Table 4")
    assert "13000 videos of UCF101 are missing" in text
    assert "MISSING VIDEOS" in text
    assert "6 finished, 0 failed" in text
    assert "Confusions on UCF101" in text
    confusions, gains = 2 * len(ARMS) + 1, 2 * PAIRED
    assert checked.tags.count("option") == confusions + gains
    assert "13 complete, 6 pruned, 1 failed" in text
    assert "interaction = true" in text
    # Comparison, cost, expected best, the search by value, as lines and its importances, epochs.
    assert checked.tags.count("svg") == 7
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


def test_arms_of_different_machines_are_marked(store: ResultStore, tmp_path: Path) -> None:
    for number, kind in enumerate(["cpu", "cuda"]):
        name = f"t{number}"
        store.write("trainings", name, [training(name, device_kind=kind)])
        write_rows(store, row(f"arm{number}", 0.5, training_id=name))
    text, _ = run(tmp_path)
    compared = text.partition("Arms compared on UCF101")[2]
    assert "trained on different machines: device cpu" in compared


def test_a_study_with_nothing_but_a_failure_has_a_page(store: ResultStore, tmp_path: Path) -> None:
    failed = training("t" * 40, status="failed", error=NASTY, missing_videos=None)
    store.write("trainings", "t", [failed])
    write_protocol(store, "first")
    text, checked = run(tmp_path)
    assert NASTY in text
    assert "img" not in checked.tags
    assert "0 finished, 1 failed" in text


def test_a_study_that_was_interrupted_before_its_first_training_has_a_page(
    store: ResultStore, tmp_path: Path
) -> None:
    write_protocol(store, "first")
    text, _ = run(tmp_path)
    assert text.startswith("first")
    assert "0 finished, 0 failed" in text


def test_a_study_that_has_only_searched_shows_its_search(
    store: ResultStore, tmp_path: Path
) -> None:
    write_protocol(store, "first")
    write_trials(store, "first", "ucf101")
    text, checked = run(tmp_path)
    assert "13 complete, 6 pruned, 1 failed" in text
    assert checked.tags.count("svg") == 4


def test_a_running_study_shows_its_jobs_their_curves_and_the_time_left(
    store: ResultStore, tmp_path: Path
) -> None:
    write_protocol(store, "first")
    write_trials(store, "first", "ucf101")
    write_rows(store, row("stil", 0.5))
    epochs: list[dict[str, object]] = [
        {
            "training_id": "running",
            "epoch": epoch,
            "lr": 0.01,
            "train_loss": 1 / epoch,
            "losses": {},
            "validation_top1": 0.1 * epoch,
            "seconds": 60.0,
        }
        for epoch in (1, 2, 3)
    ]
    store.write("epochs", "running", epochs)
    job = RunningJob(
        label="stil trial 3: lr 0.01",
        epoch=3,
        until=9,
        seconds_per_epoch=60.0,
        validation_top1=0.3,
        training_id="running",
    )
    status = Status(
        study="first",
        state="running",
        host="node7",
        process=12,
        updated_at=1767323045.0,
        jobs=[job],
        trials={"stil": {"complete": 13, "pruned": 6, "failed": 1, "to come": 5}},
        best={"stil": 0.5},
        rows=1,
        rows_planned=6,
        waits=["2 trials of stil wait for trial 3"],
        failures=[NASTY],
        seconds_left=7200.0,
    )
    write_status(store, status)
    text, checked = run(tmp_path)
    assert "Running: 1 of 6 rows, about 2 h left." in text
    assert "2026-01-02 03:04:05 UTC" in text
    assert "stil trial 3: lr 0.01 3 9 30.0 about 6 min" in text
    assert "13 complete, 6 pruned, 1 failed, 5 to come; best 50.0 %" in text
    assert f"Missing: {NASTY}" in text
    assert checked.tags.count("svg") == 5  # what runs, expected best, and three of the search
    write_status(store, replace(status, state="done"))
    assert "Running" not in run(tmp_path)[0]


def test_an_interrupted_study_says_how_it_goes_on(store: ResultStore, tmp_path: Path) -> None:
    write_protocol(store, "first")
    ended = subprocess.Popen(["true"])
    ended.wait()
    status = Status(
        study="first",
        state="running",
        host=socket.gethostname(),
        process=ended.pid,
        updated_at=0.0,
        rows_planned=6,
    )
    write_status(store, status)
    text, _ = run(tmp_path)
    assert "Interrupted at 0 of 6 rows" in text
    assert "The same command goes on from there" in text
    assert run(tmp_path, "--watch")[0] == text, "what doesn't run is written once"


def test_a_failed_training_shows_its_traceback(store: ResultStore, tmp_path: Path) -> None:
    line = training("t", status="failed", error="no", traceback=f"File x\n{NASTY}")
    store.write("trainings", "t", [line])
    write_protocol(store, "first")
    text, checked = run(tmp_path)
    assert f"File x {NASTY}" in text
    assert "img" not in checked.tags


def test_a_served_study_is_a_page_that_asks_for_the_next(
    store: ResultStore, tmp_path: Path
) -> None:
    write_protocol(store, "first")
    command = [sys.executable, "-m", "study.report", "--results", store.root, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().removeprefix("serving ").strip()
        with urlopen(address, timeout=100) as answer:
            page = answer.read().decode()
        server.send_signal(signal.SIGINT)
        assert server.wait(100) == 0
    assert "data-poll" in page
    assert "connect-src 'self'" in page
    assert not (tmp_path / "report.html").exists()


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
        (["--figures", "figures", "--results", "results", "results"], "those of one study"),
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
    assert "holds no study; run python -m study.run first" in capsys.readouterr().err
