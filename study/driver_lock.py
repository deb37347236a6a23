"""One driver a study: whoever runs it holds a lock that ends with its process."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["StudyRunsError", "only_driver"]


class StudyRunsError(RuntimeError):
    """Another process runs the study."""


@contextmanager
def only_driver(path: Path) -> Iterator[None]:
    """Holds a study's lock for a ``with`` statement.

    The system lets go of it when the process ends, however it ends, so a dead driver holds none.

    Args:
        path: The lock's file, on storage that all who may run the study see. It stays.

    Raises:
        StudyRunsError: If another process holds it; the message names its host and process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise StudyRunsError(
                f"study {path.stem!r} is being run by {_holder(file.read())}; wait for it or stop "
                "it, or give this one another --name"
            ) from None
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        file.flush()
        yield


def _holder(said: str) -> str:
    try:
        holder = json.loads(said)
        return f"process {holder['process']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
