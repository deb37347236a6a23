import platform
import resource
import subprocess
import sys

import pytest

PAGES = 12 * 16 * 2**20 // resource.getpagesize()  # three quarters of a step
STEPS = """
import resource
import torch
from study.training.allocation import keep_freed_memory

def step():  # takes 256 MiB, writes to it and frees it
    tensors = [torch.ones(4 * 2**20) for _ in range(16)]

keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_memory_that_a_step_frees_serves_the_next() -> None:
    """In a process of its own: in time, glibc learns of itself what comes again."""
    taken = subprocess.check_output([sys.executable, "-c", STEPS], text=True)
    assert int(taken) < PAGES
