"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["temporary_name", "whole_file", "write_whole"]


def temporary_name(path: Path) -> Path:
    """Where a file is while it is being written; a process that is killed leaves it there."""
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a temporary file beside `path` that takes its place once all is written.

    The content is forced to disk first. Whatever happens, `path` is what it was before or the new
    file. Two writers of one path at once need a lock between them.
    """
    temporary = temporary_name(path)
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
