"""Files that appear whole or not at all."""

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from study.files import temporary_name, whole_file, write_whole


def test_a_file_appears_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole_file(path) as file:
        file.write(b"all of it")
        assert not path.exists()
        assert temporary_name(path).exists()
    assert path.read_bytes() == b"all of it"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shared", [False, True])
def test_a_write_that_fails_leaves_the_former_file_alone(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "file"
    write_whole(path, b"former")
    with contextlib.suppress(KeyboardInterrupt), whole_file(path, shared=shared) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    temporary_name(path).write_bytes(b"much that a killed writer left")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_that_share_a_path_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(number: int) -> None:
        with whole_file(path, shared=True) as file:
            for _ in range(50):
                file.write(bytes([number]) * 100)
                file.flush()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(16)))
    content = path.read_bytes()
    assert len(content) == 5000
    assert len(set(content)) == 1
    assert list(tmp_path.iterdir()) == [path]


WAITING_WRITER = """
import sys
from pathlib import Path
from study.files import whole_file
with whole_file(Path(sys.argv[1]), shared=True) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def waiting_writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has written half of a shared file, and the rest once its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITING_WRITER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.kill()


def test_what_a_killed_writer_left_of_a_shared_file_is_removed_by_the_next(tmp_path: Path) -> None:
    path, other = tmp_path / "file[1]", tmp_path / "file[1].more"
    other_left = temporary_name(other, "0123456789abcdef")
    other_left.write_bytes(b"of another path")
    with waiting_writer(path) as process:
        process.kill()
    assert len(list(tmp_path.iterdir())) == 2
    with whole_file(path, shared=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, other_left.name}


def test_a_writer_that_lives_keeps_its_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with waiting_writer(path) as process:
        with whole_file(path, shared=True) as file:
            file.write(b"new")
        assert path.read_bytes() == b"new"
        process.communicate("")
    assert path.read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_its_folder_and_the_former_file_stays(small_disk: Path) -> None:
    path = small_disk / "file"
    write_whole(path, b"former")
    with pytest.raises(OSError, match=r"no space left in .*/disk to write file; free") as error:
        write_whole(path, bytes(2 << 20))
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"former"
    assert list(small_disk.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_that_shows_only_when_all_is_forced_to_it_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=f"no space left in {tmp_path} to write file") as error:
        write_whole(tmp_path / "file", b"new")
    assert error.value.errno == code
    assert list(tmp_path.iterdir()) == []


def test_another_error_passes_as_it_is(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="the disk is on fire") as error,
        whole_file(tmp_path / "file"),
    ):
        raise OSError(errno.EIO, "the disk is on fire")
    assert error.value.errno == errno.EIO
