"""How much a run directory may take: sizes in words, and the check before every write of the server.

The budget is the server's: other processes write little.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from fedinverse.config import Section
from fedinverse.errors import StageError
from fedinverse.rounds import Round

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


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


@dataclass(frozen=True)
class Budget:
    """Holds a run directory to ``limit`` bytes: a callback before the one that stores a round.

    Raises:
        StageError: the round's checkpoint would take the directory over its budget.
    """

    limit: int

    def __call__(self, over: Round) -> None:
        """Check that ``over`` has room."""
        held = used(over.run.path)
        if held + over.nbytes > self.limit:
            raise StageError(
                f"{over.run.path} holds {in_words(held)}; the next checkpoint ({in_words(over.nbytes)}) would exceed "
                f"storage.disk_budget = {in_words(self.limit)}; raise it and continue with --resume"
            )
