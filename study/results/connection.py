"""SQL over the results that can read them and do nothing else."""

import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from study.results.schema import VIEWS, schema

__all__ = ["Answer", "ChangedResultsError", "Connection", "RefusedStatementError", "TooLargeError"]

ATTEMPTS = 10  # of a query whose files are compacted away under it
BATCH = 16384  # lines of an answer that are read at once
HELD_BYTES = 64 * 2**20  # of an answer that are computed before any is read
WHOLE_BYTES = 2 * 2**30  # of an answer that is held whole
MEMORY, SPILL = "2 GiB", "8 GiB"  # of a query that sorts, groups or joins; then of its files
ALLOWED = {"SELECT", "MULTI"}  # MULTI is what DuckDB calls a PIVOT
# What has no counterpart in Arrow, or none that Parquet takes, is read as the text DuckDB prints.
AS_TEXT = re.compile(r"\b(BIGNUM|BIT|GEOMETRY|INTERVAL|TIME WITH TIME ZONE|UNION|VARIANT)\b")
FAULTS = (duckdb.Error, pa.ArrowException, OSError)

T = TypeVar("T")


class RefusedStatementError(ValueError):
    """SQL that would do something other than read the results."""


class TooLargeError(ValueError):
    """A query or an answer that outgrows its share of this machine."""


class ChangedResultsError(OSError):
    """Files that a compaction took away before a large answer was read to its end."""


class Answer:
    """An answer to a query, computed as it is read.

    One of up to 64 MiB is computed before it is handed out and may be read any number of times. Of
    a larger one the connection must stay open, and its lines are read once.

    Attributes:
        schema: The columns as Arrow has them.
        names: The columns' names.
        is_empty: Whether it has no line.
    """

    def __init__(self, schema: pa.Schema, following: Callable[[], pa.RecordBatch | None]) -> None:
        self.schema = schema
        self.names: list[str] = schema.names
        self._following = following
        self._held: list[pa.RecordBatch] = []
        self._whole = self._read = False
        size = 0
        while size <= HELD_BYTES and not self._whole:
            if (batch := following()) is None:
                self._whole = True
            else:
                self._held.append(batch)
                size += batch.nbytes
        self.is_empty = self._whole and not any(batch.num_rows for batch in self._held)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yields the lines, some thousands at a time.

        Raises:
            ValueError: If a large answer was read before.
            ChangedResultsError: If a compaction took the files of a large one away.
        """
        if self._read:
            raise ValueError("this answer is too large to be kept and was read before; ask again")
        self._read = not self._whole
        yield from self._held
        if not self._whole:
            yield from iter(self._following, None)

    @cached_property
    def table(self) -> pa.Table:
        """The whole answer.

        Raises:
            TooLargeError: If it is larger than 2 GiB.
        """
        batches, size = [], 0
        for batch in self.batches():
            batches.append(batch)
            size += batch.nbytes
            if size > WHOLE_BYTES:
                raise TooLargeError(
                    f"the answer is larger than {WHOLE_BYTES // 2**30} GiB; narrow it with WHERE, "
                    "GROUP BY or LIMIT, or read it batch by batch, as --output does"
                )
        return pa.Table.from_batches(batches, self.schema)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yields the lines as Python objects."""
        for batch in self.batches():
            yield from lines_of(batch)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Returns every line.

        Raises:
            TooLargeError: If the answer is larger than 2 GiB.
        """
        return [line for batch in self.table.to_batches() for line in lines_of(batch)]


def lines_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Yields a batch's lines as Python objects, numbers as int or float."""
    columns = [column.to_pylist() for column in batch.columns]
    for number, field in enumerate(batch.schema):
        if pa.types.is_decimal(field.type):
            columns[number] = [_number(value) for value in columns[number]]
    yield from zip(*columns, strict=True)


def _number(value: Decimal | None) -> int | float | None:
    """Converts a DECIMAL, or the HUGEINT that a sum of whole numbers is."""
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


