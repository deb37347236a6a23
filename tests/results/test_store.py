"""The store: whole files, no locks, no loss."""

import multiprocessing
import os
import random
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from study.results import store as store_module
from study.results.schema import STORED_VIEWS, schema, to_table
from study.results.store import ResultStore, open_results
from tests.sample_results import row, training


def numbered(n: int, **values: Any) -> dict[str, Any]:
    return training(f"t{n}", seed=n, **values)


def seeds(store: ResultStore) -> list[int]:
    """Every line's seed as SQL has it, which must be what ``read`` has."""
    with store.connect() as connection:
        by_sql = [seed for (seed,) in connection.execute("SELECT seed FROM trainings").fetchall()]
    assert sorted(by_sql) == sorted(store.read("trainings")["seed"].to_pylist())
    return sorted(by_sql)


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ResultStore:
    """A store in a local folder, and one in pyarrow's in-memory file system for S3's part."""
    return ResultStore(tmp_path / "results" if request.param == "local" else "mock:///results")


def test_what_was_written_is_read(store: ResultStore) -> None:
    assert not store.exists()
    store.write("trainings", "t1", [numbered(1)])
    store.write("trainings", "t2", [numbered(2)])
    assert store.exists()
    assert seeds(store) == [1, 2]
    assert store.read("trainings", seed=2)["training_id"].to_pylist() == ["t2"]
    assert store.read("trainings", seed=[1, 2, 3], split="1").num_rows == 2
    assert store.read("trainings", columns=["seed"], keys=["t2"]).to_pylist() == [{"seed": 2}]
    assert store.read("trainings", keys=["t3"]).num_rows == 0


def test_every_view_is_there_before_anything_is_written(store: ResultStore) -> None:
    with store.connect() as connection:
        for view in STORED_VIEWS:
            result = connection.execute(f"SELECT * FROM {view}")
            assert result.names == schema(view).names
            assert result.fetchall() == []
    assert store.read("scores").schema == schema("scores")


def test_lines_given_by_column_are_those_given_one_by_one(store: ResultStore) -> None:
    matrix = np.random.default_rng(0).random((3, 4), np.float32)
    same = {"training_id": "t", "scoring_id": "s", "part": "test", "stream": "spatial"}
    videos, labels = ["c", "a", "b"], np.array([0, 3, 1])
    store.write_blocks(
        "scores",
        "by column",
        [
            {**same, "video": videos[:2], "label": labels[:2], "scores": matrix[:2]},
            {**same, "video": videos[2:], "label": labels[2:], "scores": matrix[2:]},
        ],
    )
    lines = [
        {**same, "video": video, "label": label, "scores": line}
        for video, label, line in zip(videos, labels, matrix, strict=True)
    ]
    store.write("scores", "one by one", lines)
    by_column, one_by_one = (
        store.read("scores", keys=[key]) for key in ("by column", "one by one")
    )
    assert by_column.combine_chunks() == one_by_one.combine_chunks()
    encoded = store.read("scores", keys=["by column"], encoded=True)
    assert encoded.cast(by_column.schema).combine_chunks() == by_column.combine_chunks()


def test_an_equal_key_replaces_and_another_does_not(store: ResultStore) -> None:
    store.write("trainings", "a", [numbered(1), numbered(2)])
    store.write("trainings", "A", [numbered(3)])
    store.write("trainings", "a", [numbered(4)])
    assert seeds(store) == [3, 4]
    store.write("trainings", "a", [])
    assert seeds(store) == [3]


@pytest.mark.parametrize(
    "key",
    [
        "a/b",
        "../../etc/passwd",
        ".hidden",
        "~",
        "a~b",
        "é λ",
        "a%2Fb",
        "x" * 5000,
        "new\nline",
        "a b",
    ],
)
def test_any_text_is_a_key(store: ResultStore, key: str) -> None:
    store.write("trainings", key, [numbered(1)])
    store.write("trainings", key + "!", [numbered(2)])
    store.write("trainings", key, [numbered(3)])
    assert seeds(store) == [2, 3]
    store.compact(above=0)
    assert seeds(store) == [2, 3]
    assert store.read("trainings", keys=[key])["seed"].to_pylist() == [3]


