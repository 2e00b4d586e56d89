"""How much a run directory may take: sizes in words, and the check before every write of the server.

The limit belongs to the process that runs the server and holds while ``limited`` does; other processes write little.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from fedinverse.config import Section
from fedinverse.errors import StageError

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_limits: dict[Path, int] = {}


class Storage(Section):
    """What a run may keep on disk."""

    disk_budget: str = Field("", description="largest size of the run directory, e.g. '2 GB'; empty: what the disk has")
    checkpoints: Literal["all", "needed"] = Field(
        "all", description="keep every global model, or the first, the last and those that inversions need"
    )

    @field_validator("disk_budget")
    @classmethod
    def _readable(cls, text: str) -> str:
        if text:
            size_of(text)
        return text

    @property
    def budget(self) -> int | None:
        """The budget in bytes; None: no limit."""
        return size_of(self.disk_budget) if self.disk_budget else None


def size_of(text: str) -> int:
    """Return the bytes that ``text`` (``500 MB``, ``2 GB``; powers of ten) stands for.

    Raises:
        ValueError: it is no size.
    """
    number, _, unit = text.strip().partition(" ")
    try:
        size = float(number) * _UNITS[unit.strip().upper()]
    except (ValueError, KeyError):
        raise ValueError(f"'{text}' is no size; write a number and B, KB, MB, GB or TB, such as '2 GB'") from None
    if not 1 <= size < 2**63:
        raise ValueError(f"'{text}' is no size a disk has; write for example '2 GB'")
    return int(size)


def in_words(size: float) -> str:
    """Return a size with its unit: ``1.5 GB``."""
    unit = max((name for name, worth in _UNITS.items() if worth <= max(size, 1)), key=_UNITS.__getitem__)
    return f"{size / _UNITS[unit]:.3g} {unit}"


def used(directory: Path) -> int:
    """Return the bytes of all files under ``directory``; a file that vanishes meanwhile counts nothing."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total


def free(directory: Path) -> int:
    """Return the bytes free on the disk that holds, or will hold, ``directory``."""
    return shutil.disk_usage(next(place for place in (directory, *directory.parents) if place.exists())).free


@contextmanager
def limited(directory: Path, budget: int | None) -> Iterator[None]:
    """While it lasts, ``check_room`` for ``directory`` holds it to ``budget`` bytes; None: no limit."""
    if budget is not None:
        _limits[directory.resolve()] = budget
    try:
        yield
    finally:
        _limits.pop(directory.resolve(), None)


def check_room(directory: Path, wanted: int) -> None:
    """Raise ``StageError`` if ``wanted`` more bytes would take ``directory`` over its budget."""
    budget = _limits.get(directory.resolve())
    if budget is None:
        return
    held = used(directory)
    if held + wanted > budget:
        raise StageError(
            f"{directory} holds {in_words(held)}; the next checkpoint ({in_words(wanted)}) would exceed "
            f"storage.disk_budget = {in_words(budget)}; raise it and continue with --resume"
        )
