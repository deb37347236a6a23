"""What is wrong with a question to the results, and what was probably meant."""

import re
from collections.abc import Collection
from difflib import get_close_matches

import duckdb

from study.results.connection import Connection
from study.results.schema import VIEWS

__all__ = ["describe_fault", "meant", "names_not_there"]

# The columns by whose values people ask, and a condition on one of them.
ASKED_BY = ("study", "space", "arm", "dataset")
CONDITION = re.compile(rf"\b({'|'.join(ASKED_BY)})\s*=+\s*'((?:[^']|'')*)'", re.IGNORECASE)


def meant(name: str, known: Collection[str]) -> str:
    """Returns a question for the nearest of the known names, or nothing where none is near."""
    near = get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def describe_fault(error: Exception) -> str:
    """Returns what was wrong, on one line; of an unknown view or column, with what there is."""
    text = str(error).split("\n\nLINE")[0]
    if match := re.search(r"Table with name \"?(.+?)\"? does not exist", text):
        said = f"there is no view {match[1]!r}{meant(match[1], VIEWS)}"
        return f"{said}; there are {', '.join(VIEWS)}"
    if isinstance(error, duckdb.PermissionException):
        return f"SQL reads the results and nothing else; there are {', '.join(VIEWS)}"
    column = re.search(r'column (?:named )?"(.+?)"', text)
    if column and isinstance(error, duckdb.BinderException):
        return _describe_column(column[1], text.partition("Candidate bindings:")[2])
    return " ".join(text.split())


def _describe_column(name: str, candidates: str) -> str:
    """Returns that there is no column of the name; candidates are as DuckDB lists them, quoted."""
    said = f"what the query reads has no column {name!r}"
    if homes := [view for view in VIEWS if name in (column.name for column in VIEWS[view])]:
        return f"{said}; {', '.join(homes)} {'has' if len(homes) == 1 else 'have'} it"
    near = re.findall(r'"([^"]+)"', candidates)
    every = {column.name for columns in VIEWS.values() for column in columns}
    if meaning := meant(name, near or sorted(every)):
        return said + meaning
    return f"{said}; near are {', '.join(near)}" if near else f"{said}; see --list"


def names_not_there(connection: Connection, sql: str) -> list[str]:
    """Returns what a query that found nothing asks for by a name that no line has.

    Args:
        connection: The results.
        sql: The query; conditions such as ``arm = 'stil'`` are looked at.
    """
    said = []
    for column, value in dict.fromkeys(CONDITION.findall(sql)):
        homes = [
            view
            for view in ("rows", "trainings", "trials", "published")
            if column.lower() in (one.name for one in VIEWS[view])
        ]
        every = " UNION ".join(f"SELECT {column} FROM {view}" for view in homes)
        known = [name for (name,) in connection.execute(every).fetchall()]
        if value not in known:
            said.append(f"there is no {column.lower()} {value!r}{meant(value, known)}")
    return said
