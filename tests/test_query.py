"""``python -m study.query`` as a user runs it."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study import query
from study.results.schema import VIEWS
from study.results.status import Status, write_status
from study.results.store import ResultStore
from tests.sample_results import row, training, write_rows, write_study


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = ResultStore(tmp_path / "results")
    store.write("trainings", "t", [training("t")])
    write_rows(store, row("stil", 0.5), row("spatial", 0.25), row("temporal", 1 / 3))
    return tmp_path / "results"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = query.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_sql_is_answered_as_an_aligned_table(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT arm, top1, fusion_lambda FROM rows ORDER BY top1"
    code, out, err = run(capsys, sql, "--results", results)
    assert (code, err) == (0, "")
    assert out == (
        "arm           top1  fusion_lambda\n"
        "────────  ────────  ─────────────\n"
        "spatial       0.25  –\n"
        "temporal  0.333333  –\n"
        "stil           0.5  –\n"
    )


def test_csv_and_json_hold_everything_exactly(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT arm, top1, NULL AS gone FROM rows ORDER BY top1"
    _, out, _ = run(capsys, sql, "--results", results, "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [(line["arm"], float(line["top1"]), line["gone"]) for line in lines] == [
        ("spatial", 0.25, ""),
        ("temporal", 1 / 3, ""),
        ("stil", 0.5, ""),
    ]
    _, out, _ = run(capsys, sql, "--results", results, "--format", "json")
    assert json.loads(out)[1] == {"arm": "temporal", "top1": 1 / 3, "gone": None}
    _, out, _ = run(capsys, f"{sql} LIMIT 0", "--results", results, "--format", "json")
    assert json.loads(out) == []
    _, out, _ = run(
        capsys, "SELECT started_at FROM trainings", "--results", results, "--format=csv"
    )
    assert out == "started_at\n2026-01-02T03:04:05\n"


def test_markdown_and_latex_escape_names(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT 'a|b_c' AS \"x_y\""
    _, out, _ = run(capsys, sql, "--results", results, "--format", "markdown")
    assert out == "| x\\_y |\n| :--- |\n| a\\|b\\_c |\n"
    _, out, _ = run(capsys, sql, "--results", results, "--format", "latex")
    assert r"a\textbar{}b\_c \\" in out


def test_a_long_result_is_cut_as_text_and_whole_as_csv(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT * FROM range(12345)"
    _, out, _ = run(capsys, sql, "--results", results)
    assert len(out.splitlines()) == 103
    assert out.endswith("… and 12,245 more rows; use --format csv to have them all\n")
    _, out, _ = run(capsys, sql, "--results", results, "--format", "csv")
    assert len(out.splitlines()) == 12346
    endless = "SELECT a.range FROM range(1000000) a, range(1000000) b"
    _, out, _ = run(capsys, endless, "--results", results)
    assert out.endswith("… and more than 10,000,000 more rows; use --format csv to have them all\n")


def test_a_name_that_no_line_has_is_said_where_nothing_is_found(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT * FROM rows WHERE arm = 'spatail' AND study = 'first'"
    code, _, err = run(capsys, sql, "--results", results)
    said = "study.query: there is no arm 'spatail' (did you mean 'spatial'?)\n"
    assert (code, err) == (0, said)


@pytest.mark.parametrize(
    "arguments",
    [["SELECT count(*) FROM rows"], ["--list"], ["--table", "stilt-4"], ["--status"]],
    ids=lambda arguments: arguments[0].partition(" ")[0],
)
def test_an_answer_waits_for_nothing_that_trains_or_searches(
    results: Path, arguments: list[str]
) -> None:
    status = Status(study="first", state="done", host="node7", process=1, updated_at=0.0)
    write_status(ResultStore(results), status)
    code = (
        "import sys; from study.query import main; "
        f"code = main({[*arguments, '--results', str(results)]!r}); "
        "print(code, [name for name in ('torch', 'sklearn', 'optuna', 'ray') "
        "if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(query.__file__).parents[1])}
    output = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert output.splitlines()[-1] == "0 []"


def test_a_table_is_shown(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--table", "stilt-4", "--results", results)
    assert code == 0
    assert out.startswith("STILT, Table 4")
    assert "50.0" in out


def test_arms_are_compared(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ResultStore(results)
    write_study(store, study="one", classes=6)
    write_study(store, study="two", dataset="hmdb51", classes=6)
    code, out, _ = run(capsys, "--compare", "one", "--against", "stil", "--results", results)
    assert code == 0
    assert out.startswith("UCF101, one: arms against stil")
    _, out, _ = run(capsys, "--compare", "--results", results)
    assert out.startswith("UCF101, one: arms against two-stream")  # the first by name of the last
    _, out, _ = run(capsys, "--compare", "one", "two", "--results", results)
    assert "Ranks over 2 datasets" in out
    _, out, _ = run(capsys, "--compare", "one", "--format", "csv", "--results", results)
    assert [line["study"] for line in csv.DictReader(io.StringIO(out))] == ["one"] * 6
    _, out, _ = run(capsys, "--compare", "one", "--format", "markdown", "--results", results)
    assert out.startswith("**UCF101, one: arms against two-stream**")


def test_the_list_names_views_columns_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--list")
    assert code == 0
    for view, columns in VIEWS.items():
        assert view in out
        assert all(f"  {column.name} " in out for column in columns)
    assert "stilt-6" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SELEC 1"], "syntax error"),
        (["SELECT * FROM nope"], "there is no view 'nope'; there are trainings, epochs"),
        (["SELECT * FROM trials JOIN row USING (arm)"], r"no view 'row' \(did you mean 'rows'\?\)"),
        (["SELECT nope FROM rows"], "what the query reads has no column 'nope'; near are"),
        (["SELECT top_1 FROM rows"], r"has no column 'top_1' \(did you mean 'top1'\?\)"),
        (["SELECT r.ar FROM rows r"], r"has no column 'ar' \(did you mean 'arm'\?\)"),
        (["SELECT train_loss FROM rows"], "has no column 'train_loss'; epochs has it"),
        (
            ["SELECT 1", "--output", "rows.txt"],
            "rows.txt must end with .parquet, .csv, .json, .xlsx",
        ),
        (
            ["SELECT 1", "--output", "nowhere/rows.csv"],
            "there is no folder nowhere to write rows.csv",
        ),
        (["SELECT * FROM range(20000)", "--format", "latex"], "at most 10,000 lines"),
        (["SELECT 1; SELECT 2"], "one query is needed"),
        (["DROP VIEW rows"], "only SELECT is run, not DROP"),
        (["SELECT * FROM read_csv('/etc/passwd')"], "SQL reads the results and nothing else"),
        (["SELECT CAST('a' AS INT)"], "Could not convert"),
        (
            ["--table", "stilt-9"],
            r"no table 'stilt-9' \(did you mean 'stilt-\d'\?\); there are all",
        ),
        (["--table", "stilt-4", "--study", "x"], "there is no study 'x'.*there are first"),
        (["--compare", "x"], "there is no study 'x' with rows; there are first"),
        (["--compare", "first", "--against", "x"], "study 'first' has no arm 'x'; it has spatial"),
        (["--compare", "--against", "spatia"], r"no arm 'spatia' \(did you mean 'spatial'\?\)"),
        (["--compare", "--format", "json"], "no format 'json' of --compare; there are text"),
        (["--table", "stilt-4", "--format", "json"], "there is no format 'json'; there are text"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(
    results: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = run(capsys, *arguments, "--results", results)
    assert (code, out) == (2, "")
    assert err.startswith("study.query: ")
    assert len(err.splitlines()) == 1
    assert re.search(message, err)


def test_a_missing_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "SELECT 1", "--results", tmp_path / "nope")
    assert code == 2
    assert "nope" in err
    assert "--results" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["SELECT 1", "--table", "x"],
        ["SELECT 1", "--study", "x"],
        ["--list", "--against", "x"],
        ["--list", "--output", "x.csv"],
        ["SELECT 1", "--output", "x.csv", "--format", "csv"],
        ["--wrong"],
    ],
)
def test_wrong_flags_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        query.main(arguments)
    assert stopped.value.code == 2


def test_a_damaged_file_is_a_failure_named_on_one_line(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = (results / "trainings").iterdir()
    path.write_bytes(b"garbage")
    code, _, err = run(capsys, "SELECT * FROM trainings", "--results", results)
    assert code == 1
    assert path.name in err
    assert len(err.splitlines()) == 1


def test_ctrl_c_ends_a_long_query(results: Path) -> None:
    endless = (
        "SELECT count(*) FROM range(1000000) a, range(10000000) b WHERE hash(a.range + b.range) = 3"
    )
    code = f"""
import sys
from study import query
from study.results.connection import Connection
answer = Connection._run
def announced(*arguments):
    print("running", flush=True)
    return answer(*arguments)
Connection._run = announced
sys.exit(query.main({[endless, "--results", str(results)]}))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(query.__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate()
        finally:
            process.kill()
    assert (process.returncode, out, err) == (1, "", "study.query: interrupted\n")


def test_a_pipe_that_closes_early_is_no_error(results: Path) -> None:
    command = [sys.executable, "-m", "study.query", "SELECT * FROM range(3000000)"]
    command += ["--results", str(results), "--format", "csv"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(query.__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
