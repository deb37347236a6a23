"""Which studies need a checkpoint: studies of one results folder share trainings."""

from study.results.store import ResultStore

__all__ = ["claim", "release"]

FOLDER = "claims"


def claim(results: ResultStore, training_id: str, study: str) -> None:
    """Notes that a study goes on from a checkpoint, or will once it is written.

    The note stays when the study is killed, for it goes on from there when it is started again.

    Args:
        results: The results of the studies that share it.
        training_id: The checkpoint's training.
        study: The study's name.
    """
    while True:
        try:
            results.put_file(f"{FOLDER}/{training_id}/{study}", b"")
        except FileNotFoundError:  # the last of the others has just released it
            continue
        return


def release(results: ResultStore, training_id: str, study: str) -> bool:
    """Takes a study's note back; returns whether no other study needs the checkpoint."""
    results.delete_file(f"{FOLDER}/{training_id}/{study}")
    return results.delete_empty_folder(f"{FOLDER}/{training_id}")
