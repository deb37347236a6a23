"""Rows of different protocols never stand side by side."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from study import query, report
from study.results.page import render_page
from study.results.protocols import newest_protocols, select_protocols
from study.results.store import ResultStore
from study.results.tables import load, render
from tests.sample_results import STARTED, row, training, write_protocol, write_rows

OLD, NEW = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    """Three arms at one epoch, then two of them at four, under the same name."""
    store = ResultStore(tmp_path / "results")
    for day, protocol, epochs, arms in (
        (0, OLD, 1, {"spatial": 0.1, "temporal": 0.2, "two-stream": 0.3}),
        (1, NEW, 4, {"spatial": 0.6, "two-stream": 0.8}),
    ):
        started_at = STARTED + timedelta(days=day)
        write_protocol(
            store,
            "first",
            protocol=protocol,
            started_at=started_at,
            settings={"hyperparameters": {"epochs": epochs}},
            code={"shared": protocol},
        )
        write(store, protocol, arms, started_at=started_at)
    return store


def write(store: ResultStore, protocol: str, arms: dict[str, float], **values: Any) -> None:
    one = training(f"t-{protocol}", protocol=protocol, seconds=60.0, **values)
    store.write("trainings", one["training_id"], [one])
    for arm, top1 in arms.items():
        fusion = arm if arm in ("spatial", "temporal") else "average"
        common = {"protocol": protocol, "training_id": one["training_id"]}
        write_rows(store, row(arm, top1, fusion=fusion, **common))


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_table_shows_the_newest_protocol_alone_and_names_the_other(store: ResultStore) -> None:
    text = flat(render("stilt-4", store))
    for shown in ("60.0", "80.0", f"protocol {NEW}"):
        assert shown in text
    for hidden in ("10.0", "20.0", "30.0"):
        assert hidden not in text
    assert f"1 other protocol of it in these results: {OLD}" in text
    assert "epochs 1 instead of 4, code.shared" in text
    assert "--protocol shows one" in text


def test_another_protocol_is_shown_by_the_beginning_of_its_hash(store: ResultStore) -> None:
    text = flat(render("stilt-4", store, protocol=OLD[:3]))
    assert "20.0" in text
    assert "80.0" not in text
    assert f"in these results: {NEW}" in text
    cells = load("stilt-4", store, protocol=OLD).cells
    assert cells["temporal", "ucf101", "top1"].mean == pytest.approx(0.2)


def test_a_protocol_that_is_not_there_is_refused_with_those_that_are(store: ResultStore) -> None:
    with pytest.raises(ValueError, match=rf"--protocol c: .* there are {NEW} of first, {OLD} of"):
        render("stilt-4", store, protocol="c")


def test_a_protocol_without_rows_yet_does_not_hide_one_that_has_some(store: ResultStore) -> None:
    latest = STARTED + timedelta(days=2)
    write_protocol(store, "first", protocol="cccccccccccc", started_at=latest)
    selected = select_protocols(store, study="first")
    assert selected["first", "ucf101"].shown.protocol == NEW
    newest = newest_protocols(store, "first")
    assert {name: one.protocol for name, one in newest.items()} == {"ucf101": "cccccccccccc"}


def test_a_protocol_that_was_started_again_is_the_newest(store: ResultStore) -> None:
    write_protocol(store, "first", protocol=OLD, started_at=STARTED + timedelta(days=3))
    assert select_protocols(store)["first", "ucf101"].shown.protocol == OLD


def test_rows_whose_protocol_has_lost_its_line_are_shown_all_the_same(store: ResultStore) -> None:
    for path in Path(store.root, "protocols").glob("*"):
        path.unlink()
    assert len(select_protocols(store)["first", "ucf101"].others) == 1


def test_the_report_counts_and_compares_its_own_protocol_alone(store: ResultStore) -> None:
    text = flat(render_page(store, "first"))
    assert f"protocol <code>{NEW}</code>" in text
    assert "1 finished, 0 failed" in text
    assert f"1 other protocol of it in these results: {OLD}" in text
    assert "1 min" in text or "60 s" in text
    other = flat(render_page(store, "first", protocol=OLD))
    assert f"protocol <code>{OLD}</code>" in other
    assert "1 finished, 0 failed" in other


def test_the_report_counts_a_failed_training_under_its_own_protocol(store: ResultStore) -> None:
    failed = training("t-failed", protocol=NEW, status="failed", error="out of memory")
    store.write("trainings", "t-failed", [failed])
    assert "1 finished, 1 failed" in flat(render_page(store, "first"))
    assert "1 finished, 0 failed" in flat(render_page(store, "first", protocol=OLD))


def test_the_report_shows_a_study_that_has_no_rows_yet(store: ResultStore) -> None:
    write_protocol(store, "second", protocol=NEW)
    store.write("trainings", "own", [training("own", study="second", protocol=NEW)])
    assert "1 finished, 0 failed" in flat(render_page(store, "second"))


def test_the_report_counts_a_training_that_another_study_ran(store: ResultStore) -> None:
    write_rows(store, row("spatial", 0.5, study="second", training_id=f"t-{NEW}"))
    store.write("trainings", "own", [training("own", study="second")])
    assert "2 finished, 0 failed" in flat(render_page(store, "second"))


def test_both_commands_take_a_protocol(
    store: ResultStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--results", store.root, "--protocol", OLD]
    assert query.main(["--table", "stilt-4", *common]) == 0
    assert f"protocol {OLD}" in flat(capsys.readouterr().out)
    page = tmp_path / "page.html"
    assert report.main([*common, "--output", str(page)]) == 0
    assert f"protocol <code>{OLD}</code>" in page.read_text()
    assert query.main(["--table", "stilt-4", "--results", store.root, "--protocol", "c"]) == 2
    assert "no protocol with rows begins so" in capsys.readouterr().err


def test_arms_that_were_trained_on_different_machines_are_marked(store: ResultStore) -> None:
    assert "DIFFERENT MACHINES" not in render("stilt-4", store)
    on = {"device_kind": "NVIDIA L4", "torch": "2.11.0", "workers": 1, "compiled": False}
    store.write("trainings", f"t-{NEW}", [training(f"t-{NEW}", protocol=NEW, **on)])
    store.write("trainings", "other", [training("other", **{**on, "device_kind": "cpu"})])
    write_rows(store, row("stil", 0.9, protocol=NEW, training_id="other"))
    text = flat(render("stilt-4", store))
    assert "TRAINED ON DIFFERENT MACHINES on UCF101: device cpu (" in text
    assert "torch" not in text.partition("DIFFERENT MACHINES")[2].partition(".")[0]


def test_rows_of_an_earlier_version_are_a_clear_line_and_no_traceback(
    store: ResultStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in Path(store.root, "rows").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["protocol", "scoring_id"]), path)
    for path in Path(store.root, "trainings").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["protocol", "torch"]), path)
    assert query.main(["--table", "stilt-4", "--results", store.root]) == 2
    page = tmp_path / "page.html"
    assert report.main(["--results", store.root, "--output", str(page)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all("are of an earlier version of this program" in line for line in errors)
