"""Files that appear whole or not at all."""

import contextlib
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
