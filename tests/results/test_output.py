"""Answers in every format, against what other readers make of them."""

import csv
import io
import json
import math
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from study.results import output
from study.results.connection import Connection, TooLargeError
from study.results.output import ANSWER_FORMATS, check_output, print_answer, write_answer
from study.results.store import ResultStore

EVERY_TYPE = """
    SELECT true AS a, 3::UTINYINT AS b, 3::HUGEINT AS c, 1.5::DECIMAL(9, 2) AS d,
           'inf'::FLOAT AS e, 'NaN'::DOUBLE AS f, 'é' AS g, '\\xAA'::BLOB AS h, '101'::BIT AS i,
           DATE '2026-01-02' AS j, TIME '01:02:03' AS k, TIMESTAMP '2026-01-02 03:04:05' AS l,
           TIMESTAMPTZ '2026-01-02 03:04:05+00' AS m, TIMETZ '01:02:03+02' AS n,
           TIMESTAMP_NS '2026-01-02 03:04:05.000000006' AS o, INTERVAL '3 days' AS p,
           '00000000-0000-0000-0000-000000000001'::UUID AS q, [1, NULL, 3] AS r,
           array_value('NaN'::FLOAT, 2) AS s, {'x': 1, 'y': [2]} AS t, MAP {'k': 1} AS u,
           union_value(v := 1) AS v, 'b'::ENUM ('a', 'b') AS w, NULL AS x,
           99999999999999999999999::BIGNUM AS y, [INTERVAL '1 hour'] AS z
"""


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with ResultStore(tmp_path / "results").connect() as opened:
        yield opened


def printed(connection: Connection, sql: str, form: str) -> str:
    sink = io.StringIO()
    print_answer(connection.execute(sql), form, sink)
    return sink.getvalue()


def strict_json(text: str) -> list[dict]:
    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    lines: list[dict] = json.loads(text, parse_constant=refused)
    return lines


@pytest.mark.parametrize("form", ANSWER_FORMATS)
def test_every_type_is_printed(connection: Connection, form: str) -> None:
    assert "2026-01-02" in printed(connection, EVERY_TYPE, form)


def test_every_type_is_json_that_any_reader_takes(connection: Connection) -> None:
    (line,) = strict_json(printed(connection, EVERY_TYPE, "json"))
    assert (line["a"], line["b"], line["c"], line["d"]) == (True, 3, 3, 1.5)
    assert line["e"] is line["f"] is line["x"] is None
    assert (line["g"], line["h"], line["i"], line["p"]) == ("é", "aa", "101", "3 days")
    assert (line["j"], line["k"], line["l"]) == ("2026-01-02", "01:02:03", "2026-01-02T03:04:05")
    assert (line["r"], line["s"], line["t"]) == ([1, None, 3], [None, 2], {"x": 1, "y": [2]})
    assert (line["w"], line["y"]) == ("b", "99999999999999999999999")


@pytest.mark.parametrize("ending", ["parquet", "csv", "json", "xlsx"])
def test_every_type_is_written(connection: Connection, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"answer.{ending}"
    write_answer(connection.execute(EVERY_TYPE), path)
    assert path.stat().st_size > 300
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


SQL = "SELECT range AS n, range / 7 AS x, 'a,\"' || range AS t FROM range(40000)"


def test_files_hold_what_duckdb_answers_itself(connection: Connection, tmp_path: Path) -> None:
    expected = duckdb.execute(SQL).fetchall()
    for ending in ("parquet", "csv", "json"):
        path = tmp_path / f"answer.{ending}"
        write_answer(connection.execute(SQL), path)
        assert duckdb.execute(f"SELECT * FROM '{path}' ORDER BY n").fetchall() == expected, ending


def test_a_sheet_holds_text_as_text_and_numbers_as_numbers(
    connection: Connection, tmp_path: Path
) -> None:
    sql = "SELECT '=1+1' AS formula, 0.25 AS top1, 'NaN'::DOUBLE AS gone, 2::BIGINT**60 AS large"
    path = tmp_path / "answer.xlsx"
    write_answer(connection.execute(sql), path)
    with zipfile.ZipFile(path) as book:
        sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
    cells = {cell.get("r"): "".join(cell.itertext()) for cell in sheet.iter() if cell.get("r")}
    expected = {"A1": "formula", "B1": "top1", "A2": "=1+1", "B2": "0.25"}
    assert expected.items() <= cells.items()
    assert "C2" not in cells
    assert not list(sheet.iter("{http://schemas.openxmlformats.org/spreadsheetml/2006/main}f"))


def test_what_a_sheet_cannot_hold_is_refused_and_leaves_no_file(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answer.xlsx"
    with pytest.raises(TooLargeError, match=r"at most 32,767 letters.* one of 40,000"):
        write_answer(connection.execute("SELECT repeat('x', 40000)"), path)
    monkeypatch.setattr(output, "LINES_OF_A_SHEET", 10)
    with pytest.raises(TooLargeError, match=r"at most 10 lines"):
        write_answer(connection.execute("SELECT * FROM range(11)"), path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs XlsxWriter; pip install"):
        check_output(tmp_path / "answer.xlsx")
    check_output(tmp_path / "answer.parquet")


def test_csv_keeps_every_digit(connection: Connection) -> None:
    text = printed(connection, "SELECT 1 / 3 AS x, NULL AS gone", "csv")
    (line,) = csv.DictReader(io.StringIO(text))
    assert float(line["x"]) == 1 / 3
    assert line["gone"] == ""


def test_parquet_keeps_nan_apart_from_nothing(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "answer.parquet"
    write_answer(connection.execute("SELECT 'NaN'::DOUBLE AS x, NULL::DOUBLE AS y"), path)
    (line,) = pq.read_table(path).to_pylist()
    assert math.isnan(line["x"])
    assert line["y"] is None
