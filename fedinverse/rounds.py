"""What a server has when a round is over; it leaves the server through callbacks, one after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from fedinverse.layout import World
from fedinverse.run import Run


@dataclass(frozen=True)
class Round:
    """One round of one federation.

    Attributes:
        number: 0 before training.
        utility: what ``server.utility`` says of it.
        state: what the strategy remembers for the next round.
    """

    run: Run
    world: World
    number: int
    weights: Mapping[str, NDArray[Any]]
    utility: Mapping[str, Any]
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays: what its checkpoint takes."""
        return sum(array.nbytes for array in (*self.weights.values(), *self.state.values()))


AfterRound = Callable[[Round], None]
