"""Durations in words."""

__all__ = ["told_duration", "told_left", "told_span"]

UNITS = (("days", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def told_duration(seconds: float) -> str:
    """Returns a duration in the largest unit of which it has two, such as ``90 min`` or ``3 h``."""
    unit, size = _unit(seconds)
    return f"{seconds / size:.0f} {unit}"


def told_span(low: float, high: float) -> str:
    """Returns a range of durations in seconds, such as ``about 3 h`` or ``90–150 min``."""
    unit, size = _unit(high)
    first, last = f"{low / size:.0f}", f"{high / size:.0f}"
    return f"about {last} {unit}" if first == last else f"{first}–{last} {unit}"


def told_left(seconds: float | None) -> str:
    """Returns what is left of a run, a minute at the least; None where nothing is known yet."""
    if seconds is None:
        return "estimating the time left"
    return f"about {told_duration(max(60.0, seconds))} left"


def _unit(seconds: float) -> tuple[str, int]:
    return next((one for one in UNITS if seconds >= 2 * one[1]), UNITS[-1])
