"""Folders that ``pyarrow.fs`` reaches, and the cache through which a clip store there is read.

A file is fetched whole to a folder of this machine when it is first needed, and read there from
then on. Files of a cache are never changed, only added, and appear whole or not at all, so all
processes of a machine share it, and it can be deleted when nobody uses it.

Clients such as the one for S3 have threads and connections that don't survive a fork, and loader
processes are forked. So a process of its own fetches; the one that reads clips never has a client.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs

from study.data.process import ChildDiedError, ChildProcess
from study.files import temporary_name, whole_file

__all__ = [
    "CACHE_VARIABLE",
    "CachedFolder",
    "RemoteFolder",
    "divided_uri",
    "is_uri",
    "joined_uri",
]

CACHE_VARIABLE = "TWO_STREAM_CACHE"
_PIECE = 8 << 20


def is_uri(path: str | Path) -> bool:
    """Returns whether it is a URI such as ``s3://bucket/store`` and not a local path."""
    return "://" in str(path)


def joined_uri(uri: str, name: str) -> str:
    """Returns the URI of a file in a folder: its name goes before what a URI says of the client."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def divided_uri(uri: str) -> tuple[str, str]:
    """Returns the URI of a file's folder, and the file's name in it."""
    parts = urlsplit(uri)
    folder, _, name = parts.path.rpartition("/")
    return urlunsplit(parts._replace(path=folder)), name


class RemoteFolder:
    """A folder of any file system that ``pyarrow.fs`` knows.

    Args:
        uri: Such as ``s3://bucket/store``; the folder need not exist.

    Raises:
        ValueError: If it is no URI of a known file system.
        OSError: If it can't be reached, or its bucket doesn't exist.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        if not is_uri(uri):
            raise ValueError(f"{uri!r} is no URI; give one such as s3://bucket/store")
        try:
            self._files, path = pyarrow.fs.FileSystem.from_uri(uri)
        except ValueError as error:
            raise ValueError(f"{uri!r}: {error}; give a URI such as s3://bucket/store") from None
        except OSError as error:
            raise OSError(f"can't reach {uri}: {error}") from None
        self._path = path.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """Reads a small file; None where there is no such file."""
        try:
            with self._files.open_input_stream(f"{self._path}/{name}") as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        return content

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yields a large file's content piece by piece.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        with self._files.open_input_stream(f"{self._path}/{name}") as stream:
            while piece := stream.read(_PIECE):
                yield piece

    def sizes(self) -> dict[str, int]:
        """Returns every file in the folder and below it, with its size in bytes."""
        selector = pyarrow.fs.FileSelector(self._path, recursive=True, allow_not_found=True)
        return {
            info.path.removeprefix(f"{self._path}/"): info.size
            for info in self._files.get_file_info(selector)
            if info.is_file
        }

    def exists(self, name: str) -> bool:
        """Returns whether there is such a file."""
        return bool(self._files.get_file_info(f"{self._path}/{name}").is_file)

    def delete(self, name: str) -> None:
        """Deletes a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_file(f"{self._path}/{name}")

    def rename(self, name: str, other: str) -> None:
        """Gives a file another name in the folder."""
        self._files.move(f"{self._path}/{name}", f"{self._path}/{other}")

    def put(self, source: Path, name: str) -> None:
        """Puts a local file there, whole or not at all."""
        with source.open("rb") as file:
            self.put_opened(file, name)

    def put_opened(self, file: IO[bytes], name: str) -> None:
        """Puts there what is left to read of an open file, whole or not at all.

        A thread does it, which Ctrl-C doesn't reach: a stream that is closed early leaves a part of
        the file there as if it were the whole.
        """
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self._put, file, name).result()

    def _put(self, file: IO[bytes], name: str) -> None:
        target = f"{self._path}/{name}"
        self._files.create_dir(target.rpartition("/")[0], recursive=True)
        local = isinstance(self._files, pyarrow.fs.LocalFileSystem)
        written = str(temporary_name(Path(target))) if local else target
        # Not by pyarrow.fs.copy_files, which is silent about what fails when the stream is closed.
        with self._files.open_output_stream(written) as stream:
            while piece := file.read(_PIECE):
                stream.write(piece)
        if local:
            self._files.move(written, target)


class CachedFolder:
    """A remote folder's files in a folder of this machine.

    Args:
        uri: The remote folder's.

    Attributes:
        uri: The URI.
        folder: The local folder, in the one that ``TWO_STREAM_CACHE`` names, or in
            ``~/.cache/two-stream-study``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        top = os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "two-stream-study"
        digest = blake2b(self.uri.encode(), digest_size=8).hexdigest()
        name = urlsplit(self.uri).path.rpartition("/")[2]
        self.folder = Path(top).absolute() / f"{name}-{digest}".removeprefix("-")

    def read(self, *names: str) -> list[bytes | None]:
        """Reads small files as they are now, past the cache; None where there is no such file."""
        return self._ask([("read", name) for name in names])

    def locate(self, name: str, *, size: int | None = None, version: str = "") -> Path:
        """Returns where a file is in the cache; fetches it where it isn't there, or not whole.

        Args:
            name: The file's name in the folder.
            size: The file's size in bytes, where it is known.
            version: Tells the file from others that had its name, where the name doesn't.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If it has another size, it can't be read, or the cache's disk is full.
        """
        target = self.folder / name
        if version:
            target = target.with_name(f"{target.stem}-{version}{target.suffix}")
        if not _is_whole(target, size):
            self._ask([("fetch", name, target, size)])
        return target

    def _ask(self, requests: list[tuple[Any, ...]]) -> list[Any]:
        """Has a process of its own do it."""
        child = ChildProcess("study.data.store.remote:serve")
        try:
            child.send((self.uri, requests))
            answer = child.receive()
        except ChildDiedError as death:
            raise OSError(f"the process that reads {self.uri} {death}") from None
        finally:
            child.kill()
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