class Connection:
    """An in-memory DuckDB database with a view for each of ``VIEWS``, as it was when first asked.

    SQL in it reaches no file, network, extension, setting or Python variable, and only queries
    are run, in 2 GiB of memory and 8 GiB of temporary files. A context manager.

    Args:
        scans: Returns what a view is read from (``store.Scan``); called again, with
            ``settled=True``, when files were replaced or merged under a query.
    """

    def __init__(self, scans: Callable[..., Sequence[Any]]) -> None:
        self._scans = scans
        self._database = self._open()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> "Answer":
        """Runs one query.

        Args:
            sql: The query.
            parameters: The values of its ``?``.

        Raises:
            RefusedStatementError: If it isn't one query.
            TooLargeError: If it needs more memory and temporary files than it may have.
            DamagedResultError: If a file that it reads is damaged.
            duckdb.Error: If DuckDB refuses it or fails.
        """
        self._check(sql)
        for _ in range(ATTEMPTS - 1):
            try:
                return self._run(sql, list(parameters))
            except FAULTS as error:
                if not _is_of_reading(error) or self._files <= self._there():
                    self._explain(error)
                    raise
                self.close()
                self._database = self._open(settled=True)
        return self._run(sql, list(parameters))

    def relation(self, sql: str) -> duckdb.DuckDBPyRelation:
        """Returns a query as a DuckDB relation, to go on with in Python.

        It is computed when it is read, from the files that were there when it was asked for.

        Args:
            sql: The query.

        Raises:
            RefusedStatementError: If it isn't one query.
            duckdb.Error: If DuckDB refuses it.
        """
        self._check(sql)
        self._read_views(sql)
        return self._database.sql(sql)

    def _explain(self, error: Exception) -> None:
        """Raises what says more of an error than the error itself, if anything does."""
        if isinstance(error, duckdb.OutOfMemoryException):
            raise TooLargeError(
                f"the query needs more than {MEMORY} of memory and {SPILL} of temporary files; "
                "narrow it with WHERE, GROUP BY or LIMIT, and see that its joins have conditions"
            ) from error
        if _is_of_reading(error):
            for view in VIEWS:
                for scan in self._scans(view):
                    scan.check()

    def _run(self, sql: str, parameters: list[Any]) -> "Answer":
        self._read_views(sql)

        def begun() -> pa.RecordBatchReader:
            return _in_arrow(self._database.sql(sql, params=parameters)).to_arrow_reader(BATCH)

        reader = self._interruptible(begun)
        answer: Answer | None = None

        def following() -> pa.RecordBatch | None:
            try:
                return self._interruptible(lambda: next(iter(reader), None))
            except FAULTS as error:
                if answer is not None:  # otherwise it can be asked again
                    self._explain_late(error)
                raise

        answer = Answer(reader.schema, following)
        return answer

    def _explain_late(self, error: Exception) -> None:
        """As `_explain`, of an answer of which a part was handed out."""
        if _is_of_reading(error) and not self._files <= self._there():
            raise ChangedResultsError(
                "files that were being read were replaced meanwhile; ask again"
            ) from error
        self._explain(error)

    def _there(self) -> set[str]:
        """Returns the files that the views are in now."""
        return {path for view in VIEWS for scan in self._scans(view) for path in _files(scan)}

    def _interruptible(self, work: Callable[[], T]) -> T:
        """Works in a thread, so that Ctrl-C reaches this one and ends the query."""
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(work)
            try:
                return running.result()
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

    def _open(self, *, settled: bool = False) -> duckdb.DuckDBPyConnection:
        spill = Path(tempfile.gettempdir(), f"study-query-{secrets.token_hex(8)}")
        quoted = str(spill).replace("'", "''")
        database = duckdb.connect(
            ":memory:",
            config={
                "allow_community_extensions": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "max_temp_directory_size": SPILL,
                "memory_limit": MEMORY,
                "python_enable_replacements": "false",
            },
        )
        # Not in the configuration above, whose order is not kept: the folder must be set before
        # access is closed. It is made only when a query outgrows the memory.
        database.execute(f"SET temp_directory = '{quoted}'")
        database.execute("SET enable_external_access = false")
        self._files: set[str] = set()
        self._empty = set(VIEWS)
        self._settled = settled
        for view in VIEWS:
            database.register(f"_{view}", schema(view).empty_table())
            database.execute(f"CREATE VIEW {view} AS SELECT {_columns(view)} FROM _{view}")
        database.execute("SET lock_configuration = true")
        return database

    def _read_views(self, sql: str) -> None:
        """Gives the views that a query may name their lines: to list the files takes its time."""
        text = sql.lower()
        dynamic = "query" in text  # DuckDB's functions of this name take views from strings
        for view in [view for view in self._empty if dynamic or view in text]:
            self._fill(view, self._scans(view, settled=self._settled))
            self._empty.remove(view)

    def _fill(self, view: str, scans: Sequence[Any]) -> None:
        """Has a view leave out superseded keys and the store's own column."""
        parts = [f"SELECT {_columns(view)} FROM _{view}"]
        for number, scan in enumerate(scans):
            self._files |= _files(scan)
            name = f"_{view}_{number}"
            self._database.register(name, scan.dataset)
            part = f"SELECT {_columns(view)} FROM {name}"
            if scan.hidden:
                keys = pa.table({"key": pa.array(sorted(scan.hidden), pa.string())})
                self._database.register(f"{name}_hidden", keys)
                part += f" WHERE _key NOT IN (SELECT key FROM {name}_hidden)"
            parts.append(part)
        self._database.execute(f"CREATE OR REPLACE VIEW {view} AS {' UNION ALL '.join(parts)}")


def _columns(view: str) -> str:
    return ", ".join(f'"{column.name}"' for column in VIEWS[view])


def _files(scan: Any) -> set[str]:
    return set(getattr(scan.dataset, "files", ()))


def _is_of_reading(error: Exception) -> bool:
    """Returns whether an error may come from the files, and not from the query alone."""
    reading = duckdb.InvalidInputException | duckdb.IOException
    return not isinstance(error, duckdb.Error) or isinstance(error, reading)


def _in_arrow(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Casts to text what Arrow or Parquet can't hold."""
    kinds = [str(kind) for kind in relation.types]
    if not any(map(AS_TEXT.search, kinds)):
        return relation
    columns = []
    for number, (name, kind) in enumerate(zip(relation.columns, kinds, strict=True), 1):
        value = f"CAST(#{number} AS VARCHAR)" if AS_TEXT.search(kind) else f"#{number}"
        quoted = name.replace('"', '""')
        columns.append(f'{value} AS "{quoted}"')
    return relation.project(", ".join(columns))
