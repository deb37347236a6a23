"""Which studies need a checkpoint: studies of one results folder share trainings."""

from pathlib import Path

__all__ = ["claim", "release"]


def claim(folder: Path, study: str) -> None:
    """Notes that a study goes on from a checkpoint, or will once it is written.

    The note stays when the study is killed, for it goes on from there when it is started again.

    Args:
        folder: Where the notes on one checkpoint lie; made where it is missing.
        study: The study's name.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            (folder / study).touch()
        except FileNotFoundError:  # the last of the others has just released it
            continue
        return


def release(folder: Path, study: str) -> bool:
    """Takes a study's note back; returns whether no other study needs the checkpoint."""
    (folder / study).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except FileNotFoundError:  # none has needed it since
        return True
    except OSError:  # another study's note is in it
        return False
    return True
