"""The embedded dataset's clip store, rendered and prepared where it isn't yet."""

from collections.abc import Callable
from pathlib import Path

from study.data.datasets.catalog import annotate, videos_folder
from study.data.store.clip_store import ClipStore
from study.data.store.preparation import Progress, default_settings, prepare
from study.data.store.staging import generation

__all__ = ["is_prepared", "prepare_embedded"]


def is_prepared(path: Path) -> bool:
    """Returns whether a finished store is in a folder."""
    return generation(path) is not None


def prepare_embedded(
    path: Path,
    *,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ClipStore:
    """Renders the embedded dataset's videos, then decodes them and computes flow like any other's.

    A finished store is opened as it is; an unfinished one goes on.

    Args:
        path: The store's folder.
        workers: As for ``prepare``.
        progress: As for ``prepare``.
    """
    settings = default_settings("embedded")
    with videos_folder("embedded", None) as videos:
        prepare(annotate("embedded"), videos, path, settings, workers=workers, progress=progress)
    return ClipStore.open(path)
