"""Processes of our own that can be killed at any moment, whatever they are stuck in.

Unlike `multiprocessing`, a child neither runs the caller's main module again nor shares anything
with its parent but one connection, and it never outlives the parent (Linux).
"""

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["ChildDiedError", "ChildProcess", "ChildStuckError", "send_bytes"]

_ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")
}
_BOOT = "import sys; from study.data.process import _boot; _boot(*sys.argv[1:])"
_PR_SET_PDEATHSIG = 1


class ChildDiedError(Exception):
    """The child ended before it answered; the message says how.

    Attributes:
        by_signal: Whether a signal killed it, as a crash or the lack of memory does.
    """

    def __init__(self, status: int) -> None:
        self.by_signal = status < 0
        super().__init__(
            f"died of {signal.Signals(-status).name}"
            if self.by_signal
            else f"ended with status {status}"
        )


class ChildStuckError(Exception):
    """The child gave no sign of life within the time allowed; it has been killed."""


class ChildProcess:
    """A running child and the connection to it.

    Args:
        function: What the child runs, as "module:function"; it is called with the child's end of
            the connection and ends when that is closed (`EOFError`).
        environment: Variables to add to the child's environment.
    """

    def __init__(self, function: str, *, environment: dict[str, str] | None = None) -> None:
        self.connection, theirs = Pipe()
        root = str(Path(__file__).parents[2])
        search_path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, function, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": search_path, **(environment or {})},
                process_group=0,  # Ctrl-C is the parent's to handle
            )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Sends a message; a child that is gone is noticed when its answer is received."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def receive(self, timeout: float | None = None) -> Any:
        """Returns the child's next message.

        Raises:
            ChildStuckError: If nothing came within `timeout` seconds.
            ChildDiedError: If the child ended.
        """
        try:
            if timeout is not None and not self.connection.poll(timeout):
                self.kill()
                raise ChildStuckError(f"no sign of life for {timeout:g} s")
            return self.connection.recv()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            raise ChildDiedError(self._process.wait()) from None

    def receive_into(self, buffer: memoryview, timeout: float) -> None:
        """Fills `buffer` with what the child sends by `send_bytes`.

        Raises:
            ChildStuckError: If nothing came within `timeout` seconds, at first or half way.
            ChildDiedError: If the child ended.
        """
        while len(buffer):
            try:
                if not self.connection.poll(timeout):
                    self.kill()
                    raise ChildStuckError(f"no sign of life for {timeout:g} s")
                count = os.readv(self.connection.fileno(), [buffer])
            except (ConnectionResetError, BrokenPipeError):
                count = 0
            if count == 0:
                raise ChildDiedError(self._process.wait())
            buffer = buffer[count:]

    def kill(self) -> None:
        """Ends the child, stuck or not, and closes the connection."""
        self._process.kill()
        self._process.wait()
        self.connection.close()


def send_bytes(connection: Connection, buffer: memoryview) -> None:
    """Sends bytes from the child, for `ChildProcess.receive_into` of a buffer of the same size."""
    while len(buffer):
        buffer = buffer[os.write(connection.fileno(), buffer) :]


def _boot(function: str, descriptor: str, parent: str) -> None:
    """Runs in the child: ties its life to the parent's, then calls the function."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            return
    module, _, name = function.partition(":")
    with Connection(int(descriptor)) as connection:
        try:
            getattr(importlib.import_module(module), name)(connection)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the parent is gone or has closed its end
