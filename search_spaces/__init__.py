"""The spaces by name: for each system its arms, searched parameters, settings and tables.

Every module of the package is imported, so a new space needs its own file and no line elsewhere; a
module outside the package registers its space the same way, when it is imported.
"""

import importlib
import pkgutil

from search_spaces.registry import (
    find_table,
    get,
    names,
    register_space,
    tables,
    tables_showing,
)
from search_spaces.space import METRICS, Arm, Settings, Space, Table, TableRow

__all__ = [
    "METRICS",
    "Arm",
    "Settings",
    "Space",
    "Table",
    "TableRow",
    "find_table",
    "get",
    "names",
    "register_space",
    "tables",
    "tables_showing",
]


def _import_spaces() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


_import_spaces()
