"""The backbones by name.

A backbone is a ``Backbone`` registered under one name or several::

    @register_backbone("mine_small", "mine_large")
    class Mine(Backbone):
        def __init__(self, name: str, *, in_channels: int = 3) -> None: ...
"""

from collections.abc import Callable
from typing import TypeVar

from models.backbones.base import Backbone
from models.checks import check_count

__all__ = ["create_backbone", "list_backbones", "register_backbone"]

_Backbone = TypeVar("_Backbone", bound=Backbone)
_BACKBONES: dict[str, Callable[..., Backbone]] = {}


def register_backbone(*names: str) -> Callable[[type[_Backbone]], type[_Backbone]]:
    """Makes a backbone known by its names; a class decorator.

    Args:
        *names: The names for ``create_backbone``. The class is called as
            ``cls(name, in_channels=C)``.

    Raises:
        ValueError: If a name is taken.
    """

    def register(cls: type[_Backbone]) -> type[_Backbone]:
        for name in names:
            if name in _BACKBONES:
                raise ValueError(f"a backbone {name!r} is registered already: {_BACKBONES[name]}")
            _BACKBONES[name] = cls
        return cls

    return register


def list_backbones() -> list[str]:
    """Returns the names of all registered backbones, sorted."""
    return sorted(_BACKBONES)


def create_backbone(name: str, *, in_channels: int = 3) -> Backbone:
    """Builds a backbone with fresh weights.

    Args:
        name: One of ``list_backbones()``.
        in_channels: 3 for RGB, 2L for a stack of L flow fields.

    Raises:
        ValueError: If there is no such backbone, or ``in_channels`` is below 1.
    """
    if name not in _BACKBONES:
        raise ValueError(f"there is no backbone {name!r}; there are {', '.join(list_backbones())}")
    check_count("in_channels", in_channels)
    backbone = _BACKBONES[name](name, in_channels=in_channels)
    backbone.published_keys = frozenset(backbone.state_dict())
    return backbone
