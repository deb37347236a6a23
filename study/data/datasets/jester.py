"""Jester (Materzynska et al., "The Jester dataset", 2019)."""

from pathlib import Path

from study.data.datasets.annotations import Annotations
from study.data.datasets.lists import read_numbered
from study.data.datasets.reader import register_dataset

__all__ = ["annotate"]


@register_dataset("jester", title="Jester", needs=("splits",))
def annotate(splits: Path) -> Annotations:
    """Reads `jester-v1-{labels,train,validation}.csv`."""
    return read_numbered("jester", splits, "jester-v1")
