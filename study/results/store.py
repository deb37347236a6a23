"""Results as Parquet files, each written whole, that any number of nodes write at once.

``<root>/<view>/<key>~<version>.parquet`` is one write. It touches no file but that of the key's
former version, whose place it takes in one step, so writers need no lock and each key has one small
file. The version orders the writes of one key, and a reader takes each key's newest. ``compact``
merges many small files into one that says in its metadata which keys and versions it holds, and
then deletes exactly the files that it read. A writer that replaces a key meanwhile makes a newer
version, which wins, and the next ``compact`` takes the older one out of the merged file. A crash,
or two compactions at once, leaves a version in two files, of which a reader takes one. Nothing is
lost, and at rest the files hold each key once, so that any reader of Parquet may read them all.
Storage without renames, such as S3, has both versions for the moment between writing the new one
and deleting the old one.

"Newest" is by the writers' clocks: they must agree to within the time between two writes of one
key, which is at least a training.
"""

import contextlib
import errno
import operator
import re
import secrets
import threading
import time
import zlib
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Collection, Iterator, KeysView, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial, reduce
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq

from study.files import TEMPORARY_SUFFIX, whole_file, write_whole
from study.results.connection import Connection
from study.results.guide import guide
from study.results.published import published
from study.results.schema import STORED_VIEWS, Block, blocks_to_table, schema, to_table

__all__ = ["DamagedResultError", "ResultStore", "Scan", "open_results"]

COMPACT_ABOVE = 1000  # small files of a view; so many are read in under half a second
LARGE_BYTES = 128 * 2**20  # a merged file grows to about this
RETRY_SECONDS = 60.0  # of a reader whose files are compacted away under it again and again
STALE_SECONDS = 24 * 3600.0  # age at which a temporary file's writer is surely dead
KEY_COLUMN, INDEX = "_key", b"study.results.index"
SUFFIX = ".parquet"
SECONDS = "%Y%m%dT%H%M%S"  # of a version's time
LONGEST_KEY = 120  # letters of a file's name
WRITING = {"compression": "zstd", "write_page_checksum": True}
OF_A_FINISHED_TRAINING = ("epochs",)  # views that its line answers for

T = TypeVar("T")


class DamagedResultError(ValueError):
    """A results file that can't be read."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Files of a view that are read together, and which of their keys are read.

    Attributes:
        dataset: The files.
        hidden: Keys of a merged file whose newest version is in another file.
        only: The keys of a merged file that are read, or None for all but the hidden.
    """

    dataset: pyarrow.dataset.Dataset
    hidden: frozenset[str] = frozenset()
    only: frozenset[str] | None = None

    def read(self, columns: Sequence[str], condition: pc.Expression | None) -> pa.Table:
        """Reads the lines that meet a condition, those of hidden keys left out."""
        conditions = [] if condition is None else [condition]
        if self.hidden:
            conditions.append(~pc.field(KEY_COLUMN).isin(sorted(self.hidden)))
        if self.only is not None:
            conditions.append(pc.field(KEY_COLUMN).isin(sorted(self.only)))
        every = reduce(operator.and_, conditions) if conditions else None
        return self.dataset.to_table(columns=list(columns), filter=every)

    def check(self) -> None:
        """Reads every file whole.

        Raises:
            DamagedResultError: If one isn't what was written.
            OSError: If the storage fails.
        """
        for path in getattr(self.dataset, "files", ()):
            with contextlib.suppress(FileNotFoundError):  # compacted away meanwhile
                _check_file(self.dataset.filesystem, path, self.dataset.schema)


