"""The datasets that a study can name: those that a file of this package registers."""

import gc
import pkgutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from models.plugins import DATASETS, PluginError, import_entry_points, import_named, names_plugin
from study.data import datasets
from study.data.datasets.annotations import Annotations
from study.data.datasets.folder import NAME
from study.data.datasets.list_files import ListFiles
from study.data.datasets.reader import READERS, DatasetReader

__all__ = [
    "annotate",
    "dataset_name",
    "dataset_title",
    "find_reader",
    "list_datasets",
    "load_dataset",
    "videos_folder",
]

for _file in pkgutil.iter_modules(datasets.__path__):
    import_module(f"{datasets.__name__}.{_file.name}")

_NEEDED = {
    "videos": "a folder with a folder for each class",
    "splits": "the folder of its official lists",
}


def list_datasets() -> list[str]:
    """Returns the names that `find_reader` and `annotate` know, sorted.

    Raises:
        PluginError: If a module of an installed package can't be imported.
    """
    import_entry_points(DATASETS)
    return sorted(READERS)


def load_dataset(text: str) -> str:
    """Returns the name of the dataset that a user names, which may come from outside.

    Args:
        text: A name of `list_datasets()`, or ``FILE.py``, ``FILE.py:NAME`` or ``MODULE:NAME``,
            where the name is that of a dataset or of its decorated function.

    Raises:
        PluginError: If there is no such file, module or dataset, or it can't be imported.
    """
    if not names_plugin(text):
        return text
    module, name = import_named(text)
    own = {
        reader.name: reader.annotate
        for reader in READERS.values()
        if reader.annotate.__module__ == module.__name__
    }
    chosen = [one for one in own if name in ("", one) or own[one] is getattr(module, name, None)]
    if len(chosen) != 1:
        raise PluginError(
            f"{text} must name one dataset that {module.__file__} registers; it registers "
            f"{', '.join(own) or 'none'}"
        )
    return chosen[0]


def find_reader(dataset: str) -> DatasetReader:
    """Returns the reader of a dataset.

    Raises:
        ValueError: If there is no such dataset.
    """
    if dataset not in list_datasets():
        raise ValueError(f'unknown dataset "{dataset}"; there are: {", ".join(list_datasets())}')
    return READERS[dataset]


def dataset_title(dataset: str) -> str:
    """The dataset's name as its authors write it; that of one without a reader as it is."""
    return READERS[dataset].title if dataset in list_datasets() else dataset


def annotate(
    dataset: str,
    *,
    videos: Path | None = None,
    splits: Path | None = None,
    lists: ListFiles | None = None,
    group: str | None = None,
    name: str | None = None,
    report: Callable[[str], None] = warnings.warn,
) -> Annotations:
    """Reads a dataset's classes and splits. No video is opened, and missing ones are listed too.

    Args:
        dataset: One of `list_datasets()`.
        videos: Folder of the videos; any dataset may be given it, some are read from it.
        splits: Folder of the official split files, where a dataset has them.
        lists: Lists of a dataset of one's own.
        group: What videos belong together, where a dataset doesn't say; see
            `study.data.datasets.folder.annotate`.
        name: What a dataset of one's own is called.
        report: Receives what is passed over in lists of one's own, a sentence for each kind.

    Raises:
        ValueError: If the dataset is unknown, an argument is one that it doesn't take or lacks,
            or a list or folder can't be understood.
        FileNotFoundError: If a folder or a split file is missing.
    """
    reader = find_reader(dataset)
    if name is not None and name != dataset and name in list_datasets():
        raise ValueError(f'"{name}" is a dataset of another kind; give another name')
    given = {"videos": videos, "splits": splits, "lists": lists, "group": group, "name": name}
    used = {name: {**given, "report": report}[name] for name in (*reader.needs, *reader.takes)}
    for what in ("splits", "lists", "group", "name"):
        if given[what] is not None and what not in used:
            raise ValueError(f'dataset "{dataset}" takes no {what}, but got {given[what]}')
    for what, folder in (("videos", videos), ("splits", splits)):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"no {what} folder {folder}; give --{what} DIR, where they are")
    for what in reader.needs:
        if used[what] is None:
            raise ValueError(f'dataset "{dataset}" needs {what}: {_NEEDED[what]}')
    with _garbage_collector_off():
        return reader.annotate(**used)


def dataset_name(dataset: str, videos: Path | None, name: str | None = None) -> str:
    """Returns what a dataset is called: as given, else one's own by its folder of videos."""
    if name is None and videos is not None and "name" in find_reader(dataset).takes:
        folder = videos.resolve().name
        return folder if NAME.fullmatch(folder) and folder not in list_datasets() else dataset
    return name or dataset


@contextmanager
def videos_folder(dataset: str, given: Path | None) -> Iterator[Path]:
    """Yields the folder of a dataset's videos, which stands while the context is open.

    Args:
        dataset: One of `list_datasets()`.
        given: A folder that has the videos. None renders them into a temporary one, for a dataset
            whose videos the project makes itself.

    Raises:
        ValueError: If no folder is given for a dataset whose videos come from elsewhere.
    """
    render = find_reader(dataset).render
    if given is not None:
        yield given
    elif render is None:
        raise ValueError(f"dataset {dataset} needs --videos DIR, the folder of its videos")
    else:
        with tempfile.TemporaryDirectory(prefix=f"{dataset}-") as folder:
            render(Path(folder))
            yield Path(folder)


@contextmanager
def _garbage_collector_off() -> Iterator[None]:
    """Turns the collector off, which would look at all videos made so far again and again.

    With hundreds of thousands of videos that takes as long as making them.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
