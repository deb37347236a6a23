"""The spaces and their tables by name: a module registers its space by being imported."""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import TypeVar

from search_spaces.space import Space, Table

__all__ = ["find_table", "get", "names", "register_space", "tables", "tables_showing"]

_MakeSpace = TypeVar("_MakeSpace", bound=Callable[[], Space])
_SPACES: dict[str, Callable[[], Space]] = {}


def register_space(name: str) -> Callable[[_MakeSpace], _MakeSpace]:
    """Makes the space that a function without arguments returns known as ``name``.

    A decorator for the modules of this package and for any other module that brings a space::

        @register_space("mine")
        def mine() -> Space:
            return Space(name="mine", ...)

    Raises:
        ValueError: If a space of that name is registered already.
    """

    def register(make: _MakeSpace) -> _MakeSpace:
        if name in _SPACES:
            raise ValueError(f"a space {name!r} is registered already; give this one another name")
        _SPACES[name] = cache(make)
        return make

    return register


def names() -> tuple[str, ...]:
    """Returns the names of all registered spaces, sorted."""
    return tuple(sorted(_SPACES))


def get(name: str) -> Space:
    """Returns the space of that name.

    Raises:
        ValueError: If there is none, or its own name is another.
    """
    if name not in _SPACES:
        raise ValueError(f"there is no space {name!r}; there are {', '.join(names())}")
    space = _SPACES[name]()
    if space.name != name:
        raise ValueError(f"space {space.name!r} is registered as {name!r}; give it one name")
    return space


def tables() -> Mapping[str, tuple[Space, Table]]:
    """Returns every table by name with the space that prints it, space by space.

    Raises:
        ValueError: If two spaces have a table of one name.
    """
    found: dict[str, tuple[Space, Table]] = {}
    for space in map(get, names()):
        for table in space.tables:
            if table.name in found:
                raise ValueError(
                    f"spaces {found[table.name][0].name!r} and {space.name!r} both have a table "
                    f"{table.name!r}; give one of them another name"
                )
            found[table.name] = (space, table)
    return found


def tables_showing(space: str, arms: Collection[str]) -> tuple[str, ...]:
    """Returns the names of the tables that show any of a space's arms, its own tables first."""
    found = {
        name: table.arms if owner.name == space else table.arms_of(space)
        for name, (owner, table) in tables().items()
    }
    own = [table.name for table in get(space).tables]
    ordered = (*own, *(name for name in found if name not in own))
    return tuple(name for name in ordered if found[name] & set(arms))


def find_table(name: str) -> tuple[Space, Table]:
    """Returns the table of that name with the space that prints it.

    Raises:
        ValueError: If there is none.
    """
    found = tables()
    if name not in found:
        raise ValueError(f"there is no table {name!r}; there are {', '.join(found)}")
    return found[name]
