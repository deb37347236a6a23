"""A training's state in one file, written whole or not at all."""

import pickle
from pathlib import Path
from typing import Any

import torch

from study.files import whole_file

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values; readers see the previous file or the whole new one.

    Args:
        path: The file; its folder is made if missing.
        state: Tensors, numbers, strings, and lists and dicts of them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, shared=True) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Returns what `save_checkpoint` wrote, on the CPU; runs no code from the file.

    Raises:
        OSError: If the file can't be opened.
        ValueError: If it is no checkpoint, or is damaged.
    """
    with path.open("rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"checkpoint {path} can't be read ({reason}); delete it to train from the start"
            ) from error
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint {path} holds no training; delete it to train from the start")
    return state
