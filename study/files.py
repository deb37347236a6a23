"""Files that appear whole or not at all."""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import IO, Any

__all__ = ["TEMPORARY_SUFFIX", "temporary_name", "whole_file", "write_whole"]

TEMPORARY_SUFFIX = ".tmp"


def temporary_name(path: Path, unique: str = "") -> Path:
    """Returns where a file is while it is being written; a killed process leaves it there."""
    return path.with_name(f".{path.name}{unique and f'.{unique}'}{TEMPORARY_SUFFIX}")


@contextmanager
def whole_file(path: Path, *, shared: bool = False) -> Iterator[IO[bytes]]:
    """Opens a temporary file in the same folder that takes the path's place once all is written.

    The content is forced to disk first. Whatever happens, `path` is what it was before or the new
    file, and what a killed writer left behind is gone.

    Args:
        path: The file; its folder exists.
        shared: Whether several writers may write it at once; then each has a temporary file of its
            own, and those whose writers are dead are removed where the file system has locks.
            Otherwise two writers need a lock between them, and what a killed one left is written
            over by the next.

    Raises:
        OSError: If the file can't be written; with the folder in the message where no space is
            left, however deep in the caller's writing that came up.
    """
    temporary, file = _open_temporary(path, shared=shared)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, Exception) and (code := _no_space(error)) is not None:
            raise OSError(
                code,
                f"no space left in {path.parent} to write {path.name}; free some there and run "
                "the same command again",
            ) from error
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_temporary(path: Path, *, shared: bool) -> tuple[Path, IO[bytes]]:
    """Opens a temporary file; a shared path's is this writer's own, and locked while it is open."""
    if not shared:
        return temporary_name(path), temporary_name(path).open("wb")
    _remove_abandoned(path)
    while True:
        temporary = temporary_name(path, secrets.token_hex(8))  # 16 digits
        file = temporary.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, file
        file.close()  # another writer took it for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    """Removes the temporary files of writers that are dead: those that nobody holds locked."""
    for left in path.parent.glob(temporary_name(Path(escape(path.name)), "?" * 16).name):
        with contextlib.suppress(OSError), left.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def _no_space(error: BaseException | None) -> int | None:
    """Returns the error number of a full disk or quota among an error's causes.

    A library that is handed a file may raise an error of its own from the write that failed, as
    ``torch.save`` does.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def write_whole(path: Path, content: Any) -> None:
    """Writes bytes as `whole_file` does."""
    with whole_file(path) as file:
        file.write(content)
