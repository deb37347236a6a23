"""A training's state in one file, written whole or not at all, and known to be whole when read.

The file is what ``torch.save`` writes, followed by the SHA-256 of it all in hexadecimal digits.
"""

import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from study.files import whole_file

__all__ = ["DamagedCheckpointError", "load_checkpoint", "save_checkpoint", "trained_state"]

DIGITS = 64  # of a SHA-256
PIECE = 1 << 20  # bytes read at once


class DamagedCheckpointError(ValueError):
    """A checkpoint that isn't what was written."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values; readers see the previous file or the whole new one.

    Args:
        path: The file; its folder is made if missing.
        state: Tensors, numbers, strings, and lists and dicts of them.

    Raises:
        OSError: If the file can't be written, as on a full disk; the previous one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, shared=True) as file:
        hashed = _HashedFile(file)
        torch.save(state, cast(IO[bytes], hashed))
        file.write(hashed.digest.hexdigest().encode())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Returns what `save_checkpoint` wrote, on the CPU; runs no code from the file.

    Raises:
        OSError: If the file can't be opened.
        DamagedCheckpointError: If a byte was changed, lost or added, or it is no checkpoint.
    """
    with path.open("rb") as file:
        if not _is_whole(file):
            raise DamagedCheckpointError(
                f"checkpoint {path} is damaged: its content doesn't match its SHA-256; move it "
                "away to train from the start"
            )
        file.seek(0)
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise DamagedCheckpointError(
                f"checkpoint {path} holds more than tensors and plain values; move it away to "
                "train from the start"
            ) from error
    return state


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