class ResultStore:
    """A results folder.

    Args:
        root: A local folder, or a URI of ``pyarrow.fs`` such as ``s3://bucket/results``. It need
            not exist: the first write makes it.

    Raises:
        ValueError: If the URI is none that ``pyarrow.fs`` knows.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        self._explained = False
        self._indexes: dict[str, dict[str, str]] = {}  # by path, whose content never changes
        if "://" not in self.root:
            self._files = pyarrow.fs.LocalFileSystem()
            self._root = str(Path(root).expanduser().absolute())
            return
        try:
            self._files, path = pyarrow.fs.FileSystem.from_uri(self.root)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise ValueError(
                f"{self.root!r} is no results folder: {error}; "
                "give a local path or a URI such as s3://bucket/results"
            ) from None
        self._root = path.rstrip("/")

    def exists(self) -> bool:
        """Returns whether the folder is there."""
        kind = self._files.get_file_info(self._root).type
        return bool(kind == pyarrow.fs.FileType.Directory)

    def write(
        self, view: str, key: str | Sequence[object], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Writes the lines that a key has in a view, whole or not at all.

        They replace what the key had before.

        Args:
            view: A view's name, any but ``published``.
            key: What the lines belong to, such as a training's id, or several such words: it
                names the file. Any text.
            rows: One mapping a line, as ``schema.to_table`` takes them.

        Raises:
            ValueError: If the view is unknown or a row doesn't fit it; nothing is written.
        """
        self._write(view, key, to_table(_stored(view), rows))

    def write_blocks(self, view: str, key: str | Sequence[object], blocks: Sequence[Block]) -> None:
        """Writes lines that are given by column, as matrices and arrays: `write`, but faster.

        Args:
            view: A view's name, any but ``published``.
            key: As of `write`.
            blocks: Lines by column, as ``schema.blocks_to_table`` takes them.

        Raises:
            ValueError: If the view is unknown or a block doesn't fit it; nothing is written.
        """
        self._write(view, key, blocks_to_table(_stored(view), blocks))

    def _write(self, view: str, key: str | Sequence[object], table: pa.Table) -> None:
        self._replace(view, _file_key(key), _serialised(table))
        self._explain()

    def read(
        self,
        view: str,
        *,
        keys: Collection[str | Sequence[object]] | None = None,
        columns: Sequence[str] | None = None,
        encoded: bool = False,
        **equal: Any,
    ) -> pa.Table:
        """Reads the lines of a view, in no particular order.

        Args:
            view: A view's name.
            keys: Only what was written under these keys: faster than a filter, as no other
                small file is opened.
            columns: Only these columns.
            encoded: Whether texts are dictionary-encoded, which is faster where most lines are
                wanted; otherwise what the condition leaves out is not even read.
            **equal: Only lines whose column equals the value, or one of a list, tuple or set.

        Returns:
            A table with the view's columns, or with those asked for.

        Raises:
            ValueError: If the view or a column is unknown.
            DamagedResultError: If a file can't be read.
        """
        names = schema(view).names
        if unknown := sorted({*(columns or ()), *equal} - set(names)):
            raise ValueError(
                f"view {view!r} has no column {', '.join(map(repr, unknown))}; "
                f"it has {', '.join(names)}"
            )
        shown, condition = list(columns or names), _condition(view, equal)
        empty = schema(view, encoded=encoded).empty_table().select(shown)
        wanted = None if keys is None else frozenset(map(_file_key, keys))

        def tables(settled: bool) -> pa.Table:
            scans = self.scans(view, wanted, settled=settled, encoded=encoded)
            read = [scan.read(shown, condition).cast(empty.schema) for scan in scans]
            return pa.concat_tables([empty, *read])

        with self._naming_damage(view):
            return _retried(tables)

    def put_file(self, path: str, content: bytes) -> None:
        """Writes a file that is no part of a view, whole or not at all.

        Args:
            path: Relative to the results folder.
            content: What the file holds then.
        """
        whole = f"{self._root}/{path}"
        self._files.create_dir(whole.rpartition("/")[0], recursive=True)
        if isinstance(self._files, pyarrow.fs.LocalFileSystem):
            with whole_file(Path(whole), shared=True) as file:
                file.write(content)
        else:
            with self._files.open_output_stream(whole) as stream:
                stream.write(content)

    def delete_file(self, path: str) -> None:
        """Deletes a file that `put_file` wrote, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_file(f"{self._root}/{path}")

    def delete_empty_folder(self, path: str) -> bool:
        """Deletes a folder that holds no file; returns whether there is none then."""
        whole = f"{self._root}/{path}"
        if isinstance(self._files, pyarrow.fs.LocalFileSystem):
            with contextlib.suppress(FileNotFoundError):
                try:
                    Path(whole).rmdir()
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
                    return False
            return True
        if self.file_sizes(path):
            return False
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_dir(whole)
        return True

    def files(self, folder: str) -> dict[str, bytes]:
        """Returns the files of a folder that are no part of a view, by name."""
        selector = pyarrow.fs.FileSelector(f"{self._root}/{folder}", allow_not_found=True)
        found = {}
        for info in self._files.get_file_info(selector):
            if info.is_file and not info.base_name.startswith("."):
                with self._files.open_input_stream(info.path) as stream:
                    found[info.base_name] = stream.read()
        return found

    def file(self, path: str) -> bytes | None:
        """Returns the content of a file that `put_file` wrote; None where there is none."""
        try:
            with self._files.open_input_stream(f"{self._root}/{path}") as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        return content

    def file_sizes(self, folder: str) -> dict[str, int]:
        """Returns the bytes of a folder's files that are no part of a view, by name."""
        selector = pyarrow.fs.FileSelector(f"{self._root}/{folder}", allow_not_found=True)
        return {
            info.base_name: info.size
            for info in self._files.get_file_info(selector)
            if info.is_file and not info.base_name.startswith(".")
        }

    def connect(self) -> Connection:
        """Returns a connection that answers SQL over the views as they are now.

        It can do nothing else.
        """
        return Connection(partial(self.scans, encoded=True))

    def compact(self, *, above: int = COMPACT_ABOVE) -> int:
        """Merges the small files of every view that has more than ``above`` of them.

        Lines that were replaced since they were merged are taken out of every view's merged files.

        Only what writes to the folder may call it: a study's driver does, readers do not. It is
        safe while others write, read or compact, on any number of nodes.

        Returns:
            How many files were merged away.
        """
        return sum(self._compact(view, above) for view in STORED_VIEWS)

    def scans(
        self,
        view: str,
        keys: frozenset[str] | None = None,
        *,
        settled: bool = False,
        encoded: bool = False,
    ) -> list[Scan]:
        """Returns what to read for a view's lines: each key's newest version, once.

        Args:
            view: A view's name.
            keys: Only these keys, as file names have them.
            settled: Whether small files are read now, which are otherwise read with the scan: then
                nothing is missing of those that are being replaced all the time.
            encoded: Whether texts of files that are read with the scan are dictionary-encoded.
        """
        if view not in STORED_VIEWS:
            return [Scan(dataset=pyarrow.dataset.dataset(published()))]
        listing = _retried(lambda _: self._listing(view))
        small = [
            path
            for path, (key, _) in listing.small.items()
            if listing.is_newest(key, path) and (keys is None or key in keys)
        ]
        scans = []
        if small and settled:
            scans = [Scan(dataset=self._settled(view, small))]
        elif small:
            scans = [Scan(dataset=self._dataset(view, small, encoded=encoded))]
        for path, index in listing.merged.items():
            hidden = listing.hidden(path)
            only = None if keys is None else frozenset(filter(index.__contains__, keys)) - hidden
            if len(hidden) < len(index) and (only is None or only):
                dataset = self._dataset(view, [path], merged=True, encoded=encoded)
                scans.append(Scan(dataset=dataset, hidden=hidden, only=only))
        return scans

    def _dataset(
        self, view: str, paths: list[str], *, merged: bool = False, encoded: bool = False
    ) -> pyarrow.dataset.Dataset:
        columns = schema(view, encoded=encoded)
        texts = [field.name for field in columns if pa.types.is_dictionary(field.type)]
        if merged:
            columns = columns.append(pa.field(KEY_COLUMN, pa.string()))
        return pyarrow.dataset.FileSystemDataset.from_paths(
            paths,
            schema=columns,
            format=pyarrow.dataset.ParquetFileFormat(
                read_options=pyarrow.dataset.ParquetReadOptions(dictionary_columns=texts),
                default_fragment_scan_options=pyarrow.dataset.ParquetFragmentScanOptions(
                    page_checksum_verification=True
                ),
            ),
            filesystem=self._files,
        )

    def _settled(self, view: str, paths: list[str]) -> pyarrow.dataset.Dataset:
        """Reads small files; in the place of one that was replaced meanwhile, its replacement."""

        def newest(path: str) -> pa.Table:
            while (table := self._small_table(view, path)) is None:
                replaced = self._versions(view, _parsed(path)[0])
                if not replaced:
                    raise FileNotFoundError(path)  # it was merged
                path = replaced[-1]
            return table

        with ThreadPoolExecutor(8) as threads:
            return pyarrow.dataset.dataset(pa.concat_tables(threads.map(newest, paths)))

    def _small_table(self, view: str, path: str) -> pa.Table | None:
        """Reads a small file; None where it is no longer there."""
        try:
            with self._files.open_input_file(path) as file:
                parquet = pq.ParquetFile(file, page_checksum_verification=True)
                return _filled(parquet.read(use_threads=False), schema(view))
        except FileNotFoundError:
            return None

    def _versions(self, view: str, file_key: str) -> list[str]:
        """Returns the small files of a key, the newest last: one, but where a writer was killed."""
        folder = f"{self._root}/{view}"
        if isinstance(self._files, pyarrow.fs.LocalFileSystem):
            return sorted(map(str, Path(folder).glob(f"{file_key}~*{SUFFIX}")))
        return sorted(path for path in self._paths(view) if _parsed(path)[0] == file_key)

    def _paths(self, view: str) -> dict[str, int]:
        """Returns the view's files, with their sizes in bytes."""
        selector = pyarrow.fs.FileSelector(f"{self._root}/{view}", allow_not_found=True)
        return {
            info.path: info.size
            for info in self._files.get_file_info(selector)
            if info.path.endswith(SUFFIX) and info.is_file
        }

    def _listing(self, view: str) -> "_Listing":
        """Lists the view's files, with none missing that a compaction moved meanwhile.

        A folder's listing isn't atomic: it may miss both a file that is deleted and the merged
        one that replaces it. Then a second listing shows the merged file, or lacks a file.
        """
        before, paths = self._paths(view), self._paths(view)
        while before.keys() - paths.keys() or any(map(_is_merged, paths.keys() - before.keys())):
            before, paths = paths, self._paths(view)
        return _Listing(
            small={path: _parsed(path) for path in paths if not _is_merged(path)},
            merged={path: self._index(path) for path in paths if _is_merged(path)},
            sizes=paths,
        )

    def _index(self, path: str) -> dict[str, str]:
        """Returns version by key of a merged file."""
        if path not in self._indexes:
            with self._files.open_input_file(path) as file:
                try:
                    self._indexes[path] = _unpacked(pq.read_metadata(file).metadata[INDEX])
                except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
                    _check_file(self._files, path, schema(path.split("/")[-2]))
                    if isinstance(error, OSError):
                        raise
                    raise _damaged(path, error) from error
        return self._indexes[path]

    @contextlib.contextmanager
    def _naming_damage(self, view: str) -> Iterator[None]:
        """Names the view's damaged file, if there is one, where reading fails."""
        try:
            yield
        except (pa.ArrowException, OSError):
            for scan in self.scans(view):
                scan.check()
            raise

    def _replace(self, view: str, file_key: str, data: pa.Buffer) -> None:
        """Puts a file in the place of the key's former version, or makes the key's first."""
        former = self._versions(view, file_key)
        if not former or not isinstance(self._files, pyarrow.fs.LocalFileSystem):
            self._put(view, file_key, data, after=max(map(_version_of, former), default=""))
            self._delete(former)
            return
        self._delete(former[:-1])
        last = Path(former[-1])
        with whole_file(last, shared=True) as file:
            file.write(data)
        try:
            last.rename(last.with_name(f"{file_key}~{_version(_version_of(former[-1]))}{SUFFIX}"))
        except FileNotFoundError:  # a compaction had merged the former version, and deleted both
            self._replace(view, file_key, data)

    def _put(self, view: str, file_key: str, data: pa.Buffer, *, after: str = "") -> None:
        """Makes a file appear with its whole content under a name that no other write has."""
        folder = f"{self._root}/{view}"
        path = f"{folder}/{file_key}~{_version(after)}{SUFFIX}"
        self._files.create_dir(folder, recursive=True)
        if not isinstance(self._files, pyarrow.fs.LocalFileSystem):
            with self._files.open_output_stream(path) as stream:
                stream.write(data)
            return
        write_whole(Path(path), data)

    def _explain(self) -> None:
        """Writes the folder's README.md where it isn't there as this code has it."""
        if not self._explained:
            text = guide().encode()
            if self.file("README.md") != text:
                self.put_file("README.md", text)
            self._explained = True

    def _compact(self, view: str, above: int) -> int:
        """Merges a view's small files if they are many; returns how many files are gone.

        A merged file with lines that are superseded is written again without them in any case.
        """
        gone = 0
        try:
            listing = _retried(lambda _: self._listing(view))
            dead = listing.superseded()
            for batch in _batches(listing, dead, above):
                with self._naming_damage(view):
                    self._merge(view, listing, batch)
                gone += self._delete(batch)
            gone += self._delete(dead)
        except FileNotFoundError:
            pass  # another compaction is merging these files, and nothing of them is lost
        self._sweep(view)
        return gone

    def _merge(self, view: str, listing: "_Listing", batch: list[str]) -> None:
        """Writes one file with what the files of a batch hold and no other file holds newer."""
        versions: dict[str, str] = {}
        columns = schema(view).append(pa.field(KEY_COLUMN, pa.string()))
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, columns, **WRITING) as writer:
            for table in _regrouped(self._tables(view, listing, batch, versions)):
                writer.write_table(table.cast(columns))
            writer.add_key_value_metadata({INDEX: packed_index(versions)})
        # Later than all that it may hold, so that of two files with a version, no two compactions
        # each delete the one that the other keeps, whatever the nodes' clocks say.
        if versions:
            self._put(view, "", sink.getvalue(), after=max(map(_version_of, listing.sizes)))

    def _tables(
        self,
        view: str,
        listing: "_Listing",
        batch: list[str],
        versions: dict[str, str],
    ) -> Iterator[pa.Table]:
        """Yields the lines of a batch's files with their keys, small files in the order of keys.

        Versions, by key, are those of the lines that were yielded: a small file that is gone was
        replaced or is in another compaction's merged file, so it is left out.
        """
        names = schema(view).names
        ordered = sorted(path for path in batch if path in listing.small)
        with ThreadPoolExecutor(8) as threads:
            for start in range(0, len(ordered), 256):
                paths = ordered[start : start + 256]
                read = threads.map(lambda path: self._small_table(view, path), paths)
                for path, table in zip(paths, read, strict=True):
                    key, version = listing.small[path]
                    if table is not None and listing.is_newest(key, path):
                        versions[key] = version
                        keys = pc.take(pa.array([key]), pa.array([0] * len(table), pa.int32()))
                        yield table.append_column(KEY_COLUMN, keys)
        for path in batch:
            if path in listing.merged:
                hidden = listing.hidden(path)
                scan = Scan(dataset=self._dataset(view, [path], merged=True), hidden=hidden)
                yield scan.read([*names, KEY_COLUMN], None)
                index = listing.merged[path]
                versions |= {key: index[key] for key in index.keys() - hidden}

    def _delete(self, paths: Collection[str]) -> int:
        for path in paths:
            try:
                self._files.delete_file(path)
            except FileNotFoundError:
                continue  # another compaction was first
        return len(paths)

    def _sweep(self, view: str) -> None:
        """Removes what killed writers left behind."""
        if isinstance(self._files, pyarrow.fs.LocalFileSystem):
            for path in Path(self._root, view).glob(f"*{TEMPORARY_SUFFIX}"):
                with contextlib.suppress(FileNotFoundError):  # its writer has just finished
                    if time.time() - path.stat().st_mtime > STALE_SECONDS:
                        path.unlink()


