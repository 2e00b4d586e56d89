"""The interface of a tracker: figures by step, and a few words at the end."""

from abc import ABC, abstractmethod
from collections.abc import Mapping


class Tracker(ABC):
    """Receives one run's figures. Figures come in any order of steps; a name's steps are the rounds."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take figures of round ``step``; names are paths such as ``with_victim/accuracy``."""

    @abstractmethod
    def close(self, words: Mapping[str, str]) -> None:
        """Take the outcome in words (empty when the run ended early) and write what is not written."""
