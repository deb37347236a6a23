"""What a question to a large results folder costs, beside DuckDB alone on the same files.

    python -m benchmarks.results [--scale X]

At scale 1 the folder has 10^6 rows, 10^5 trainings and 10^7 lines of scores (of ten classes, a
hundred trainings' of 100,000 lines), in merged files as a long study leaves them. Each question is
asked three times through ``study.results`` and of DuckDB's own reading of the files, which checks
no sums and knows of no superseded line; printed are the least seconds and their ratio.
Last, one training's 100,000 lines of scores are read as matrices.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from study.results import ResultStore
from study.results.rows import load_scores
from study.results.schema import schema
from study.results.store import INDEX, KEY_COLUMN, WRITING, _version, packed_index

ASKED = 3
FILES = 10
CLASSES = 10
LINES = 100_000  # of one training's scores
QUESTIONS = {
    "rows, counted": "SELECT count(*) FROM rows",
    "rows by arm": "SELECT arm, avg(top1), stddev(top1) FROM rows GROUP BY arm",
    "rows of one arm": "SELECT * FROM rows WHERE arm = 'arm3' AND seed < 100",
    "trainings by status": "SELECT status, count(*), sum(seconds) FROM trainings GROUP BY status",
    "rows with trainings": "SELECT arm, sum(t.seconds) FROM rows JOIN trainings t USING "
    "(training_id) GROUP BY arm",
    "scores by stream": "SELECT stream, count(*) FROM scores GROUP BY stream",
    "top-1 from scores": "SELECT stream, avg((rank = 1)::INT) FROM scores GROUP BY stream",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="1 is 10^7 lines of scores")
    options = parser.parse_args()
    table = Table("question", "seconds", "DuckDB alone", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(folder)
        fill(store, options.scale)
        plain = duckdb.connect()
        for view in ("rows", "trainings", "scores"):
            plain.execute(f"CREATE VIEW {view} AS FROM '{folder}/{view}/*.parquet'")
        with store.connect() as connection:
            for name, sql in QUESTIONS.items():
                ours = least(lambda sql=sql: connection.execute(sql).table)
                theirs = least(lambda sql=sql: plain.sql(sql).to_arrow_table())
                table.add_row(name, f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.1f}")
        key = "'t0'"
        ours = least(lambda: load_scores(store, "t0"))
        one = f"SELECT * FROM scores WHERE scoring_id = {key}"
        theirs = least(lambda: plain.sql(one).to_arrow_table())
        name = f"{LINES:,} scores as matrices"
        table.add_row(name, f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.1f}")
    Console().print(table)


def least(work: Callable[[], object]) -> float:
    """Returns the least seconds of a few runs."""
    times = []
    for _ in range(ASKED):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def fill(store: ResultStore, scale: float) -> None:
    """Writes what a long study would leave, in merged files."""
    rng = np.random.default_rng(0)
    for file in range(FILES):
        trainings = np.arange(int(1e5 * scale) // FILES) + file * int(1e5 * scale) // FILES
        names = np.char.add("t", trainings.astype(str))
        columns = {
            "training_id": names,
            "seed": trainings,
            "status": np.where(trainings % 50, "finished", "failed"),
            "seconds": rng.random(len(trainings)) * 1e4,
        }
        write(store, "trainings", columns, names)
        arms = np.char.add("arm", np.tile(np.arange(10), len(names)).astype(str))
        columns = {
            "training_id": np.repeat(names, 10),
            "seed": np.repeat(trainings, 10),
            "arm": arms,
            "top1": rng.random(10 * len(names)),
        }
        write(store, "rows", columns, np.repeat(names, 10))
    videos = np.tile(np.char.add("class/v_", np.arange(LINES // 2).astype(str)), 2)
    for number in range(max(1, int(100 * scale))):
        own = np.full(LINES, f"t{number}")
        values = pa.array(rng.random(LINES * CLASSES, np.float32))
        columns = {
            "training_id": own,
            "scoring_id": own,
            "part": np.full(LINES, "test"),
            "video": videos,
            "label": np.tile(np.arange(LINES // 2) % CLASSES, 2),
            "stream": np.repeat(["spatial", "temporal"], LINES // 2),
            "rank": rng.integers(1, CLASSES + 1, LINES),
            "scores": pa.FixedSizeListArray.from_arrays(values, CLASSES).cast(
                pa.list_(pa.float32())
            ),
        }
        write(store, "scores", columns, own)


def write(store: ResultStore, view: str, columns: dict[str, object], keys: np.ndarray) -> None:
    """Writes a merged file; columns that aren't given are null."""
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(len(keys), field.type)
        for field in schema(view)
    ]
    write_merged(store, view, pa.table(arrays, schema=schema(view)), keys)


def write_merged(store: ResultStore, view: str, lines: pa.Table, keys: Sequence[str]) -> None:
    """Writes lines, each with its key, as a compaction leaves them."""
    table = lines.append_column(KEY_COLUMN, pa.array(keys, pa.string()))
    index = {INDEX: packed_index({key: _version() for key in sorted(set(keys))})}
    path = Path(store.root, view, f"~{_version()}.parquet")
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(table.replace_schema_metadata(index), path, **WRITING, row_group_size=100_000)


if __name__ == "__main__":
    main()
