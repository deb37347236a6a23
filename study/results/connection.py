"""SQL over the results that can read them and do nothing else."""

import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from study.results.schema import VIEWS, schema

__all__ = ["Answer", "Connection", "RefusedStatementError"]

ATTEMPTS = 10  # of a query whose files are compacted away under it
BATCH = 4096
ALLOWED = {"SELECT", "MULTI"}  # MULTI is what DuckDB calls a PIVOT


class RefusedStatementError(ValueError):
    """SQL that would do something other than read the results."""


class Answer:
    """The whole answer to a query.

    Attributes:
        table: The answer as Arrow has it.
        names: The columns' names.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.names: list[str] = table.column_names

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yields the lines; a few thousand at a time are Python objects."""
        exact = [pa.types.is_decimal(field.type) for field in self.table.schema]
        for batch in self.table.to_batches(max_chunksize=BATCH):
            columns = [column.to_pylist() for column in batch.columns]
            for number, is_decimal in enumerate(exact):
                if is_decimal:
                    columns[number] = [_number(value) for value in columns[number]]
            yield from zip(*columns, strict=True)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Returns every line."""
        return list(self.rows())


def _number(value: Decimal | None) -> int | float | None:
    """Converts a DECIMAL, or the HUGEINT that a sum of whole numbers is."""
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


class Connection:
    """An in-memory DuckDB database with a view for each of ``VIEWS``, as they were when it opened.

    SQL in it reaches no file, network, extension, setting or Python variable, and only queries
    are run. A context manager.

    Args:
        scans: Returns what a view is read from (``store.Scan``); called again when a compaction
            has taken those files away.
    """

    def __init__(self, scans: Callable[[str], Sequence[Any]]) -> None:
        self._scans = scans
        self._database = self._open()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> "Answer":
        """Runs one query to its end.

        Args:
            sql: The query.
            parameters: The values of its ``?``.

        Raises:
            RefusedStatementError: If it isn't one query.
            DamagedResultError: If a file that it reads is damaged.
            duckdb.Error: If DuckDB refuses it or fails.
        """
        self._check(sql)
        for _ in range(ATTEMPTS - 1):
            try:
                return self._run(sql, list(parameters))
            except duckdb.Error as error:
                files = self._files
                self.close()
                self._database = self._open()
                if files <= self._files:
                    self._name_damage(error)
                    raise
        return self._run(sql, list(parameters))

    def _name_damage(self, error: duckdb.Error) -> None:
        """Checks all files where an error may come from reading them."""
        if isinstance(error, duckdb.InvalidInputException | duckdb.IOException):
            for view in VIEWS:
                for scan in self._scans(view):
                    scan.check()

    def _run(self, sql: str, parameters: list[Any]) -> "Answer":
        """Runs SQL in a thread, so that Ctrl-C reaches this one and ends the query."""
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(
                lambda: self._database.sql(sql, params=parameters).to_arrow_table()
            )
            try:
                return Answer(running.result())
            except KeyboardInterrupt:
                self._database.interrupt()
                raise

    def close(self) -> None:
        """Closes the database; the results stay as they are."""
        self._database.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, sql: str) -> None:
        statements = self._database.extract_statements(sql)
        if len(statements) != 1:
            raise RefusedStatementError(
                f"one query is needed, but got {len(statements) or 'nothing'}"
                + (" statements" if statements else "")
            )
        kind = statements[0].type.name
        if kind not in ALLOWED:
            raise RefusedStatementError(
                f"the results are read-only: only SELECT is run, not {kind}"
            )

    def _open(self) -> duckdb.DuckDBPyConnection:
        spill = Path(tempfile.gettempdir(), f"study-query-{secrets.token_hex(8)}")
        quoted = str(spill).replace("'", "''")
        database = duckdb.connect(
            ":memory:",
            config={
                "allow_community_extensions": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
            },
        )
        # Not in the configuration above, whose order is not kept: the folder must be set before
        # access is closed. It is made only when a query outgrows the memory.
        database.execute(f"SET temp_directory = '{quoted}'")
        database.execute("SET enable_external_access = false")
        self._files: set[str] = set()
        for view in VIEWS:
            self._create(database, view)
        database.execute("SET lock_configuration = true")
        return database

    def _create(self, database: duckdb.DuckDBPyConnection, view: str) -> None:
        """Makes a view that leaves out superseded keys and the store's own column."""
        columns = ", ".join(f'"{column.name}"' for column in VIEWS[view])
        database.register(f"_{view}", schema(view).empty_table())
        parts = [f"SELECT {columns} FROM _{view}"]
        for number, scan in enumerate(self._scans(view)):
            self._files |= set(getattr(scan.dataset, "files", ()))
            name = f"_{view}_{number}"
            database.register(name, scan.dataset)
            part = f"SELECT {columns} FROM {name}"
            if scan.hidden:
                keys = pa.table({"key": pa.array(sorted(scan.hidden), pa.string())})
                database.register(f"{name}_hidden", keys)
                part += f" WHERE _key NOT IN (SELECT key FROM {name}_hidden)"
            parts.append(part)
        database.execute(f"CREATE VIEW {view} AS {' UNION ALL '.join(parts)}")
