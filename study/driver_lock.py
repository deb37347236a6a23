"""One driver a study: the process that runs it holds a lock, which ends with the process."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["StudyRunsError", "only_driver"]


_held: set[Path] = set()  # by this process, which the system would give a lock that it has again


class StudyRunsError(RuntimeError):
    """The study is being run already.

    Args:
        study: Its name.
        driver: What runs it, in words.
    """

    def __init__(self, study: str, driver: str) -> None:
        super().__init__(
            f"study {study!r} is being run by {driver}; wait for it or stop it, or give this one "
            "another --name"
        )


@contextmanager
def only_driver(path: Path) -> Iterator[None]:
    """Holds a study's lock for a ``with`` statement.

    The system releases it when the process ends, however it ends, so a dead driver holds none.

    Args:
        path: The lock's file, on storage that every machine that may run the study sees. It stays.

    Raises:
        StudyRunsError: If it is held already; the message names the holder's host and process.
        OSError: If the storage has no locks.
    """
    path = path.resolve()
    if path in _held:
        raise StudyRunsError(path.stem, f"process {os.getpid()} on {socket.gethostname()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise StudyRunsError(path.stem, _holder(file.read())) from None
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        file.flush()
        _held.add(path)
        try:
            yield
        finally:
            _held.remove(path)


def _holder(content: str) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['process']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