def open_results(root: str | Path) -> ResultStore:
    """Opens a results folder for reading; nothing in it is changed.

    Args:
        root: As ``ResultStore`` takes it.

    Raises:
        ValueError: If the URI is none that ``pyarrow.fs`` knows.
        FileNotFoundError: If nothing is there.
    """
    store = ResultStore(root)
    if not store.exists():
        raise FileNotFoundError(
            f"there is no results folder {store.root!r}; run python -m study.run first, or name "
            "another with --results"
        )
    return store


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """A view's files.

    Attributes:
        small: Key and version by path, of files of one key.
        merged: Version by key, by path, of files of many keys.
        sizes: Bytes by path.
    """

    small: dict[str, tuple[str, str]]
    merged: dict[str, dict[str, str]]
    sizes: dict[str, int]

    @cached_property
    def _contested(self) -> dict[str, tuple[str, str]]:
        """The newest version, and the one file to read it from, of keys in several files."""
        small = Counter(key for key, _ in self.small.values())
        keys = {key for key, files in small.items() if files > 1}
        held: list[KeysView[str]] = [small.keys(), *(one.keys() for one in self.merged.values())]
        for one, other in combinations(held, 2):  # takes as long as the smaller has keys
            keys |= one & other
        newest = dict.fromkeys(keys, ("", ""))
        # Of equal versions the last path's: "~" is after all other letters of a name.
        for path, (key, version) in self.small.items():
            if key in keys:
                newest[key] = max(newest[key], (version, path))
        for path, index in self.merged.items():
            for key in filter(index.__contains__, keys):
                newest[key] = max(newest[key], (index[key], path))
        return newest

    def is_newest(self, key: str, path: str) -> bool:
        """Returns whether a key that a file holds is to be read from it."""
        return key not in self._contested or self._contested[key][1] == path

    def hidden(self, path: str) -> frozenset[str]:
        """Returns the keys of a merged file whose newest version is in another file."""
        index = self.merged[path]
        return frozenset(
            key for key, (_, newest) in self._contested.items() if newest != path and key in index
        )

    def superseded(self) -> list[str]:
        """Returns the files of which every key has its newest version elsewhere."""
        small = [path for path, (key, _) in self.small.items() if not self.is_newest(key, path)]
        merged = [
            path for path, index in self.merged.items() if len(self.hidden(path)) == len(index)
        ]
        return small + merged


