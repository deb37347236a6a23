"""The printed numbers, against the sources where they are here and against each other."""

import re
from pathlib import Path

import pytest

import search_spaces
from study.data.datasets.catalog import list_datasets
from study.results.published import published
from study.results.schema import to_table

SEEDS = Path(__file__).parents[3] / "shared" / "seeds"
STILT_DATASETS = ("ucf101", "hmdb51", "kinetics400")


def rows(table: str, metric: str = "top1") -> list[dict]:
    return [
        row
        for row in published().to_pylist()
        if row["table_name"] == table and row["metric"] == metric
    ]


def source(start: str) -> str:
    for path in SEEDS.glob(f"{start}*.txt"):
        return path.read_text()
    pytest.skip(f"no source {start} in {SEEDS}")


def test_every_line_fits_the_view_and_is_named() -> None:
    lines = published().to_pylist()
    to_table("published", lines)
    assert {line["table_name"] for line in lines} <= search_spaces.tables().keys()
    assert {line["dataset"] for line in lines} - {""} <= set(list_datasets())
    assert all(line["source"] and line["value"] is not None for line in lines)
    cells = [tuple(line[c] for c in ("table_name", "arm", "dataset", "metric")) for line in lines]
    assert len(cells) == len(set(cells))


@pytest.mark.parametrize("table", ["4", "5", "6"])
def test_stilt_tables_are_the_papers(table: str) -> None:
    text = source("001").partition(f"\nTable {table}\n")[2]
    printed = {}
    for line in text.partition("(%)\n")[2].splitlines():
        cells = line.split("\t")
        if len(cells) > 3:
            printed[cells[0]] = tuple(None if c == "–" else float(c) for c in cells[-3:])
        elif printed and line:
            break
    _, shown = search_spaces.find_table(f"stilt-{table}")
    assert [row.label for row in shown.rows] == list(printed)
    values = {(row["arm"], row["dataset"]): row["value"] for row in rows(shown.name)}
    for row in shown.rows:
        expected = [None if v is None else v / 100 for v in printed[row.label]]
        ours = [values.get((row.published_key, dataset)) for dataset in STILT_DATASETS]
        assert ours == pytest.approx(expected), row.label


def test_the_inconsistency_that_stilt_prints_is_kept() -> None:
    values = {
        table: row["value"]
        for table in ("stilt-4", "stilt-5")
        for row in rows(table)
        if (row["arm"], row["dataset"]) == ("stil", "kinetics400")
    }
    assert values == {"stilt-4": 0.688, "stilt-5": 0.680}


def test_every_number_of_cstm_is_in_its_source_and_none_of_its_rows_is_left_out() -> None:
    text = source("004")
    printed = re.findall(r"(?<![\d.])\d\d\.\d\d(?!\d)", text)
    ours = [
        f"{100 * line['value']:.2f}" for line in published().to_pylist() if line["system"] == "cstm"
    ]
    assert sorted(ours) == sorted(printed)


def test_a_table_without_a_public_number_has_no_line() -> None:
    for table in ("stin", "stilt-fusion"):
        assert search_spaces.find_table(table)
        assert not rows(table)


def test_stilt_fusion_has_both_nets_under_every_fusion() -> None:
    fusions = ["", "-weighted", "-early"]
    fusions += [f"-awf-{form}" for form in ("simplex", "floor", "l2", "entropy", "train")]
    expected = ["spatial", "temporal"]
    expected += [net + fusion for net in ("two-stream", "stil") for fusion in fusions]
    _, table = search_spaces.find_table("stilt-fusion")
    assert [row.arm for row in table.rows] == expected
    assert len(expected) == 18
