"""Modules that bring spaces, models and datasets, the project's own and others': how they come in.

A module registers what it brings when it is imported. It is named by a user, as a file or as a
module, or by the package that was installed with it, as an entry point of one of three groups::

    [project.entry-points."two_stream_study.models"]
    mine = "my_package.my_model"
"""

import importlib
import importlib.util
import sys
import traceback
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

__all__ = [
    "DATASETS",
    "MODELS",
    "SPACES",
    "PluginError",
    "explained",
    "import_entry_points",
    "import_named",
    "import_plugin",
    "names_plugin",
]

SPACES = "two_stream_study.spaces"
MODELS = "two_stream_study.models"
DATASETS = "two_stream_study.datasets"

_imported: set[str] = set()


class PluginError(ValueError):
    """A plug-in that isn't there, can't be imported, or brings something else than is asked."""


def names_plugin(text: str) -> bool:
    """Returns whether a text names a file or ``module:attribute``, not what is registered."""
    return ":" in text or text.endswith(".py")


def import_named(text: str) -> tuple[ModuleType, str]:
    """Imports the plug-in that a user names.

    A file is imported as a module of its name, and can import the files beside it; a module may be
    in the current folder. Neither takes the place of a module that is installed.

    Args:
        text: ``FILE.py``, ``FILE.py:ATTRIBUTE`` or ``MODULE:ATTRIBUTE``.

    Returns:
        The module, and the attribute's name or "".

    Raises:
        PluginError: If there is no such file or module, another has its name, or it can't be
            imported.
    """
    source, _, attribute = text.partition(":")
    if not source.endswith(".py"):
        _make_importable(Path.cwd())
        return import_plugin(source), attribute
    path = Path(source).resolve()
    if not path.is_file():
        raise PluginError(f"there is no file {source}")
    if not path.stem.isidentifier():
        raise PluginError(
            f"{source} is imported as module {path.stem!r}, which is no name in Python; give the "
            "file one of letters, digits and _"
        )
    _make_importable(path.parent)
    found = importlib.util.find_spec(path.stem)
    if found is None or found.origin is None or Path(found.origin).resolve() != path:
        raise PluginError(
            f"{source} is imported as module {path.stem!r}, but there is another of that name"
            f"{f', {found.origin}' if found and found.origin else ''}; rename the file"
        )
    return import_plugin(path.stem), attribute


def import_plugin(name: str) -> ModuleType:
    """Imports a module, and with it registers what it brings.

    Args:
        name: Its dotted name.

    Raises:
        PluginError: If there is none, or importing it fails; the message names the line.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise PluginError(
                f"there is no module {name!r}; it must be installed or in the current folder"
            ) from error
        raise explained(f"module {name!r} can't be imported", error) from error
    except (Exception, SystemExit) as error:
        raise explained(f"module {name!r} can't be imported", error) from error


def import_entry_points(group: str) -> None:
    """Imports the modules that installed packages name in a group, once in a process.

    Raises:
        PluginError: If one can't be imported.
    """
    if group in _imported:
        return
    _imported.add(group)  # before: a plug-in may ask for what is registered
    for entry in entry_points(group=group):
        try:
            import_plugin(entry.module)
        except PluginError as error:
            _imported.discard(group)
            package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "a package"
            raise PluginError(
                f"{error} ({package} names it as an entry point of {group}; repair or uninstall "
                "the package)"
            ) from error


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: it takes the place of nothing that is installed
    importlib.invalidate_caches()


def explained(what: str, error: BaseException) -> PluginError:
    """Returns an error of one line that names the line of a plug-in at which something failed.

    Args:
        what: What failed.
        error: The error, as the function caught it that called the plug-in.
    """
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, SyntaxError):
        return PluginError(
            f"{what}: {error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
        )
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)[1:]
        if not frame.filename.startswith("<") and frame.filename != importlib.__file__
    ]
    if not frames:
        return PluginError(f"{what}: {said}")
    own = Path(frames[0].filename).parent
    last = [frame for frame in frames if Path(frame.filename).is_relative_to(own)][-1]
    return PluginError(f"{what}: {last.filename}, line {last.lineno} ({last.line}): {said}")
