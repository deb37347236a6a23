"""What a study shows, as grids in any format."""

import csv
import io
import re
from pathlib import Path

import pytest

from study.results.comparison import compare
from study.results.findings import (
    Findings,
    arm_labels,
    comparison_csv,
    find,
    over_datasets,
    sections,
    selected,
    studies,
)
from study.results.predictions import judgements
from study.results.ranking import aggregate
from study.results.store import ResultStore
from tests.sample_results import ARMS, PROTOCOL, row, write_rows, write_study


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    store = ResultStore(tmp_path_factory.mktemp("results"))
    write_study(store, study="one", classes=12)
    write_study(store, study="two", dataset="hmdb51", classes=6)
    return store


def find_in(store: ResultStore, study: str, *, against: str | None = None) -> Findings:
    """What a study of one dataset shows."""
    (selection,) = selected(store, study)
    return find(store, selection.shown, against=against)


def test_every_arm_is_compared_with_the_numbers_of_its_estimate(store: ResultStore) -> None:
    found = find_in(store, "one")
    section = sections(found)[0]
    assert section.title == "UCF101, one: arms against two-stream"
    compared = compare(
        judgements(store, study="one", dataset="ucf101", protocol=PROTOCOL), "two-stream"
    )
    rows = {line[0]: line for line in section.grid.rows}
    assert rows.keys() == ARMS.keys() - {"two-stream"}
    for one in compared:
        assert rows[one.arm][1].replace("−", "-") == f"{100 * one.estimate.value:+.1f}"
        assert one.interval is not None
        ends = [float(end) for end in re.findall(r"[+-][\d.]+", rows[one.arm][2].replace("−", "-"))]
        assert ends == pytest.approx([100 * one.interval.low, 100 * one.interval.high], abs=0.051)
        assert rows[one.arm][4] == f"{100 * one.improvement:.0f} %"
    assert "144 test videos" in section.notes[0]
    assert "seeds: 3" in section.notes[0]


def test_what_there_is_nothing_of_is_left_out(store: ResultStore) -> None:
    titles = [section.title for section in sections(find_in(store, "one"))]
    assert titles == [
        "UCF101, one: arms against two-stream",
        "Classes: stil-awf-simplex against two-stream",
        "Budget spent",
        "Expected best by number of trials",
    ]


def test_main_effects_are_shown_where_the_arms_are_a_factorial(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    write_study(store, study="one", arms={**ARMS, "stil-awf-entropy": ("stil", "awf-entropy", 0.8)})
    (section,) = [
        section
        for section in sections(find_in(store, "one"))
        if section.title == "Main effects and interactions"
    ]
    assert [line[0] for line in section.grid.rows] == [
        "net of stil",
        "fusion awf-entropy",
        "stil × awf-entropy",
    ]


def test_text_fits_the_terminal_and_csv_holds_numbers(store: ResultStore) -> None:
    found = [find_in(store, "one"), find_in(store, "two", against="stil")]
    for section in [*(s for one in found for s in sections(one)), *over_datasets(found)]:
        assert max(map(len, section.text().splitlines())) <= 80
    lines = list(csv.DictReader(io.StringIO(comparison_csv(found))))
    assert len(lines) == 2 * (len(ARMS) - 1)
    assert {(line["study"], line["reference"]) for line in lines} == {
        ("one", "two-stream"),
        ("two", "stil"),
    }
    assert all(float(line["low"]) < float(line["difference"]) for line in lines)


def test_over_datasets_arms_are_ranked_and_their_runs_aggregated(store: ResultStore) -> None:
    found = [find_in(store, "one"), find_in(store, "two")]
    whole, ranks = over_datasets(found)
    runs = [of.judged["stil"].correct.mean(1) for of in found]
    (line,) = [line for line in whole.grid.rows if line[0] == "stil"]
    assert line[1].startswith(f"{100 * aggregate(runs, 'mean').value:.1f} [")
    assert ranks.title == "Ranks over 2 datasets"
    assert ranks.grid.rows[0][0] == "stil-awf-simplex"
    assert over_datasets(found[:1]) == []
    with pytest.raises(ValueError, match=r"may be there once, but got ucf101 \(one\), ucf101"):
        over_datasets([found[0], found[0]])


def test_an_arm_that_is_not_there_is_refused(store: ResultStore) -> None:
    with pytest.raises(ValueError, match="study 'one' has no arm 'nope'; it has spatial, temporal"):
        find_in(store, "one", against="nope")
    with pytest.raises(ValueError, match="no study 'nope' with rows; there are one, two"):
        selected(store, "nope")
    assert [one.shown.dataset for one in selected(store, "two")] == ["hmdb51"]
    assert sorted(studies(store)) == ["one", "two"]


def test_rows_without_predictions_leave_only_the_budget(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    write_rows(store, row("stil", 0.5))
    found = find_in(store, "first")
    assert found.comparisons == []
    assert [section.title for section in sections(found)] == ["Budget spent"]


def test_arms_that_the_space_does_not_have_come_last_in_their_numbers_order() -> None:
    labels = arm_labels(["stilt"] * 4, ["depth-10", "stil", "depth-2", "spatial"])
    assert list(labels) == ["spatial", "stil", "depth-2", "depth-10"]
    assert labels["stil"] == "Two-stream + STIL"
    assert labels["depth-2"] == "depth-2"