def _stored(view: str) -> str:
    if view not in STORED_VIEWS:
        raise ValueError(f"view {view!r} can't be written; there are {', '.join(STORED_VIEWS)}")
    return view


def _file_key(key: str | Sequence[object]) -> str:
    """Returns the key as part of a file name: the same for equal keys, different for others.

    What isn't a letter, digit, point, dash or underscore becomes a dash, words are divided by
    commas, and a digest tells apart what that would make the same.
    """
    words = [key] if isinstance(key, str) else list(map(str, key))
    if not words or not all(words):
        raise ValueError(f"a key must not be empty, nor a word of it, but got {key!r}")
    safe = [re.sub(r"[^A-Za-z0-9_.-]+", "-", word) for word in words]
    name = ",".join(safe)
    if safe == words and len(name) <= LONGEST_KEY and not name.startswith("."):
        return name
    digest = sha256("\0".join(words).encode()).hexdigest()[:16]
    return f"{name[:LONGEST_KEY].lstrip('.')}+{digest}"


_clock_lock = threading.Lock()
_clock = 0


def _version(after: str = "") -> str:
    """Returns a unique version, greater than ``after`` and all earlier ones of this process.

    It begins with the time, in UTC, to the nanosecond.
    """
    global _clock
    with _clock_lock:
        _clock = max(_clock + 1, time.time_ns(), _nanoseconds(after) + 1)
        seconds, fraction = divmod(_clock, 10**9)
    date = datetime.fromtimestamp(seconds, UTC).strftime(SECONDS)
    return f"{date}.{fraction:09}-{secrets.token_hex(4)}"


