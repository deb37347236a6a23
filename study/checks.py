"""Checks of settings, called from their ``__post_init__``.

They stand apart from `models.checks`, whose package brings torch: a process that prepares videos
would take three seconds and half a gigabyte more for it.
"""

from collections.abc import Collection
from typing import Any

__all__ = ["check_number", "check_one_of"]


def check_number(
    name: str,
    value: Any,
    *,
    whole: bool = False,
    least: float = float("-inf"),
    most: float = float("inf"),
    above: float = float("-inf"),
    below: float = float("inf"),
) -> None:
    """Refuses what isn't a number within bounds; infinity and NaN never are, nor is a boolean.

    Args:
        name: What the value is called.
        value: The value.
        whole: Whether it must be an integer.
        least: What it may be at least.
        most: What it may be at most.
        above: What it must be greater than.
        below: What it must be less than.

    Raises:
        ValueError: If it isn't; the message shows the name, the bounds and the value.
    """
    kind = int if whole else int | float
    good = isinstance(value, kind) and not isinstance(value, bool)
    if good and least <= value <= most and above < value < below:
        return
    bounds = {"of at least": least, "at most": most, "above": above, "below": below}
    allowed = [f"{word} {bound:g}" for word, bound in bounds.items() if abs(bound) < float("inf")]
    raise ValueError(
        f"{name} must be a {'whole ' if whole else ''}number"
        f"{' ' if allowed else ''}{' and '.join(allowed)}, got {value!r}"
    )


def check_one_of(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Refuses what is not among the allowed values.

    Raises:
        ValueError: If it isn't; the message shows the name, what is allowed and the value.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")
