"""Objects for another process of this machine: their arrays lie in files of shared memory, which nobody copies again.

Ray's object store does the same with two conversations between processes for each object. On a machine whose cores are
all busy training each of them waits for a turn, longer than the copying takes. A file holds numbers alone; what is
pickled goes through Ray, as everything between the processes of a run does.

A ``Shelf`` is the writer's side, a ``Reader`` the other's. A file is written again once nothing that was read from it
is left: memory that is new takes the system several times as long as the arrays take to copy. The reader says which
files these are with whatever it sends next.
"""

import mmap
import os
import pickle
import secrets
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, count
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
        number: counts the parcels of a shelf: no two are equal, not even those that lie in one file in turn.
    """

    pickled: bytes
    sizes: tuple[int, ...] = ()
    path: str = ""
    number: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether somebody has removed the file: a system may empty shared memory when a user logs out."""
        return bool(self.path) and not Path(self.path).exists()


class Shelf:
    """The files that one process puts its parcels in.

    Args:
        prefix: what their names begin with; empty: there are none, and arrays go with the rest of a parcel.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers = count(1)
        self._free: dict[str, mmap.mmap] = {}
        self._in_use: dict[str, mmap.mmap] = {}

    def pack(self, value: Any) -> Parcel:
        """Return ``value`` for a process of this machine, with its arrays in a file that nobody else reads or writes.

        Where there is no room in shared memory, or next to nothing to share, they go with the rest.
        """
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        sizes = tuple(view.nbytes for view in views)
        if self._prefix and sum(sizes) >= _LARGE:
            starts, end = _places(sizes)
            with suppress(OSError):
                path, memory = self._take(end)
                for start, view in zip(starts, views, strict=True):
                    memory[start : start + view.nbytes] = view
                return Parcel(pickled, sizes, path, next(self._numbers))
        return Parcel(pickle.dumps(value, protocol=5), number=next(self._numbers))

    def take_back(self, paths: Iterable[str]) -> None:
        """Write to the files ``paths`` again: nobody reads them any more. What is not of this shelf is left alone."""
        for path in paths:
            if path in self._in_use:
                self._free[path] = self._in_use.pop(path)

    def _take(self, size: int) -> tuple[str, mmap.mmap]:
        """Return a file of ``size`` bytes; free ones of another size were another model's, and are removed."""
        while self._free:
            path, memory = self._free.popitem()
            if len(memory) == size and Path(path).exists():
                break
            Path(path).unlink(missing_ok=True)
        else:
            path = f"{self._prefix}-{secrets.token_hex(8)}"
            memory = _new_file(path, size)
        self._in_use[path] = memory
        return path, memory


class Reader:
    """Opens the parcels of one shelf, in any thread."""

    def __init__(self) -> None:
        self._memory: dict[str, mmap.mmap] = {}
        self._in_use: Counter[str] = Counter()
        self._done: deque[str] = deque()

    def open(self, parcel: Parcel) -> Any:
        """Return the object; its arrays cannot be written, and hold the memory until the last one is gone.

        Raises:
            FileNotFoundError: somebody has removed the file.
        """
        import numpy as np  # not with this file, which Ray's start needs before all else is imported

        if not parcel.path:
            return pickle.loads(parcel.pickled)
        memory = self._memory.get(parcel.path)
        if memory is None:
            for path in [path for path in list(self._memory) if not Path(path).exists()]:
                self._memory.pop(path, None)
            try:
                memory = self._memory[parcel.path] = _mapped(parcel.path)
            except FileNotFoundError:
                self._done.append(parcel.path)
                raise
        whole = np.frombuffer(memory, np.uint8)
        self._in_use[parcel.path] += 1
        weakref.finalize(whole, self._let_go, parcel.path).atexit = False
        starts, _ = _places(parcel.sizes)
        buffers = [whole[start : start + size] for start, size in zip(starts, parcel.sizes, strict=True)]
        return pickle.loads(parcel.pickled, buffers=buffers)

    def done(self) -> list[str]:
        """Return the files of which nothing is in use any more, each once."""
        paths = []
        with suppress(IndexError):
            while True:
                paths.append(self._done.popleft())
        return paths

    def _let_go(self, path: str) -> None:
        self._in_use[path] -= 1
        if not self._in_use[path]:
            self._done.append(path)

    def remove(self) -> None:
        """Remove all files that were read: their writer is no more. What is in use stays whole."""
        for path in list(self._memory):
            Path(path).unlink(missing_ok=True)
        self._memory.clear()


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


def _places(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Return where the arrays of ``sizes`` begin in a file, and where it ends."""
    *starts, end = accumulate((-(-size // _ALIGNED) * _ALIGNED for size in sizes), initial=0)
    return starts, end


def _new_file(path: str, size: int) -> mmap.mmap:
    """Return the memory of a new file of ``size`` bytes; where there is no room for it, none is left.

    Room is asked for at once: a process that writes where there is none is killed.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(handle, 0, size)
        return mmap.mmap(handle, size)
    except OSError:
        Path(path).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _mapped(path: str) -> mmap.mmap:
    """Return the memory of a file, which cannot be written."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return mmap.mmap(handle, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ)
    finally:
        os.close(handle)
