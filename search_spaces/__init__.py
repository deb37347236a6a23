"""The spaces by name: for each system its arms, searched parameters and settings."""

from search_spaces.all import all_systems
from search_spaces.attention_consistency import attention_consistency
from search_spaces.comparators import comparators
from search_spaces.conv_fusion import conv_fusion
from search_spaces.cstm import cstm
from search_spaces.space import Arm, Settings, Space
from search_spaces.stilt import stilt
from search_spaces.stin import stin

__all__ = ["Arm", "Settings", "Space", "get", "names"]

SPACES = {
    "stilt": stilt,
    "stin": stin,
    "conv_fusion": conv_fusion,
    "attention_consistency": attention_consistency,
    "cstm": cstm,
    "comparators": comparators,
    "all": all_systems,
}


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
