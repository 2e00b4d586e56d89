"""One process at a time works in a run directory; the others are told who does, and since when.

The lock file lies beside the directory (``.NAME.lock``), so that it can be taken before there is one. The system
releases it however its holder ends, and it is removed with the last of a holder's work.
"""

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedinverse.errors import IntegrityError, StageError
from fedinverse.folders import check_writable


@contextmanager
def only_here(directory: Path) -> Iterator[None]:
    """Hold ``directory`` while the body runs.

    Raises:
        StageError: another process holds it; the message has its id, its command and how long it has.
        IntegrityError: a directory in it is a link to elsewhere; see ``check_own``.
        ConfigError: this user may not write there.
    """
    directory = directory.resolve()
    check_own(directory)
    for place in (directory.parent, directory):
        check_writable(place, "run directory")
    parents = _made_parents(directory.parent)
    path = directory.parent / f".{directory.name}.lock"
    handle = _taken(path, directory)
    try:
        os.truncate(handle, 0)
        about = {"pid": os.getpid(), "since": time.time(), "command": " ".join(sys.argv)[:300]}
        os.pwrite(handle, json.dumps(about).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        for parent in parents:  # nothing was written: not even where it would have been
            with suppress(OSError):
                parent.rmdir()


def check_own(directory: Path) -> None:
    """Refuse a run directory that leads out of itself: what would be written or deleted there is somebody else's.

    Raises:
        IntegrityError: names the link and where it leads.
    """
    root = directory.resolve()
    for where, folders, _ in os.walk(root):
        for folder in (Path(where, name) for name in folders):
            if folder.is_symlink() and not folder.resolve().is_relative_to(root):
                raise IntegrityError(
                    f"{folder} is a link to {folder.readlink()}, outside this run: nothing is written or deleted "
                    "there; put a directory in its place"
                )


def _taken(path: Path, directory: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(handle)
            os.close(handle)
            raise StageError(f"{directory} is being worked on by {holder}; wait for it, or end it") from None
        except OSError as error:  # a file system without locks
            os.close(handle)
            raise StageError(f"{path} cannot be locked ({error.strerror}); choose another --out") from error
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        os.close(handle)  # its last holder removed the file between the two calls


def _holder(handle: int) -> str:
    try:
        about = json.loads(os.pread(handle, 2000, 0))
        minutes = max(0.0, time.time() - float(about["since"])) / 60
        return f"process {int(about['pid'])} ({ascii(about['command'])[1:-1]}) since {minutes:.0f} minutes"
    except (ValueError, KeyError, TypeError):  # it has only just taken it
        return "another process"


def _made_parents(directory: Path) -> list[Path]:
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return missing
