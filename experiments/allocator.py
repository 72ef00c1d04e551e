"""Freed memory is kept for the next tensors instead of going back to the system.

By default the C library hands memory back as soon as much of it is free, and the system zeroes each page that is asked
for again. Networks free and ask for the same memory at each step, so that this is work for nothing. Blocks of more than
32 MB go back nevertheless: kept, they would leave holes that the next of their size does not fit in.
"""

import ctypes
import os
from typing import Final

CHOSEN_BY_USER: Final = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_")
"""Variables of the environment by which glibc's allocator is set; where one is there, it stays as it is set."""

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
KEPT: Final = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * 2**20}
USUAL: Final = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20, TOP_PAD: 128 * 2**10}
"""What glibc comes to by itself in a process that has freed large blocks."""


def keep_freed_memory() -> bool:
    """Up to 2 GB of freed memory stay with this process from now on; whether that could be set.

    It cannot where the C library is not glibc, and is not where the environment sets the allocator.
    """
    return _set(KEPT)


def give_freed_memory_back() -> bool:
    """The allocator as glibc has it by default; whether that could be set. For comparisons with other programs."""
    return _set(USUAL)


def _set(options: dict[int, int]) -> bool:
    if any(name in os.environ for name in CHOSEN_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, value) == 1 for option, value in options.items())
