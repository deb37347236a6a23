"""The embedded dataset's clip store, rendered and prepared where it isn't yet."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from study.data.datasets import embedded
from study.data.flow.compute import PRESETS
from study.data.store.clip_store import ClipStore, StoreSettings
from study.data.store.preparation import Progress, prepare

__all__ = ["EMBEDDED_STORE", "prepare_embedded"]

EMBEDDED_STORE = StoreSettings(
    dataset="embedded",
    short_side=embedded.SIZE,
    stacks=3,
    flow_length=4,
    flow=PRESETS["small"],
)
"""Three stacks: one of each of a clip's thirds. Flow at settings for its 64 pixels."""


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
    with tempfile.TemporaryDirectory(prefix="embedded-") as folder:
        videos = Path(folder)
        embedded.render_dataset(videos)
        prepare(
            embedded.annotate(), videos, path, EMBEDDED_STORE, workers=workers, progress=progress
        )
    return ClipStore.open(path)
