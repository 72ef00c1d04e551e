"""Asks for blocks and frees them, over and over, and counts the pages that the system brings for them.

As a script: python memory_churn.py [keep] [give], which sets the allocator so before.
"""

import ctypes
import resource
import sys

from experiments.allocator import give_freed_memory_back, keep_freed_memory

BYTES, COUNT, TIMES = 2**24, 8, 6  # together more than glibc keeps by itself
PAGES = TIMES * COUNT * BYTES // resource.getpagesize()
CALLS = {"keep": keep_freed_memory, "give": give_freed_memory_back}


def count_pages() -> int:
    """Of the blocks once they were asked for and freed before: at most `PAGES`."""
    for _ in range(2):
        _churn()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(TIMES):
        _churn()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _churn() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    blocks = [ctypes.c_void_p(libc.malloc(BYTES)) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, BYTES)
    for block in reversed(blocks):
        libc.free(block)


if __name__ == "__main__":
    done = [CALLS[name]() for name in sys.argv[1:]]
    print(count_pages(), all(done))
