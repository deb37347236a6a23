"""Checks of settings: a dataclass's fields against their annotations, a value against its range.

Each raises a ``ValueError`` of the form "NAME must be …, got VALUE".
"""

import contextlib
import dataclasses
import math
import types
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = [
    "check_count",
    "check_fields",
    "check_names",
    "check_number",
    "check_one_of",
    "check_subset",
]

KINDS = {
    bool: ("true or false", "truth values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    types.NoneType: ("none", "none"),
}


def check_fields(settings: Any) -> None:
    """Checks each field of a frozen dataclass's instance and brings it to one form.

    Whole numbers become floats where the annotation is ``float``, and lists tuples where it is a
    tuple, so that settings from JSON equal those from Python. Booleans never pass as numbers; a
    ``Literal`` lists what is allowed.

    Raises:
        ValueError: If a value isn't of its field's type.
    """
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        try:
            converted = _convert(value, hint)
        except TypeError:
            raise ValueError(f"{field.name} must be {_described(hint)}, got {value!r}") from None
        object.__setattr__(settings, field.name, converted)


def check_names(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """Checks that all names are known.

    Args:
        kind: What they are names of, in the plural: ``"options"``.
        names: The names that were given.
        known: Those that there are.

    Raises:
        ValueError: If a name is unknown.
    """
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown {kind} {', '.join(unknown)}; there are {', '.join(known)}")


def check_one_of(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Checks that a value is one of those allowed.

    Raises:
        ValueError: If it isn't.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {_listed(allowed)}, got {value!r}")


def check_subset(name: str, values: tuple[Any, ...], allowed: Collection[Any]) -> None:
    """Checks that a tuple holds one or more of the allowed values, none of them twice.

    Raises:
        ValueError: If it doesn't.
    """
    if not values or len(set(values)) < len(values) or not set(values) <= set(allowed):
        raise ValueError(
            f"{name} must be one or more of {_listed(allowed)}, none twice, got {values!r}"
        )


def check_number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """Checks that a number, or each number of a tuple, is finite and within its range.

    Args:
        name: The name for the message.
        value: A number or a tuple of them.
        least: Smallest allowed value.
        above: Excluded lower limit.
        most: Largest allowed value.
        below: Excluded upper limit.
        whole: Whether it must be an ``int``; a boolean never is one.

    Raises:
        ValueError: If a value is no such number or out of range.
    """

    def good(number: Any) -> bool:
        return (
            isinstance(number, int if whole else int | float)
            and not isinstance(number, bool)
            and math.isfinite(number)
            and (least is None or number >= least)
            and (above is None or number > above)
            and (most is None or number <= most)
            and (below is None or number < below)
        )

    if all(map(good, value if isinstance(value, tuple) else (value,))):
        return
    limits = {"of at least": least, "above": above, "at most": most, "below": below}
    wanted = " and ".join(
        f"{word} {limit:g}" for word, limit in limits.items() if limit is not None
    )
    each = "each of " if isinstance(value, tuple) else ""
    kind = "whole number" if whole else "number"
    raise ValueError(f"{each}{name} must be {' '.join(('a', kind, wanted)).strip()}, got {value!r}")


def check_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> None:
    """Checks that a whole number, or each one of a tuple, is within its range.

    Raises:
        ValueError: If a value is no whole number, below ``least`` or above ``most``.
    """
    check_number(name, value, least=least, most=most, whole=True)


def _convert(value: Any, hint: Any) -> Any:
    """Returns the value in the annotation's form.

    Raises:
        TypeError: If it has none.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if any(value == allowed and type(value) is type(allowed) for allowed in arguments):
            return value
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            with contextlib.suppress(TypeError):
                return _convert(value, argument)
    elif origin is tuple:
        if isinstance(value, list | tuple):
            kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
            if len(kinds) == len(value):
                return tuple(map(_convert, value, kinds))
    elif origin is not None:
        if isinstance(value, Mapping):
            return {
                _convert(key, arguments[0]): _convert(item, arguments[1])
                for key, item in value.items()
            }
    elif isinstance(value, int | float if hint is float else hint) and (
        hint is bool or not isinstance(value, bool)
    ):
        return float(value) if hint is float else value
    raise TypeError


def _described(hint: Any, *, plural: bool = False) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {_listed(arguments)}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_described, arguments))
    if origin is tuple:
        number = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {number}{_described(arguments[0], plural=True)}"
    if origin is not None:
        keys, items = (_described(argument, plural=True) for argument in arguments)
        return f"a mapping of {keys} to {items}"
    return KINDS[hint][plural] if hint in KINDS else str(hint.__name__)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(repr, values))
