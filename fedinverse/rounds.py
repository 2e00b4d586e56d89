"""What a server has when a round is over, and which of its models are kept; it leaves the server through callbacks.

With ``storage.checkpoints = "needed"`` those are kept that are needed: in each world the initial model, the last
recorded one (a run resumes from it), and what the rule says. Hashes of all rounds stay in ``rounds.jsonl`` and in the
ledger.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedinverse.errors import ConfigError, StageError
from fedinverse.layout import ROUND_FILES, World
from fedinverse.run import Run


@dataclass(frozen=True)
class Round:
    """One round of one federation.

    Attributes:
        number: 0 before training.
        sha256: of ``weights``.
        utility: what ``server.utility`` says of it.
        state: what the strategy remembers for the next round.
    """

    run: Run
    world: World
    number: int
    weights: Mapping[str, NDArray[Any]]
    sha256: str
    utility: Mapping[str, Any]
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays: what its checkpoint takes."""
        return sum(array.nbytes for array in (*self.weights.values(), *self.state.values()))


AfterRound = Callable[[Round], None]


Needed = Callable[[World, int], bool]


@dataclass(frozen=True)
class Thinning:
    """Deletes models that are not ``needed`` (world, round): a callback after the one that stores a round."""

    needed: Needed

    def __call__(self, over: Round) -> None:
        """Delete what the round that is over has made needless."""
        self.thin(over.run, over.world)

    def thin(self, run: Run, world: World) -> None:
        """Delete the models that nothing needs, of rounds before the last recorded one."""
        recorded = run.recorded_rounds(world)
        for path in sorted(run.files.server.checkpoint(world, 0).parent.glob(ROUND_FILES)):
            number = int(path.stem.removeprefix("round-"))
            if recorded and 0 < number < recorded[-1].round and not self.needed(world, number):
                path.unlink(missing_ok=True)


def kept_checkpoint(run: Run, world: World, server_round: int) -> Path:
    """Return the file of the global model after ``server_round``.

    Raises:
        StageError: the round was run, but its model was not kept.
        ConfigError: there is no such round; says which there are.
    """
    path = run.files.server.checkpoint(world, server_round)
    if path.exists():
        return path
    kept = ", ".join(sorted(other.stem for other in path.parent.glob(ROUND_FILES))) or "none"
    if any(line.round == server_round for line in run.recorded_rounds(world)):
        raise StageError(
            f"{path} was not kept: storage.checkpoints = \"needed\", or 'fedinverse runs prune', left only {kept}; "
            'choose one of them, or run the federation again under another name with storage.checkpoints = "all"'
        )
    raise ConfigError(f"{run.path} has no global model of round {server_round}; it has {kept}")
