"""The spaces and their tables by name: a module registers its space by being imported.

The modules of this package, those that installed packages name as entry points and those that a
user names come in alike, by ``models.plugins``.
"""

import pkgutil
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import TypeVar

from models.plugins import (
    SPACES,
    PluginError,
    explained,
    import_entry_points,
    import_named,
    import_plugin,
    names_plugin,
)
from search_spaces.space import Space, Table

__all__ = [
    "find_table",
    "get",
    "load",
    "module_of",
    "names",
    "register_space",
    "tables",
    "tables_showing",
]

_MakeSpace = TypeVar("_MakeSpace", bound=Callable[[], Space])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Registered:
    """A space that is known: what makes it, what a module calls it by, and that module."""

    make: Callable[[], Space]
    brought: object
    module: str


_SPACES: dict[str, _Registered] = {}


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
        _register(name, _Registered(make=cache(make), brought=make, module=make.__module__))
        return make

    return register


def _register(name: str, registered: _Registered) -> None:
    if name in _SPACES:
        raise ValueError(
            f"a space {name!r} is registered already by {_SPACES[name].module}; give this one "
            "another name"
        )
    _SPACES[name] = registered


def names() -> tuple[str, ...]:
    """Returns the names of all registered spaces, sorted.

    Raises:
        PluginError: If a module of an installed package can't be imported.
    """
    return tuple(sorted(_spaces()))


def get(name: str) -> Space:
    """Returns the space of that name.

    Raises:
        PluginError: If what registered it fails to make it.
        ValueError: If there is none, or its own name is another.
    """
    spaces = _spaces()
    if name not in spaces:
        raise ValueError(f"there is no space {name!r}; there are {', '.join(names())}")
    space = _made(name, spaces[name])
    if space.name != name:
        raise ValueError(f"space {space.name!r} is registered as {name!r}; give it one name")
    return space


def load(text: str) -> Space:
    """Returns the space that a user names, and makes one from outside known by its own name.

    Args:
        text: A registered name, or ``FILE.py``, ``FILE.py:NAME`` or ``MODULE:NAME``, where the name
            is that of a registered space, of a function that returns one, or of a ``Space``.

    Raises:
        PluginError: If there is no such file, module or name, or it can't be imported.
        ValueError: If there is no such space, or another has its name or that of its table.
    """
    if not names_plugin(text):
        if text not in names():
            raise ValueError(
                f"there is no space {text!r}; there are {', '.join(names())}, or give one of your "
                "own as FILE.py or MODULE:NAME"
            )
        return get(text)
    _spaces()  # so that a name that is taken is refused
    space = get(_name_in(*import_named(text)))
    tables()  # none of its own has the name of another's
    return space


def _name_in(module: ModuleType, attribute: str) -> str:
    """Returns the name of the space that a module brings; it is registered if it wasn't."""
    own = [name for name, one in _SPACES.items() if one.module == module.__name__]
    if attribute in own:
        return attribute
    if not attribute:
        if len(own) != 1:
            found = f"registers {len(own)} spaces ({', '.join(own)})" if own else "registers none"
            raise PluginError(f"{module.__file__} {found}; name one as {module.__name__}.py:NAME")
        return own[0]
    brought = getattr(module, attribute, None)
    if not isinstance(brought, Space) and not callable(brought):
        raise PluginError(
            f"{module.__file__} has no space {attribute!r}: it must be the name of a registered "
            "space, of a function without arguments that returns a Space, or of a Space"
            + (f", but is {brought!r}" if brought is not None else "")
        )
    for name, one in _SPACES.items():
        if one.brought is brought:
            return name
    make = (lambda: brought) if isinstance(brought, Space) else cache(brought)
    registered = _Registered(make=make, brought=brought, module=module.__name__)
    space = _made(attribute, registered)
    _register(space.name, registered)
    return space.name


def _made(name: str, registered: _Registered) -> Space:
    """Returns the space that a module's function makes.

    Raises:
        PluginError: If it fails, or makes something else.
    """
    try:
        space = registered.make()
    except Exception as error:
        raise explained(f"{registered.module}: space {name!r} can't be made", error) from error
    if not isinstance(space, Space):
        raise PluginError(
            f"{registered.module}: {name!r} must return a Space, but returned {space!r}"
        )
    return space


def module_of(name: str) -> str:
    """Returns the name of the module that registers a space.

    Raises:
        ValueError: If there is no such space.
    """
    get(name)
    return _SPACES[name].module


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
        near = get_close_matches(name, found, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"there is no table {name!r}{meant}; there are {', '.join(found)}, and those of a "
            "space of your own with --space FILE.py or MODULE:NAME"
        )
    return found[name]


def _spaces() -> Mapping[str, _Registered]:
    """Returns the registered spaces, once this package's and the installed ones are imported."""
    package = sys.modules[__package__ or ""]
    for module in pkgutil.iter_modules(package.__path__, prefix=f"{package.__name__}."):
        import_plugin(module.name)
    import_entry_points(SPACES)
    return _SPACES
