"""SQL can read the results and do nothing else."""

from itertools import islice
from pathlib import Path

import duckdb
import pytest

from study.results import connection as connection_module
from study.results import open_results
from study.results.connection import (
    ChangedResultsError,
    Connection,
    RefusedStatementError,
    TooLargeError,
)
from study.results.store import ResultStore
from tests.sample_results import row, write_rows

SECRET = [1, 2, 3]  # a Python variable that SQL must not see


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path / "results")
    write_rows(store, row("stil", 0.5), row("spatial", 0.25))
    return store


@pytest.fixture
def connection(store: ResultStore) -> Connection:
    return store.connect()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM rows",
        "FROM rows",
        "WITH best AS (SELECT max(top1) AS top1 FROM rows) SELECT * FROM best",
        "DESCRIBE rows",
        "SUMMARIZE rows",
        "SHOW TABLES",
        "PIVOT rows ON arm USING avg(top1) GROUP BY dataset",
        "SELECT * FROM rows SEMI JOIN published USING (arm)",
        "SELECT arm FROM ROWS",
        "SELECT * FROM query_table('ro' || 'ws')",
        "SELECT 1;",
    ],
)
def test_queries_run(connection: Connection, sql: str) -> None:
    assert connection.execute(sql).fetchall()


def test_parameters_are_values(connection: Connection) -> None:
    result = connection.execute("SELECT top1 FROM rows WHERE arm = ?", ["stil"])
    assert result.fetchall() == [(0.5,)]
    assert connection.execute("SELECT 1 FROM rows WHERE arm = ?", ["' OR ''='"]).fetchall() == []


def test_numbers_are_numbers_and_columns_of_one_name_are_kept(connection: Connection) -> None:
    answer = connection.execute(
        "SELECT sum(videos), sum(videos) AS n, 12.50, 2.0, NULL, 3 AS n FROM rows"
    )
    assert answer.names[1] == answer.names[5] == "n"
    (line,) = answer.fetchall()
    assert line == (84, 84, 12.5, 2, None, 3)
    assert [type(value) for value in line[:3]] == [int, int, float]


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("INSERT INTO rows SELECT * FROM rows", "INSERT"),
        ("DELETE FROM rows", "DELETE"),
        ("UPDATE rows SET top1 = 1", "UPDATE"),
        ("CREATE TABLE x (a INT)", "CREATE"),
        ("CREATE OR REPLACE TEMP VIEW rows AS SELECT 1", "CREATE"),
        ("DROP VIEW rows", "DROP"),
        ("ALTER VIEW rows RENAME TO x", "ALTER"),
        ("COPY rows TO 'x.csv'", "COPY"),
        ("ATTACH 'x.db'", "ATTACH"),
        ("INSTALL httpfs", "LOAD"),
        ("LOAD httpfs", "LOAD"),
        ("SET threads = 1", "SET"),
        ("PRAGMA version", "PRAGMA"),
        ("CALL pragma_version()", "CALL"),
        ("BEGIN", "TRANSACTION"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("EXPLAIN ANALYZE CREATE TABLE x (a INT)", "EXPLAIN"),
        ("EXPORT DATABASE 'x'", "EXPORT"),
    ],
)
def test_everything_else_is_refused(connection: Connection, sql: str, kind: str) -> None:
    with pytest.raises(RefusedStatementError, match=f"read-only: only SELECT is run, not {kind}"):
        connection.execute(sql)
    assert connection.execute("SELECT count(*) FROM rows").fetchall() == [(2,)]


@pytest.mark.parametrize(
    ("sql", "message"),
    [("SELECT 1; SELECT 2", "got 2 statements"), ("", "nothing"), ("-- only a comment", "nothing")],
)
def test_one_query_at_a_time(connection: Connection, sql: str, message: str) -> None:
    with pytest.raises(RefusedStatementError, match=message):
        connection.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{file}'",
        "SELECT * FROM read_parquet('{file}')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('{file}')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM parquet_metadata('{file}')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT getenv('HOME')",
        "SELECT * FROM SECRET",
        "WITH x AS (INSERT INTO rows SELECT * FROM rows RETURNING *) SELECT * FROM x",
    ],
)
def test_no_file_network_environment_or_python_variable_is_reached(
    connection: Connection, store: ResultStore, sql: str
) -> None:
    assert SECRET
    file = next(Path(store.root).rglob("*.parquet"))
    with pytest.raises(duckdb.Error):
        connection.execute(sql.format(file=file)).fetchall()


def test_the_configuration_is_locked(connection: Connection) -> None:
    with pytest.raises(duckdb.Error, match="locked"):
        connection._database.execute("SET enable_external_access = true")


def test_nothing_is_written_where_the_command_runs(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    connection.execute("SELECT * FROM range(1000000) r(x) ORDER BY hash(x)")
    assert list(Path().iterdir()) == []


def test_python_has_an_answer_as_arrow_as_pandas_and_as_a_relation(store: ResultStore) -> None:
    with open_results(store.root).connect() as connection:
        answer = connection.execute("SELECT arm, top1 FROM rows ORDER BY top1")
        assert answer.table.to_pydict() == {"arm": ["spatial", "stil"], "top1": [0.25, 0.5]}
        assert answer.table.to_pandas().set_index("arm").top1["stil"] == 0.5
        assert answer.fetchall() == list(answer.rows()) == [("spatial", 0.25), ("stil", 0.5)]
        best = connection.relation("FROM rows").filter("top1 > 0.3").project("arm")
        assert best.fetchall() == [("stil",)]
        with pytest.raises(RefusedStatementError):
            connection.relation("DROP VIEW rows")


ENDLESS = "SELECT a.range AS x, b.range AS y FROM range(1000000) a, range(1000000) b"


def test_an_endless_answer_is_read_as_it_is_computed(connection: Connection) -> None:
    answer = connection.execute(ENDLESS)
    assert len(list(islice(answer.rows(), 50_000))) == 50_000
    with pytest.raises(ValueError, match="was read before; ask again"):
        answer.fetchall()


def test_what_outgrows_its_share_of_the_machine_is_refused(
    connection: Connection, store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "WHOLE_BYTES", connection_module.HELD_BYTES)
    with pytest.raises(TooLargeError, match=r"answer is larger.* narrow it with WHERE"):
        connection.execute(ENDLESS).fetchall()
    monkeypatch.setattr(connection_module, "MEMORY", "64 MiB")
    with (
        store.connect() as small,
        pytest.raises(TooLargeError, match=r"more than 64 MiB of memory and 8 GiB of temporary"),
    ):
        small.execute(f"SELECT list(x) FROM ({ENDLESS})").fetchall()


def test_a_large_answer_whose_files_are_merged_under_it_says_so(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "HELD_BYTES", 0)
    monkeypatch.setattr(connection_module, "BATCH", 1)
    with store.connect() as connection:
        answer = connection.execute("SELECT 1 FROM range(100000), rows")

        def gone() -> None:
            raise OSError("no such file")

        monkeypatch.setattr(connection, "_interruptible", lambda work: gone())
        store.compact(above=0)
        with pytest.raises(ChangedResultsError, match="replaced meanwhile; ask again"):
            list(answer.rows())