def _nanoseconds(version: str) -> int:
    """Returns the time that a version begins with; 0 of an empty one."""
    if not version:
        return 0
    date, _, fraction = version.partition("-")[0].partition(".")
    seconds = datetime.strptime(date, SECONDS).replace(tzinfo=UTC).timestamp()
    return int(seconds) * 10**9 + int(fraction)


def _parsed(path: str) -> tuple[str, str]:
    """Returns key and version of a file's name."""
    key, _, version = path.rpartition("/")[2].removesuffix(SUFFIX).rpartition("~")
    return key, version


def _version_of(path: str) -> str:
    return _parsed(path)[1]


def _is_merged(path: str) -> bool:
    return path.rpartition("/")[2].startswith("~")


def packed_index(versions: Mapping[str, str]) -> bytes:
    """Returns a merged file's keys and their versions as text for its metadata, a tenth as long."""
    lines = "\n".join([*versions, *versions.values()])
    return b64encode(zlib.compress(lines.encode(), level=1))


def _unpacked(index: bytes) -> dict[str, str]:
    lines = zlib.decompress(b64decode(index)).decode().split("\n")
    half = len(lines) // 2
    return dict(zip(lines[:half], lines[half:], strict=True))


def _check_file(files: pyarrow.fs.FileSystem, path: str, columns: pa.Schema) -> None:
    """Raises DamagedResultError if what the storage holds is no whole Parquet file."""
    with files.open_input_file(path) as file:
        content = file.read_buffer()
    try:
        whole = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        _filled(whole.read(), columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> DamagedResultError:
    """Returns an error that says what to do about a file so that nothing is missing after it."""
    folder, view, _ = path.rsplit("/", 2)
    also = ""
    if view in OF_A_FINISHED_TRAINING:  # which wouldn't be trained again
        lines = "*" if _is_merged(path) else f"{_parsed(path)[0]}~*"
        also = f" and {folder}/trainings/{lines}{SUFFIX}"
    reason = " ".join(str(error).split()).rpartition("': ")[2].rstrip(".")
    return DamagedResultError(
        f"results file {path} is damaged ({reason}); put a whole copy in its place, or delete "
        f"it{also} and run the study again, which makes what is missing"
    )


def _serialised(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **WRITING)
    return sink.getvalue()


def _filled(table: pa.Table, columns: pa.Schema) -> pa.Table:
    """Returns the table with null in the columns that it was written without."""
    if table.schema.equals(columns):
        return table
    for field in columns:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(columns.names).cast(columns)


def _regrouped(tables: Iterator[pa.Table], bytes_: int = 16 * 2**20) -> Iterator[pa.Table]:
    """Yields the same lines in larger tables."""
    held: list[pa.Table] = []
    size = 0
    for table in tables:
        held.append(table)
        size += table.nbytes
        if size > bytes_:
            yield pa.concat_tables(held)
            held, size = [], 0
    if held:
        yield pa.concat_tables(held)


def _batches(
    listing: _Listing,
    dead: Collection[str],
    above: int,
) -> Iterator[list[str]]:
    """Yields files to merge together: all small ones, and merged ones no larger than those before.

    So a line is written again only when what it is merged with is as large, and the number of
    merged files and the work for each line grow with the logarithm of the lines. Small files that
    are no more than ``above`` stay; a merged file with superseded lines is written again alone.
    """
    skip = set(dead)
    batch: list[str] = []
    size = 0
    for path in sorted(listing.small) if len(listing.small) > above else ():
        if path in skip:
            continue
        batch.append(path)
        size += listing.sizes[path]
        if size > LARGE_BYTES:
            yield batch
            batch, size = [], 0
    for path in sorted(listing.merged, key=listing.sizes.__getitem__):
        if path in skip:
            continue
        if batch and listing.sizes[path] <= min(size, LARGE_BYTES):
            batch.append(path)
            size += listing.sizes[path]
        elif listing.hidden(path):
            yield [path]
    if batch:
        yield batch


def _condition(view: str, equal: Mapping[str, Any]) -> pc.Expression | None:
    condition = None
    for name, value in equal.items():
        values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        one = pc.field(name).isin(pa.array(values, schema(view).field(name).type))
        condition = one if condition is None else condition & one
    return condition


def _retried(attempt: Callable[[bool], T]) -> T:
    """Makes an attempt, and others, to which it says so, where its files were replaced under it."""
    end = time.monotonic() + RETRY_SECONDS
    again = False
    while True:
        try:
            return attempt(again)
        except FileNotFoundError:
            if time.monotonic() > end:
                raise
        again = True
