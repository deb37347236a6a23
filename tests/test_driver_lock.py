"""One driver a study, with real processes that hold its lock."""

import errno
import fcntl
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from study.driver_lock import StudyRunsError, only_driver

HOLD = """
import sys, time
from pathlib import Path
from study.driver_lock import only_driver
with only_driver(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_and_hears_who_runs_the_study(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "mine.lock"
    with holder(path) as process:
        for _ in range(2):  # a refusal changes nothing
            with pytest.raises(StudyRunsError) as refusal, only_driver(path):
                pass
            assert str(refusal.value).startswith(
                f"study 'mine' is being run by process {process.pid} on {socket.gethostname()}; "
            )
        with only_driver(tmp_path / "locks" / "other.lock"):
            pass


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_dead_process_does_not_hold(tmp_path: Path, end: signal.Signals) -> None:
    path = tmp_path / "mine.lock"
    with holder(path) as process:
        process.send_signal(end)
        process.wait()
        with only_driver(path):
            assert path.exists()


def test_one_process_holds_a_lock_once_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "mine.lock"
    for _ in range(2):
        with only_driver(path):
            with pytest.raises(StudyRunsError, match="is being run by process"), only_driver(path):
                pass
            refused = subprocess.run(
                [sys.executable, "-c", HOLD, str(path)], capture_output=True, text=True
            )
            assert "StudyRunsError" in refused.stderr, "the refusal above released the lock"


def test_a_holder_that_has_not_written_its_name_yet_is_another_process(tmp_path: Path) -> None:
    path = tmp_path / "mine.lock"
    with holder(path):
        path.write_text('{"host": ')
        with (
            pytest.raises(StudyRunsError, match="is being run by another process; wait"),
            only_driver(path),
        ):
            pass


def test_storage_without_locks_is_not_taken_for_another_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    lock: Callable[..., None] = refuse
    monkeypatch.setattr(fcntl, "lockf", lock)
    with pytest.raises(OSError, match="No locks available"), only_driver(tmp_path / "mine.lock"):
        pass
