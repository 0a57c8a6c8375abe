"""Make the C library retain freed memory.

A training step repeatedly frees and allocates blocks of 20 MB. By default glibc returns them to the system, which must
then clear every page again: 7,000 to 9,000 page faults a step, up to 80 ms. Retained pages are simply used again.
"""

import ctypes
import platform
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in glibc's malloc.h
LIMIT = 1 << 30  # bytes
OLD_LIMIT = 1 << 25  # the documented upper limit of M_MMAP_THRESHOLD, which older versions enforce; blocks are smaller


def retain_freed_memory() -> bool:
    """Make glibc retain up to 1 GB of freed memory; return False without glibc (other C libraries do not need it)."""
    # Elsewhere, `libc_ver` would search Python's program file, which cannot be opened in the Windows Store's Python.
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    done = any(libc.mallopt(M_MMAP_THRESHOLD, size) for size in (LIMIT, OLD_LIMIT))
    return bool(libc.mallopt(M_TRIM_THRESHOLD, LIMIT)) and done
