"""The interface of a tracker: figures by step, and a few words at the end."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Tracker(ABC):
    """Receives one run's figures. Figures come in any order of steps; a name's steps are the rounds."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take figures of round ``step``; names are paths such as ``with_victim/accuracy``."""

    @abstractmethod
    def close(self, words: Mapping[str, str]) -> None:
        """Take the outcome in words (empty when the run ended early) and write what is not written."""


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration's tables as one, keyed by dotted path."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values
