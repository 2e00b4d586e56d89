"""What the C library does with freed memory: by default it returns large blocks to the system, and asks again.

A training step frees and allocates the same tensors as the one before. Given back, every page of them is mapped and
zeroed anew: a fifth of the time of an MCNN step of 60 images (docs/benchmarks.md).
"""

import ctypes
import platform
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees and use it again: faster steps, and its size stays at its peak.

    Returns:
        Whether the C library took it; only glibc has the switch. Numbers are the same either way.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
