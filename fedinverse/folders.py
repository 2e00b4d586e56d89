"""Other people's folders and names: what lies below a folder, a fingerprint of it, how names are read and compared."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedinverse.errors import ConfigError


def absolute(path: str) -> str:
    """Return ``path`` from the root of the file system, ``~`` replaced; an empty one stays empty."""
    return str(Path(os.path.expanduser(path)).absolute()) if path else ""  # noqa: PTH111 - ~nobody stays as it is


def files_under(folder: Path) -> Iterator[Path]:
    """Yield every regular file below ``folder``, as ``entries_under`` lists them."""
    return filter(is_regular, entries_under(folder))


def is_regular(path: Path) -> bool:
    """Return whether ``path`` is a file that may be opened: no folder, pipe, device or broken link."""
    try:
        return path.is_file()
    except OSError:  # in a folder that may be listed and not entered
        return False


def check_writable(path: Path, called: str) -> None:
    """Refuse a directory that this user cannot make or write to; ``ConfigError`` says what it is ``called``."""
    place = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not place.is_dir():
        raise ConfigError(f"{called} {path}: {place} is no directory; choose another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"{called} {path}: this user may not write in {place}; choose another place")


def entries_under(folder: Path) -> Iterator[Path]:
    """Yield all files below ``folder``, in linked folders too, and what is no file: pipes, folders that do not open.

    A folder that is met again is left out, and so is a link that leads back to a folder above: what lies there is not
    below ``folder``, and another class's pictures may be among it.
    """
    seen = {(above.st_dev, above.st_ino) for above in (parent.stat() for parent in folder.absolute().parents)}
    shut: list[OSError] = []
    for where, folders, files in os.walk(folder, onerror=shut.append, followlinks=True):
        here = Path(where).stat()
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders.sort()
        yield from (Path(where, name) for name in files)
    yield from (Path(error.filename) for error in shut if isinstance(error, PermissionError))


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of what a listing of ``folder`` says: names, sizes and times of change of all its files.

    Of a file: of the folder that it lies in.
    """
    folder = folder.parent if folder.is_file() else folder
    digest = hashlib.sha256()
    for path in sorted(files_under(folder)):
        about = path.stat()
        name = os.fsencode(path.relative_to(folder))
        digest.update(b"%s\0%d\0%d\0" % (name, about.st_size, about.st_mtime_ns))
    return digest.hexdigest()


def readable(name: str) -> str:
    """Return the name of a file or folder as text; bytes that are no UTF-8 are written out, ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def spelling(name: str) -> str:
    """Return the name of a class as it is compared: one person or thing has one spelling in every source.

    Lower case, single spaces for everything that is neither letter nor digit; a name of signs alone stays as it is.
    """
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold() or name


def spelled_alike(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of ``names`` that differ in case, spaces or signs alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(spelling(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
