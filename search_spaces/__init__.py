"""The spaces by name: for each system its arms, searched parameters, settings and tables.

Every module of the package is imported at the first question for a space, so a new one needs its
own file and no line elsewhere; a module outside the package registers its space the same way, when
it is imported.
"""

from search_spaces.registry import (
    find_table,
    get,
    load,
    module_of,
    names,
    register_space,
    tables,
    tables_showing,
)
from search_spaces.space import METRICS, Arm, Ensemble, Settings, Space, Table, TableRow

__all__ = [
    "METRICS",
    "Arm",
    "Ensemble",
    "Settings",
    "Space",
    "Table",
    "TableRow",
    "find_table",
    "get",
    "load",
    "module_of",
    "names",
    "register_space",
    "tables",
    "tables_showing",
]