def serve(connection: Connection) -> None:
    """Answers a `CachedFolder` from a process of its own."""
    uri, requests = connection.recv()
    try:
        remote = RemoteFolder(uri)
        connection.send([_answer(remote, *request) for request in requests])
    except (OSError, ValueError) as error:
        connection.send(error)
    except pa.ArrowException as error:
        connection.send(OSError(f"can't read {uri}: {error}"))


def _answer(remote: RemoteFolder, kind: str, name: str, *more: Any) -> bytes | None:
    if kind == "read":
        return remote.read(name)
    _fetch(remote, name, *more)
    return None


def _is_whole(path: Path, size: int | None) -> bool:
    try:
        return path.stat().st_size == size or size is None
    except (FileNotFoundError, NotADirectoryError):
        return False


def _fetch(remote: RemoteFolder, name: str, target: Path, size: int | None) -> None:
    """Fetches a file, unless another process is fetching it: then waits for that one."""
    other = f"name another folder for the cache with {CACHE_VARIABLE}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.lock").open("wb")
    except OSError as error:
        reason = f"can't write {target.parent}: {error.strerror}"
        raise OSError(error.errno, f"{reason}; {other}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system drops it with the process
        if _is_whole(target, size):
            return
        try:
            with whole_file(target) as file:
                _copy(remote, name, file, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            bytes_ = "" if size is None else f"the {size:,} bytes of "
            reason = f"no space left for {bytes_}{name} in {target.parent}"
            raise OSError(error.errno, f"{reason}; {other}") from None


def _copy(remote: RemoteFolder, name: str, file: IO[bytes], size: int | None) -> None:
    try:
        for piece in remote.pieces(name):
            file.write(piece)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{remote.uri} has no {name}, which its manifest names: upload the store again"
        ) from None
    if size is not None and file.tell() != size:
        raise OSError(
            f"{name} in {remote.uri} has {file.tell()} bytes where its manifest says {size}: "
            "upload the store again"
        )
