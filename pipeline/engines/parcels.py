"""Objects for another process of this machine: their arrays lie in a file of shared memory, which nobody copies.

Ray's object store does the same with two conversations between processes for each object. On a machine whose cores are
all busy training each of them waits for a turn, longer than the copying takes. A file holds numbers alone; what is
pickled goes through Ray, as everything between the processes of a run does.
"""

import mmap
import os
import pickle
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

SHARED_MEMORY = Path("/dev/shm")
_NAME = "fedinverse"
_ALIGNED = 64  # bytes: where an array begins
_STALE = 3600  # seconds
_LARGE = 1 << 16  # bytes of arrays from which on a file is worth its while


@dataclass(frozen=True)
class Parcel:
    """An object on its way.

    Attributes:
        pickled: the object, without the arrays in ``path``.
        sizes: bytes of each array, one after the other in ``path``.
        path: their file; empty: there are none, or they are in ``pickled``.
    """

    pickled: bytes
    sizes: tuple[int, ...] = ()
    path: str = ""

    @property
    def is_gone(self) -> bool:
        """Whether somebody has removed the file: a system may empty shared memory when a user logs out."""
        return bool(self.path) and not Path(self.path).exists()

    def open(self) -> Any:
        """Return the object; its arrays cannot be written, and hold the memory until the last one is gone.

        Raises:
            FileNotFoundError: somebody has removed the file.
        """
        if not self.path:
            return pickle.loads(self.pickled)
        handle = os.open(self.path, os.O_RDONLY)
        try:
            memory = memoryview(mmap.mmap(handle, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ))
        finally:
            os.close(handle)
        buffers = [memory[start : start + size] for start, size in zip(_starts(self.sizes), self.sizes, strict=True)]
        return pickle.loads(self.pickled, buffers=buffers)

    def drop(self) -> None:
        """Remove the file; whoever has opened it keeps what is in it."""
        if self.path:
            Path(self.path).unlink(missing_ok=True)


def new_prefix() -> str:
    """Return what the names of this process's files begin with; empty: shared memory cannot be written here.

    Files that a killed run has left behind are removed: an hour old, of a process that is no more.
    """
    if not os.access(SHARED_MEMORY, os.W_OK):
        return ""
    for path in SHARED_MEMORY.glob(f"{_NAME}-*"):
        number = path.name.removeprefix(f"{_NAME}-").split("-")[0]
        if number.isdecimal() and not Path("/proc", number).exists():
            with suppress(OSError):  # another user's, or gone meanwhile
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()
    return str(SHARED_MEMORY / f"{_NAME}-{os.getpid()}-{secrets.token_hex(4)}")


def sweep(prefix: str) -> None:
    """Remove all files whose names begin with ``prefix``."""
    if prefix:
        for path in SHARED_MEMORY.glob(f"{Path(prefix).name}-*"):
            path.unlink(missing_ok=True)


def pack(value: Any, prefix: str) -> Parcel:
    """Return ``value`` for a process of this machine, with its arrays in a file whose name begins with ``prefix``.

    Where there is no room in shared memory, or no ``prefix``, or next to nothing to share, they go with the rest.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    if prefix and sum(view.nbytes for view in views) >= _LARGE:
        path = f"{prefix}-{secrets.token_hex(8)}"
        with suppress(OSError):
            _write(path, views)
            return Parcel(pickled, tuple(view.nbytes for view in views), path)
    return Parcel(pickle.dumps(value, protocol=5))


def _starts(sizes: Sequence[int]) -> list[int]:
    """Return where the arrays of ``sizes`` begin in a file."""
    padded = (-(-size // _ALIGNED) * _ALIGNED for size in sizes)
    return list(accumulate(padded, initial=0))[: len(sizes)]


def _write(path: str, views: Sequence[memoryview]) -> None:
    """Write ``views`` to a new file that nobody else may read; where they do not fit, none is left."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for start, view in zip(_starts([view.nbytes for view in views]), views, strict=True):
            done = 0
            while done < view.nbytes:
                done += os.pwrite(handle, view[done:], start + done)
    except OSError:
        Path(path).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