def test_a_file_name_says_what_it_holds(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write("rows", ("stilt-ucf101", "stil", "split-1", "seed-2"), [row("stil", 0.5)])
    store.write("trials", ("s", "ucf101-1/stil/0123", "trial-7"), [])
    (name,) = (path.name for path in (tmp_path / "rows").iterdir())
    key, _, version = name.partition("~")
    assert key == "stilt-ucf101,stil,split-1,seed-2"
    written = datetime.strptime(version.partition(".")[0], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - written).total_seconds()) < 60
    (name,) = (path.name for path in (tmp_path / "trials").iterdir())
    assert re.match(r"s,ucf101-1-stil-0123,trial-7\+[0-9a-f]{16}~", name)


def test_words_of_a_key_that_would_be_one_name_are_two_files(store: ResultStore) -> None:
    for n, key in enumerate([("a", "b"), "a,b", ("a,b",), ("a/b",), ("a", "b", "c"), "a-b"]):
        store.write("trainings", key, [numbered(n)])
    assert seeds(store) == [0, 2, 3, 4, 5]  # a text is a key of one word
    with pytest.raises(ValueError, match="a key must not be empty"):
        store.write("trainings", ("a", ""), [])


def plain_seeds(folder: Path) -> list[int]:
    """What DuckDB and pandas alone read of a view's files, which must be the same."""
    sql = f"SELECT seed FROM '{folder}/*.parquet'"
    by_duckdb = sorted(seed for (seed,) in duckdb.execute(sql).fetchall())
    assert sorted(pandas.read_parquet(folder)["seed"]) == by_duckdb
    return by_duckdb


