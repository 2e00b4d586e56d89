"""Round checkpoints: the global model after every round, with its metadata, and where to resume.

What a server optimiser remembers (momenta) lies beside the last model as ``strategy-0007.safetensors``. The round's
line in ``rounds.jsonl`` is written last and names the hashes of both: a round counts when its line is there.
"""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedinverse.errors import IntegrityError
from fedinverse.layout import World
from fedinverse.records import ModelFile, RoundLine, append_lines
from fedinverse.rounds import Round
from fedinverse.run import Run
from fedinverse.storage import load_weights, save_weights

Weights = dict[str, NDArray[Any]]


def save_round(over: Round) -> None:
    """Store a round's model, what the strategy remembers, then the round's line: a callback."""
    run, files, world, number = over.run, over.run.files.server, over.world, over.number
    about = run.about_model | {"accuracy": over.utility["accuracy"]}
    state = save_weights(files.strategy_state(world, number), over.state) if over.state else ""
    save_weights(files.checkpoint(world, number), over.weights, ModelFile.metadata(number, about), over.sha256)
    append_lines(files.rounds(world), [RoundLine.of(number, over.utility, over.sha256, state)])
    files.strategy_state(world, number - 1).unlink(missing_ok=True)


def latest_round(run: Run, world: World) -> tuple[int, Weights, Weights] | None:
    """Return the last round whose line is whole, its weights and the strategy's state; None: start anew.

    Raises:
        IntegrityError: a file of a recorded round is missing, damaged or another; the message names it.
    """
    lines = run.recorded_rounds(world)
    if not lines:
        return None
    last = lines[-1]
    weights = _recorded(run, world, run.files.server.checkpoint(world, last.round), last.sha256)
    state = {}
    if last.strategy_sha256:
        state = _recorded(run, world, run.files.server.strategy_state(world, last.round), last.strategy_sha256)
    return last.round, weights, state


def _recorded(run: Run, world: World, path: Path, sha256: str) -> Weights:
    server = run.files.server
    if not path.exists():
        raise IntegrityError(f"{path} is missing although its round is recorded; delete {server.federation(world)}")
    weights, metadata = load_weights(path)
    if ModelFile.of(metadata).sha256 != sha256:
        raise IntegrityError(
            f"{path} is not the file recorded in {server.rounds(world)}; delete {server.federation(world)}"
        )
    return weights
