"""Checks for the options of a model, called from the options' ``__post_init__``.

Each raises a ``ValueError`` that shows the option, what is allowed and the value. The registry
puts the model's name in front.
"""

import dataclasses
import math
import types
from collections.abc import Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["check_at_least", "check_one_of", "check_range", "check_subset", "check_types"]


def check_types(options: Any) -> None:
    """Check each field of the dataclass instance ``options`` against its annotation.

    Integers pass as floats, booleans never as numbers; a ``Literal`` lists what is allowed.
    """
    hints = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value, hint = getattr(options, field.name), hints[field.name]
        if _conforms(value, hint):
            continue
        if get_origin(hint) is Literal:
            raise ValueError(_one_of(field.name, get_args(hint), value))
        kind = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
        raise ValueError(f"`{field.name}` must be {kind}, but got {value!r}.")


def check_one_of(options: Any, name: str, allowed: Collection[Any]) -> None:
    """The option ``name`` must be one of ``allowed``."""
    if getattr(options, name) not in allowed:
        raise ValueError(_one_of(name, allowed, getattr(options, name)))


def check_subset(options: Any, name: str, allowed: Collection[Any]) -> None:
    """The tuple ``name`` must hold one or more of ``allowed``, none of them twice."""
    values = getattr(options, name)
    if not values or len(set(values)) < len(values) or not set(values) <= set(allowed):
        choices = ", ".join(map(repr, allowed))
        raise ValueError(
            f"`{name}` must be one or more of {choices}, none twice, but got {values!r}."
        )


def check_at_least(options: Any, name: str, low: float) -> None:
    """The number ``name``, or every number of the tuple ``name``, must be ``low`` or more."""
    value = getattr(options, name)
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(number >= low and math.isfinite(number) for number in numbers):
        each = "each of " if isinstance(value, tuple) else ""
        raise ValueError(f"{each}`{name}` must be at least {low}, but got {value!r}.")


def check_range(options: Any, name: str, low: float, high: float) -> None:
    """``low <= name < high`` must hold, as for a dropout probability."""
    value = getattr(options, name)
    if not low <= value < high:
        raise ValueError(f"`{low} <= {name} < {high}` must hold, but got {value!r}.")


def _one_of(name: str, allowed: Collection[Any], value: Any) -> str:
    return f"`{name}` must be one of {', '.join(map(repr, allowed))}, but got {value!r}."


def _conforms(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == allowed and type(value) is type(allowed) for allowed in arguments)
    if origin in (Union, types.UnionType):
        return any(_conforms(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_conforms(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_conforms, value, arguments))
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _conforms(key, arguments[0]) and _conforms(item, arguments[1])
            for key, item in value.items()
        )
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, hint)