def test_files_alone_have_each_line_once_after_it_was_written_again(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for _ in range(3):
        for n in range(5):
            store.write("trainings", f"t{n}", [numbered(n)])
        assert plain_seeds(tmp_path / "trainings") == list(range(5))
    store.compact(above=0)
    assert plain_seeds(tmp_path / "trainings") == list(range(5))
    store.write("trainings", "t3", [numbered(103)])
    store.write("trainings", "t9", [numbered(9)])
    store.compact()  # they are few, but one of them replaces a merged one
    assert plain_seeds(tmp_path / "trainings") == [0, 1, 2, 4, 9, 103]
    assert seeds(store) == [0, 1, 2, 4, 9, 103]
    for n in range(5):
        store.write("trainings", f"t{n}", [numbered(200 + n)])
    store.compact()  # nothing of the merged file is left
    assert plain_seeds(tmp_path / "trainings") == [9, *range(200, 205)]


@pytest.mark.parametrize("merged", [False, True])
def test_a_writer_that_dies_while_it_replaces_leaves_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merged: bool
) -> None:
    store = ResultStore(tmp_path)
    store.write("trainings", "t", [numbered(1)])

    def dying(*_: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(CrashError):
            store.write("trainings", "t", [numbered(2)])
    assert seeds(store) == plain_seeds(tmp_path / "trainings") == [2]
    if merged:
        store.compact(above=0)
    store.write("trainings", "t", [numbered(3)])
    store.compact()
    assert seeds(store) == plain_seeds(tmp_path / "trainings") == [3]


def test_a_file_that_a_compaction_deletes_while_it_is_replaced_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResultStore(tmp_path)
    store.write("trainings", "t", [numbered(1)])
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        self.unlink()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    store.write("trainings", "t", [numbered(2)])
    assert seeds(store) == [2]


def test_files_that_are_replaced_all_the_time_are_read_all_the_same(tmp_path: Path) -> None:
    store, stop = ResultStore(tmp_path), threading.Event()
    for n in range(10):
        store.write("trainings", f"t{n}", [numbered(n)])

    def writing() -> None:
        while not stop.is_set():
            for n in range(10):
                store.write("trainings", f"t{n}", [numbered(n)])

    writer = threading.Thread(target=writing)
    writer.start()
    try:
        for _ in range(5):
            assert seeds(ResultStore(tmp_path)) == list(range(10))
    finally:
        stop.set()
        writer.join()


def test_the_folder_explains_itself(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write("trainings", "t", [numbered(1)])
    text = (store.file("README.md") or b"").decode()
    assert all(f"| `{name}` |" in text for view in STORED_VIEWS for name in schema(view).names)
    store.put_file("README.md", b"of an older version")
    ResultStore(store.root).write("trainings", "t", [numbered(2)])
    assert (store.file("README.md") or b"").decode() == text


def test_keys_stay_inside_the_folder(tmp_path: Path) -> None:
    ResultStore(tmp_path / "results").write("trainings", "../../x", [numbered(1)])
    assert [path.parent for path in tmp_path.rglob("*.parquet")] == [tmp_path / "results/trainings"]


def test_bad_input_writes_nothing(store: ResultStore) -> None:
    with pytest.raises(ValueError, match="column 'top1'"):
        store.write("rows", "k", [row("stil", 0.5), row("stil", 50.0)])
    with pytest.raises(ValueError, match="'published' can't be written; there are trainings"):
        store.write("published", "k", [])
    with pytest.raises(ValueError, match="key must not be empty"):
        store.write("rows", "", [])
    assert not store.exists()
    with pytest.raises(ValueError, match="no column 'nope'; it has study, space"):
        store.read("rows", nope=1)
    with pytest.raises(ValueError, match="no view 'nope'"):
        store.read("nope")


def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no results folder.*s3://bucket/results"):
        ResultStore("nonsense://x/y")
    with pytest.raises(FileNotFoundError, match="--results"):
        open_results(tmp_path / "nothing")


def test_a_file_of_before_a_column_was_added_is_still_read(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write("trainings", "t1", [numbered(1)])
    (path,) = (tmp_path / "trainings").iterdir()
    pq.write_table(pq.read_table(path).drop_columns(["gflops"]), path)
    assert seeds(store) == [1]
    store.compact(above=0)
    assert seeds(store) == [1]
    assert store.read("trainings")["gflops"].to_pylist() == [None]


def test_a_killed_writers_temporary_file_is_not_read_and_is_swept_when_old(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write("trainings", "t1", [numbered(1)])
    old, young = (tmp_path / "trainings" / f"x~{n}.parquet.tmp" for n in "12")
    for path in (old, young):
        path.write_bytes(b"PAR1 half a fi")
    os.utime(old, (0, 0))
    just_renamed = tmp_path / "trainings" / "x~3.parquet.tmp"  # gone when it is looked at
    just_renamed.symlink_to("nowhere")
    assert seeds(store) == [1]
    store.compact(above=0)
    assert young.exists()
    assert not old.exists()


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    store = ResultStore(tmp_path)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"no space left in .*trainings to write"):
        store.write("trainings", "t1", [numbered(1)])
    assert list((tmp_path / "trainings").iterdir()) == []


def test_compaction_changes_nothing_that_is_read(store: ResultStore) -> None:
    for n in range(20):
        store.write("trainings", f"t{n}", [numbered(n)])
    store.write("trainings", "t3", [numbered(103)])
    expected = sorted({*range(20), 103} - {3})
    assert store.compact() == 0  # few small files are left alone
    assert store.compact(above=0) == 20
    assert seeds(store) == expected
    store.write("trainings", "t4", [numbered(104)])  # newer than the merged file's
    store.write("trainings", "t99", [numbered(99)])
    expected = sorted({*expected, 104, 99} - {4})
    assert seeds(store) == expected
    assert store.read("trainings", keys=["t4", "t5"])["seed"].to_pylist() == [104, 5]
    store.compact(above=0)
    store.compact(above=0)
    assert seeds(store) == expected


def test_many_compactions_leave_few_files(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for n in range(60):
        store.write("trainings", f"t{n}", [numbered(n)])
        store.compact(above=2)
    assert len(list((tmp_path / "trainings").iterdir())) < 10
    assert seeds(store) == list(range(60))


class CrashError(Exception):
    pass


@pytest.mark.parametrize("survive", [0, 1, 2, 5])
def test_a_compaction_that_dies_loses_and_repeats_nothing(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch, survive: int
) -> None:
    """It dies after some of its inputs are deleted."""
    for n in range(6):
        store.write("trainings", f"t{n}", [numbered(n)])
    store.compact(above=0)
    for n in range(4, 10):
        store.write("trainings", f"t{n}", [numbered(100 + n)])
    expected = [0, 1, 2, 3, *range(104, 110)]
    whole = ResultStore._delete

    def dying(self: ResultStore, paths: list[str]) -> int:
        whole(self, paths[:survive])
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(ResultStore, "_delete", dying)
        with pytest.raises(CrashError):
            store.compact(above=0)
    assert seeds(store) == expected
    store.write("trainings", "t9", [numbered(209)])
    expected = [0, 1, 2, 3, *range(104, 109), 209]
    assert seeds(store) == expected
    store.compact(above=0)
    assert seeds(store) == expected


def test_a_connection_survives_a_compaction_under_it(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for n in range(10):
        store.write("trainings", f"t{n}", [numbered(n)])
    with store.connect() as connection:
        assert connection.execute("SELECT count(*) FROM trainings").fetchall() == [(10,)]
        store.compact(above=0)
        answer = connection.execute("SELECT * FROM trainings")
        for path in (tmp_path / "trainings").iterdir():
            path.unlink()
        assert len(answer.fetchall()) == 10


@pytest.mark.parametrize("seed", range(3))
def test_compactions_in_any_order_on_nodes_with_wrong_clocks_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Several compactions are cut into steps, and the steps shuffled; clocks differ by a minute.

    The model is a dictionary. A key's writes come from one node, as a training's do.
    """
    rng = random.Random(seed)
    clocks = [-60_000_000_000, 0, 60_000_000_000]
    node = 0
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + clocks[node])
    monkeypatch.setattr(store_module, "_clock", 0)
    store = ResultStore(tmp_path)
    expected: dict[str, int] = {}
    running: list[Any] = []
    for step in range(150):
        action = rng.random()
        if action < 0.5:
            key = f"t{rng.randrange(30)}"
            node = int(key[1:]) % 3
            store_module._clock = 0
            store.write("trainings", key, [numbered(step)])
            expected[key] = step
        elif action < 0.65 and len(running) < 3:
            running.append(steps_of_a_compaction(ResultStore(tmp_path)))
        elif running:
            node = rng.randrange(3)
            store_module._clock = 0
            chosen = rng.choice(running)
            if next(chosen, "over") == "over":
                running.remove(chosen)
        assert sorted(store.read("trainings")["seed"].to_pylist()) == sorted(expected.values())
    assert seeds(store) == sorted(expected.values())


def test_a_merged_file_is_newer_than_its_inputs_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two compactions at once leave a key in two files. One of the files is to be deleted for
    the other's sake; meanwhile a node with a slow clock merges the other into a third."""
    store = ResultStore(tmp_path)
    store.write("trainings", "a", [numbered(1)])
    listing = store._listing("trainings")
    for _ in range(2):
        store._merge("trainings", listing, list(listing.small))
    store._delete(list(listing.small))
    listing = store._listing("trainings")
    (condemned,) = listing.superseded()
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    monkeypatch.setattr(store_module, "_clock", 0)
    kept = [path for path in listing.merged if path != condemned]
    store._merge("trainings", listing, kept)
    store._delete(kept)
    for n in (2, 3):
        store.write("trainings", f"b{n}", [numbered(n)])
    listing = store._listing("trainings")
    third = [path for path in listing.merged if path != condemned]
    store._merge("trainings", listing, [*third, *listing.small])
    store._delete([*third, *listing.small, condemned])
    assert seeds(ResultStore(tmp_path)) == [1, 2, 3]


def test_a_listing_torn_by_a_compaction_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's listing may miss a file that is deleted and the one that replaces it."""
    store = ResultStore(tmp_path)
    for n in range(3):
        store.write("trainings", f"t{n}", [numbered(n)])
    before = store._paths("trainings")
    store.compact(above=0)
    torn = dict([*before.items()][:1])
    listings = iter([before, torn])
    whole = store._paths
    monkeypatch.setattr(store, "_paths", lambda view: next(listings, None) or whole(view))
    assert store._listing("trainings").sizes == whole("trainings")
    assert sorted(store.read("trainings")["seed"].to_pylist()) == [0, 1, 2]


def steps_of_a_compaction(store: ResultStore) -> Any:
    """``ResultStore._compact`` in the same order, stopping where another node may step between."""
    listing = store._listing("trainings")
    dead = listing.superseded()
    yield
    for batch in store_module._batches(listing, dead, 0):
        try:
            store._merge("trainings", listing, batch)
        except FileNotFoundError:
            return
        yield
        for path in batch:
            store._delete([path])
            yield
    for path in dead:
        store._delete([path])
        yield


def write_many(root: Path, node: int, count: int) -> None:
    store = ResultStore(root)
    for n in range(count):
        store.write("trainings", f"{node}-{n % 40}", [training(f"{node}-{n % 40}", seed=n)])


def test_nodes_that_write_compact_and_read_at_once_lose_nothing(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write("trainings", "first", [numbered(0)])
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(tmp_path, n, 80)) for n in range(2)]
    stop = threading.Event()
    failures: list[BaseException] = []

    def compacting() -> None:
        try:
            while not stop.is_set():
                ResultStore(tmp_path).compact(above=5)
        except BaseException as error:  # the test's own thread reports it
            failures.append(error)

    threads = [threading.Thread(target=compacting) for _ in range(2)]
    workers: list[Any] = [*writers, *threads]
    for worker in workers:
        worker.start()
    seen: dict[str, int] = {}
    while any(writer.is_alive() for writer in writers):
        now = store.read("trainings", columns=["training_id", "seed"]).to_pylist()
        ids = [line["training_id"] for line in now]
        assert len(ids) == len(set(ids)), "a key was read twice"
        latest = {line["training_id"]: line["seed"] for line in now}
        assert all(latest.get(key, -1) >= value for key, value in seen.items()), "a write was lost"
        seen = latest
    stop.set()
    for worker in workers:
        worker.join()
    assert not failures
    store.compact(above=0)
    assert seeds(store) == sorted([0, *range(40, 80), *range(40, 80)])


def test_a_killed_writer_leaves_only_whole_files(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from test_store import ResultStore, numbered
store, n = ResultStore({str(tmp_path)!r}), 0
while True:
    store.write("trainings", f"t{{n}}", [numbered(n)]); n += 1; print(n, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parent
    ) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 30:
            pass
        process.kill()
        said = [int(line) for line in process.stdout.read().split()]
    assert len(seeds(ResultStore(tmp_path))) >= max([30, *said])


@pytest.mark.slow
def test_a_million_rows_and_a_hundred_thousand_trainings_are_answered_sooner_than_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Merged files as a long study leaves them, and as many small ones as it leaves unmerged."""
    began, store = time.perf_counter(), ResultStore(tmp_path)
    trainings = to_table("trainings", [numbered(n) for n in range(10_000)])
    rows = to_table(
        "rows", [row(f"arm{k}", n / 1e5, seed=n) for n in range(10_000) for k in range(10)]
    )
    made = time.perf_counter() - began
    began = time.perf_counter()
    for start in range(0, 100_000, 10_000):
        fill_merged(store, "trainings", trainings, start)
        fill_merged(store, "rows", rows, start)
    for n in range(store_module.COMPACT_ABOVE):
        store.write("trainings", f"t{n}", [numbered(n, status="failed")])
    written = 10 * made + time.perf_counter() - began  # were each line made by itself
    times = {}

    def timed(name: str, work: Any) -> Any:
        start = time.perf_counter()
        result = work()
        times[name] = time.perf_counter() - start
        return result

    connection = timed("connect", open_results(tmp_path).connect)
    count = "SELECT count(*) FROM rows"
    assert timed("count", lambda: connection.execute(count).fetchall()) == [(1_000_000,)]
    group = "SELECT arm, avg(top1), stddev(top1) FROM rows GROUP BY arm"
    assert len(timed("group", lambda: connection.execute(group).fetchall())) == 10
    join = "SELECT status, count(*) FROM rows JOIN trainings USING (seed) GROUP BY status"
    joined = timed("join", lambda: connection.execute(join).fetchall())
    assert dict(joined) == {"finished": 990_000, "failed": 10_000}
    assert timed("filter", lambda: store.read("trainings", status="failed")).num_rows == 1000
    one = timed("one key", lambda: store.read("trainings", keys=["t70000"]))
    assert one["seed"].to_pylist() == [70_000]
    with capsys.disabled():
        print(
            "\nseconds at 10^6 rows and 10^5 trainings:", {k: round(v, 2) for k, v in times.items()}
        )
    assert sum(times.values()) < written  # a tenth of it on an idle machine


def fill_merged(store: ResultStore, view: str, lines: pa.Table, start: int) -> None:
    """A merged file of the lines with other seeds, each a key: as if they began at a number."""
    seeds = pc.add(lines["seed"], start)
    keys = pc.binary_join_element_wise("t", pc.cast(seeds, pa.string()), "")
    own = {"training_id": keys} if view == "trainings" else {"top1": pc.divide(seeds, 1e5)}
    for name, column in {"seed": seeds, **own}.items():
        lines = lines.set_column(lines.schema.get_field_index(name), name, column)
    table = lines.append_column(store_module.KEY_COLUMN, keys)
    versions = {key: store_module._version() for key in keys.unique().to_pylist()}
    index = {store_module.INDEX: store_module.packed_index(versions)}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(index), sink, compression="zstd")
    store._put(view, "", sink.getvalue())
