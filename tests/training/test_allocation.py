import platform
import resource

import pytest
import torch

from study.training.allocation import keep_freed_memory

PAGES = 4 * 16 * 2**20 // resource.getpagesize()


def _step() -> None:
    """Takes 64 MiB, writes to it and frees it."""
    tensors = [torch.ones(4 * 2**20) for _ in range(4)]
    del tensors


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_memory_that_a_step_frees_serves_the_next() -> None:
    keep_freed_memory()
    _step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        _step()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < PAGES
