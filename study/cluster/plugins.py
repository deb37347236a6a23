"""A study's plug-ins on the machines where it trains.

Their source travels with the study: what trains is what the study's driver has read, whatever is
installed on a node or edited meanwhile. The libraries that a plug-in imports must be on the nodes,
as the project itself.
"""

import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.plugins import PluginError, import_plugin
from study.cluster.connection import on_every_node
from study.files import whole_file
from study.source import plug_in_files

__all__ = ["check_received", "receive", "ship"]

FOLDER = "plug-ins"


def ship(modules: Iterable[str]) -> dict[str, bytes]:
    """Returns the source of plug-ins, by path in a folder of modules, for the jobs to import.

    Args:
        modules: The dotted names of the plug-ins' modules.
    """
    return {name: path.read_bytes() for name, path in plug_in_files(modules).items()}


def receive(modules: Iterable[str], sources: Mapping[str, bytes], storage: str) -> None:
    """Imports plug-ins from what `ship` returned, and with it registers their models.

    Args:
        modules: The dotted names of the plug-ins' modules.
        sources: Their source.
        storage: A folder of this node's for the study alone, where the source is written.

    Raises:
        PluginError: If one can't be imported here, as where a library is missing.
    """
    folder = Path(storage) / FOLDER
    for name in modules:
        if str(folder) not in sys.path:
            _write(sources, folder)
            sys.path.insert(0, str(folder))
        import_plugin(name)


def _write(sources: Mapping[str, bytes], folder: Path) -> None:
    """Writes sources; other processes of the node may be doing, and importing, the same."""
    for name, content in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, shared=True) as file:
            file.write(content)


def check_received(modules: tuple[str, ...], sources: Mapping[str, bytes], storage: str) -> None:
    """Checks that every node that Ray has now can import what `ship` returned.

    Raises:
        PluginError: If a node can't, as where a library is missing.
    """
    if not modules:
        return
    for host, error in on_every_node(_receives, modules, sources, storage):
        if error:
            raise PluginError(
                f"on node {host}, {error}; what a plug-in imports must be installed on all nodes"
            )


def _receives(
    modules: tuple[str, ...], sources: Mapping[str, bytes], storage: str
) -> tuple[str, str]:
    try:
        receive(modules, sources, storage)
    except PluginError as error:
        return socket.gethostname(), str(error)
    return socket.gethostname(), ""
