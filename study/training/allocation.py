"""How a training on a CPU gets its memory."""

import ctypes

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc allows no more
_KEPT_AT_MOST = 1 << 30


def keep_freed_memory() -> None:
    """Has this process keep up to a gigabyte that it frees, where its allocator is glibc's.

    Otherwise glibc returns the tensors of each step to the system, which clears every page again
    for the next step: with small networks up to a tenth of a step's time. Other allocators are left
    as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_MOST)
