"""Sizes in words."""

__all__ = ["told_bytes"]


def told_bytes(count: int) -> str:
    """Returns a number of bytes in the largest unit of which it has one, such as ``1.5 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
