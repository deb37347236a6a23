"""A study's plug-ins on the machines where it trains.

Their source travels with the study, in a folder that every node sees: what trains is what the
study's driver has read, whatever is installed on a node or edited meanwhile. The libraries that a
plug-in imports must be on the nodes, as the project itself.
"""

import shutil
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from models.plugins import PluginError, import_plugin
from study.cluster.connection import on_every_node
from study.source import plug_in_files

__all__ = ["check_received", "receive", "ship"]

FOLDER = "plug-ins"


def ship(modules: Iterable[str], storage: Path) -> None:
    """Copies the source of plug-ins for the jobs that import them.

    Args:
        modules: The dotted names of the plug-ins' modules.
        storage: A folder that every node sees.
    """
    for name, path in plug_in_files(modules).items():
        copy = storage / FOLDER / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def receive(modules: Iterable[str], storage: str) -> None:
    """Imports plug-ins from where `ship` has put them, and with it registers their models.

    Args:
        modules: The dotted names of the plug-ins' modules.
        storage: The folder that `ship` was given.

    Raises:
        PluginError: If one can't be imported here, as where a library is missing.
    """
    folder = str(Path(storage) / FOLDER)
    for name in modules:
        if folder not in sys.path:
            sys.path.insert(0, folder)
        import_plugin(name)


def check_received(modules: tuple[str, ...], storage: Path) -> None:
    """Checks that every node that Ray has now can import what `ship` has put into a folder.

    Raises:
        PluginError: If a node can't, as where a library is missing.
    """
    if not modules:
        return
    for host, error in on_every_node(_receives, modules, str(storage)):
        if error:
            raise PluginError(
                f"on node {host}, {error}; what a plug-in imports must be installed on all nodes"
            )


def _receives(modules: tuple[str, ...], storage: str) -> tuple[str, str]:
    try:
        receive(modules, storage)
    except PluginError as error:
        return socket.gethostname(), str(error)
    return socket.gethostname(), ""
