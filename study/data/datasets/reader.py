"""What a dataset's file says of it, so that a study can name the dataset."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from study.data.datasets.annotations import Annotations

__all__ = ["READERS", "DatasetReader", "register_dataset"]

Argument = Literal["videos", "splits", "lists", "group", "name", "report"]
Annotate = Callable[..., Annotations]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetReader:
    """How a dataset is read.

    Attributes:
        name: What commands and results call it.
        title: What its authors call it, as tables print it.
        annotate: Reads its classes and splits without opening a video; takes the arguments of
            `study.data.datasets.catalog.annotate` that `needs` and `takes` name.
        needs: Arguments that must be given.
        takes: Arguments that may be given in addition to those.
        render: Writes its videos into a folder, for a dataset whose videos the project makes
            itself; None where they come from elsewhere.
        store: Default settings of its clip store where they differ from those of
            `study.data.store.settings.StoreSettings`.
    """

    name: str
    title: str
    annotate: Annotate
    needs: tuple[Argument, ...] = ()
    takes: tuple[Argument, ...] = ()
    render: Callable[[Path], None] | None = None
    store: Mapping[str, Any] = field(default_factory=dict)


READERS: dict[str, DatasetReader] = {}
"""By name, those whose files were imported; `study.data.datasets.catalog` imports them all."""


def register_dataset(name: str, *, title: str, **options: Any) -> Callable[[Annotate], Annotate]:
    """Makes the decorated function the `annotate` of a `DatasetReader` that studies can name.

    Args:
        name: The reader's name.
        title: The reader's title.
        **options: The reader's other attributes.

    Raises:
        ValueError: If another dataset has the name.
    """

    def register(annotate: Annotate) -> Annotate:
        if name in READERS:
            raise ValueError(
                f'two datasets are named "{name}", in {READERS[name].annotate.__module__} and in '
                f"{annotate.__module__}"
            )
        READERS[name] = DatasetReader(name=name, title=title, annotate=annotate, **options)
        return annotate

    return register
