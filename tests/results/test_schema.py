"""The results' columns, and what they refuse."""

import math
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.provenance import canonical_json
from study.results.schema import VIEWS, blocks_to_table, schema, to_table
from tests.sample_results import row, training

DESIGN = Path(__file__).parents[3] / "shared" / "DESIGN.md"

EPOCH = {"training_id": "t", "epoch": 0, "lr": 0.1, "train_loss": 1.5, "losses": {}, "seconds": 2.0}
SCORES = {
    "training_id": "t",
    "scoring_id": "s",
    "part": "test",
    "video": "Diving/a",
    "label": 1,
    "stream": "spatial",
    "scores": [0.25, 0.75],
}


def test_every_view_starts_with_the_columns_that_the_design_promises() -> None:
    if not DESIGN.is_file():
        pytest.skip(f"{DESIGN} is not here")
    section = DESIGN.read_text().partition("## Views")[2].partition("\n## ")[0]
    promised = re.findall(r"^\| `(\w+)` \|[^|]*\| (.+) \|$", section, re.MULTILINE)
    assert len(promised) == 6
    for view, columns in promised:
        names = [re.sub(r" \(.*", "", name) for name in re.split(r", (?![^(]*\))", columns)]
        assert schema(view).names[: len(names)] == names, view


def test_json_columns_hold_canonical_json() -> None:
    one = to_table("trainings", [training("t", options={"b": 1, "a": [2.5, None]})])
    assert one["options"].to_pylist() == ['{"a":[2.5,null],"b":1}']
    other = to_table("trainings", [training("t", options=' {"a": [2.5, null], "b": 1}')])
    assert other["options"] == one["options"]


def test_a_diverged_loss_is_kept_as_null_in_json() -> None:
    losses = {"spatial": math.nan, "temporal": [math.inf, 1.0]}
    table = to_table("epochs", [{**EPOCH, "losses": losses, "train_loss": math.nan}])
    assert table["losses"].to_pylist() == ['{"spatial":null,"temporal":[null,1.0]}']
    assert math.isnan(table["train_loss"][0].as_py())


def test_canonical_json_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(ValueError, match="can't be written as JSON"):
        canonical_json({"a": math.nan})
    with pytest.raises(ValueError, match="can't be written as JSON"):
        canonical_json({"a": object()})


def test_times_are_kept_in_utc() -> None:
    here = datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    table = to_table("trainings", [training("t", started_at=here)])
    assert table["started_at"].to_pylist() == [datetime(2026, 5, 1, 10)]
    with pytest.raises(ValueError, match="time zone"):
        to_table("trainings", [training("t", started_at=here.astimezone(UTC).replace(tzinfo=None))])


def test_numpy_values_are_taken_as_they_are() -> None:
    values = np.array([0.5, 0.5], np.float32)
    table = to_table("scores", [{**SCORES, "label": np.int64(1), "scores": values}])
    assert table["scores"].to_pylist() == [[0.5, 0.5]]
    assert table["label"].to_pylist() == [1]


def test_the_rank_is_the_place_of_the_class_among_the_scores_of_any_number_of_classes() -> None:
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for _ in range(200):
        values = rng.integers(0, 4, rng.integers(1, 7)) / 4  # many ties
        lines.append({**SCORES, "label": int(rng.integers(len(values))), "scores": values})
    ranks = to_table("scores", lines)["rank"].to_pylist()
    for line, rank in zip(lines, ranks, strict=True):
        ordered = sorted(range(len(line["scores"])), key=lambda n: (-line["scores"][n], n))
        assert rank == 1 + ordered.index(line["label"])
    assert to_table("scores", []).num_rows == 0
    with pytest.raises(ValueError, match="line 0 has label 2, but scores of 2 classes"):
        to_table("scores", [{**SCORES, "label": 2}])


BLOCK = {**SCORES, "video": ["a", "b"], "label": [0, 1], "scores": [[0.25, 0.75], [0.5, 0.5]]}


@pytest.mark.parametrize(
    ("view", "block", "message"),
    [
        ("scores", {**BLOCK, "rank": [1, 1]}, "block 0: unknown column 'rank'"),
        ("scores", {**BLOCK, "video": ["a"]}, "one length are needed, but got .*'video': 1"),
        ("scores", SCORES | {"scores": 0.5}, "columns of one length are needed, but got {}"),
        ("scores", {**BLOCK, "scores": [[0.5, math.nan]] * 2}, r"'scores': finite numbers \(lines"),
        ("scores", {**BLOCK, "label": ["a", "b"]}, "'label': int64 is needed"),
        ("scores", {**BLOCK, "video": ["a", None]}, "'video': a value is needed in each line"),
        ("scores", {**BLOCK, "part": ["test", "all"]}, "'part': got {'all'}; allowed are train"),
        ("scores", {**BLOCK, "part": "all"}, "'all'; allowed are train"),
        ("rows", {**row("stil", 0.5), "top1": [0.5, 1.5]}, r"fraction within 0\.\.1.*1\.5"),
    ],
)
def test_a_block_that_does_not_fit_is_refused_by_name(view: str, block: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blocks_to_table(view, [block])


@pytest.mark.parametrize(
    ("view", "line", "message"),
    [
        ("rows", row("stil", 56.2), r"row 0, column 'top1'.*fraction within 0\.\.1.*56\.2"),
        ("rows", row("stil", math.nan), r"fraction within 0\.\.1.*nan"),
        ("rows", row("stil", 0.5, part="train"), "'train'; allowed are validation, test"),
        ("rows", row("stil", 0.5, tuning="other"), "allowed are net, own, shared, fixed"),
        ("rows", row("stil", 0.5, seed=1.5), "a whole number is needed, but got 1.5"),
        ("rows", row("stil", 0.5, seed=True), "a whole number is needed, but got True"),
        ("rows", row("stil", 0.5, split=1), r"a string is needed, but got 1 \(int\)"),
        ("rows", row("stil", 0.5, extra=1), "unknown column 'extra'; it has study, space"),
        ("rows", {**row("stil", 0.5), "arm": None}, "column 'arm': a value is needed"),
        ("trainings", training("t", options="{"), "not JSON"),
        ("trainings", training("t", dirty=1), "true or false is needed"),
        ("trainings", training("t", status="done"), "allowed are finished, failed"),
        ("scores", {**SCORES, "scores": [0.5, math.nan]}, "finite numbers"),
        ("scores", {**SCORES, "scores": [[0.5]]}, "flat list"),
        ("scores", {**SCORES, "scores": "ab"}, "flat list"),
        ("nothing", {}, "there is no view 'nothing'; there are trainings, epochs"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_by_name(view: str, line: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_table(view, [line])


def test_columns_that_are_not_required_may_be_left_out() -> None:
    table = to_table("epochs", [EPOCH])
    assert table["validation_top1"].null_count == 1
    assert table.schema == schema("epochs")


def test_no_column_has_a_name_that_sql_would_need_quoted() -> None:
    import duckdb

    reserved = {
        word
        for (word,) in duckdb.execute(
            "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
        ).fetchall()
    }
    assert not reserved & {column.name for columns in VIEWS.values() for column in columns}
    assert not reserved & VIEWS.keys()
