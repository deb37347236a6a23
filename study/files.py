"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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
    file.

    Args:
        path: The file; its folder exists.
        shared: Whether several writers may write it at once; then each has a temporary file of its
            own. Otherwise two writers need a lock between them, and what a killed one left is
            written over by the next.
    """
    temporary = temporary_name(path, secrets.token_hex(8) if shared else "")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: Any) -> None:
    """Writes bytes as `whole_file` does."""
    with whole_file(path) as file:
        file.write(content)
