"""The spaces by name: for each system its arms, searched parameters and settings."""

from search_spaces.space import Arm, Settings, Space
from search_spaces.stilt import stilt

__all__ = ["Arm", "Settings", "Space", "get", "names"]

SPACES = {"stilt": stilt}


def names() -> tuple[str, ...]:
    """The names that ``get`` knows."""
    return tuple(SPACES)


def get(name: str) -> Space:
    """The space of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in SPACES:
        raise ValueError(f"there is no space {name!r}; there are {', '.join(SPACES)}")
    return SPACES[name]()
