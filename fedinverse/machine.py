"""What a process asks of its machine: memory it may keep, a device, and whether its parent still lives."""

import ctypes
import os
import platform
import threading
import time
from functools import cache

import torch
from torch import Tensor

from fedinverse.errors import ConfigError

_EVERY = 0.5  # seconds between two looks


def end_with_parent(parent: int) -> None:
    """End this process soon after process ``parent``, which started it: a run that is killed leaves nothing behind.

    It looks from a thread of its own, since a step of the work may take minutes; every write of ours is atomic.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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


def device_on(name: str, key: str) -> torch.device:
    """Return the device called ``name``; ``ConfigError`` with its ``key`` if this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device).add(1)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise ConfigError(f"{key} '{name}' is not to be had here ({reason}); use cpu, cuda or cuda:1") from error
    return device


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return ``values`` of the CPU on ``device``, without waiting for what CUDA still computes.

    Out of ordinary memory CUDA copies only once it has nothing else to do; out of pinned memory it copies in its turn.
    """
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
