"""A training's state in one file, written whole or not at all, and known to be whole when read.

The file is what ``torch.save`` writes, followed by the SHA-256 of it all in hexadecimal digits. Its
place is a local path, or a URI such as ``s3://bucket/results/checkpoints/one.pt``.
"""

import hashlib
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from study.files import whole_file

if TYPE_CHECKING:
    from study.data.store.remote import RemoteFolder

__all__ = [
    "CheckpointPlace",
    "DamagedCheckpointError",
    "checkpoint_exists",
    "delete_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "set_aside",
    "trained_state",
]

CheckpointPlace = Path | str
"""Where a checkpoint is: a local path, or a URI as text."""

DIGITS = 64  # of a SHA-256
PIECE = 1 << 20  # bytes read at once


class DamagedCheckpointError(ValueError):
    """A checkpoint that isn't what was written."""


def save_checkpoint(place: CheckpointPlace, state: dict[str, Any]) -> None:
    """Writes tensors and plain values; readers see the previous file or the whole new one.

    Args:
        place: The file; its folder is made if missing.
        state: Tensors, numbers, strings, and lists and dicts of them.

    Raises:
        OSError: If the file can't be written, as on a full disk; the previous one stays.
    """
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(place, shared=True) as file:
            _write(file, state)
        return
    folder, name = _remote(place)
    with tempfile.TemporaryFile() as file:
        _write(file, state)
        file.seek(0)
        folder.put_opened(file, name)


def _write(file: IO[bytes], state: dict[str, Any]) -> None:
    hashed = _HashedFile(file)
    torch.save(state, cast(IO[bytes], hashed))
    file.write(hashed.digest.hexdigest().encode())


def load_checkpoint(place: CheckpointPlace) -> dict[str, Any]:
    """Returns what `save_checkpoint` wrote, on the CPU; runs no code from the file.

    Raises:
        OSError: If the file can't be read.
        DamagedCheckpointError: If a byte was changed, lost or added, or it is no checkpoint.
    """
    with _opened(place) as file:
        if not _is_whole(file):
            raise DamagedCheckpointError(
                f"checkpoint {place} is damaged: its content doesn't match its SHA-256; move it "
                "away to train from the start"
            )
        file.seek(0)
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise DamagedCheckpointError(
                f"checkpoint {place} holds more than tensors and plain values; move it away to "
                "train from the start"
            ) from error
    return state


@contextmanager
def _opened(place: CheckpointPlace) -> Iterator[IO[bytes]]:
    """Opens a checkpoint; one that isn't local is fetched to a file that has no name."""
    if isinstance(place, Path):
        with place.open("rb") as file:
            yield file
        return
    folder, name = _remote(place)
    with tempfile.TemporaryFile() as file:
        for piece in folder.pieces(name):
            file.write(piece)
        file.seek(0)
        yield file


def checkpoint_exists(place: CheckpointPlace) -> bool:
    """Returns whether there is a checkpoint, be it whole or damaged."""
    if isinstance(place, Path):
        return place.exists()
    folder, name = _remote(place)
    return folder.exists(name)


def delete_checkpoint(place: CheckpointPlace) -> None:
    """Deletes a checkpoint, if it is there."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
    else:
        folder, name = _remote(place)
        folder.delete(name)


def set_aside(place: CheckpointPlace) -> str:
    """Renames a checkpoint so that it is no longer found; returns the name that it has then."""
    if isinstance(place, Path):
        return place.replace(place.with_name(f"{place.name}.damaged")).name
    folder, name = _remote(place)
    folder.rename(name, f"{name}.damaged")
    return f"{name}.damaged"


def trained_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the trained network's state dict: the moving average, where one was asked for.

    Args:
        checkpoint: What the training loop saved.
    """
    if "averaged" not in checkpoint:
        return dict(checkpoint["model"])
    return {
        name.removeprefix("module."): value
        for name, value in checkpoint["averaged"].items()
        if name.startswith("module.")
    }


def _remote(uri: str) -> tuple["RemoteFolder", str]:
    # A machine that trains by hand, with torch alone, needn't have what this takes.
    from study.data.store.remote import RemoteFolder, divided_uri

    folder, name = divided_uri(uri)
    return RemoteFolder(folder), name


class _HashedFile:
    """Passes what is written on to a file, and hashes it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _is_whole(file: IO[bytes]) -> bool:
    """Returns whether the file ends with the digest of all that comes before."""
    digest = hashlib.sha256()
    left = os.fstat(file.fileno()).st_size - DIGITS
    while left > 0 and (piece := file.read(min(left, PIECE))):
        digest.update(piece)
        left -= len(piece)
    return file.read() == digest.hexdigest().encode()
