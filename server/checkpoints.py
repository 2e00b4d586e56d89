"""Round checkpoints: the global model after every round, with its metadata, and where to resume.

What a server optimiser remembers (momenta) lies beside the last model as ``strategy-0007.safetensors``. The round's
line in ``rounds.jsonl`` is written last and names the hashes of both: a round counts when its line is there.
"""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedinverse.disk import check_room
from fedinverse.errors import IntegrityError
from fedinverse.layout import World
from fedinverse.run import Run
from fedinverse.storage import append_jsonl, load_weights, save_weights
from fedinverse.thinning import thin

Weights = dict[str, NDArray[Any]]


def save_round(
    run: Run, world: World, server_round: int, weights: Weights, utility: dict[str, Any], state: Weights
) -> None:
    """Store the model after ``server_round`` (0: before training), the strategy's ``state``, then the round's line.

    Only then, models that ``storage.checkpoints`` does not keep are deleted.
    """
    metadata = {
        "model-round": server_round,
        "model": run.model.name,
        "width": run.model.width,
        "classes": len(run.class_names),
        "accuracy": utility["accuracy"],
    }
    check_room(run.path, sum(array.nbytes for array in (*weights.values(), *state.values())))
    line = {"round": server_round, **utility}
    if state:
        line["strategy-sha256"] = save_weights(run.files.server.strategy_state(world, server_round), state)
    line["sha256"] = save_weights(run.files.server.checkpoint(world, server_round), weights, metadata)
    append_jsonl(run.files.server.rounds(world), line)
    run.files.server.strategy_state(world, server_round - 1).unlink(missing_ok=True)
    thin(run, world)


def latest_round(run: Run, world: World) -> tuple[int, Weights, Weights] | None:
    """Return the last round whose line is whole, its weights and the strategy's state; None: start anew.

    Raises:
        IntegrityError: a file of a recorded round is missing, damaged or another; the message names it.
    """
    lines = run.recorded_rounds(world)
    if not lines:
        return None
    last = lines[-1]
    number = int(last["round"])
    weights = _recorded(run, world, run.files.server.checkpoint(world, number), last["sha256"])
    state = {}
    if "strategy-sha256" in last:
        state = _recorded(run, world, run.files.server.strategy_state(world, number), last["strategy-sha256"])
    return number, weights, state


def _recorded(run: Run, world: World, path: Path, sha256: str) -> Weights:
    server = run.files.server
    if not path.exists():
        raise IntegrityError(f"{path} is missing although its round is recorded; delete {server.federation(world)}")
    weights, metadata = load_weights(path)
    if metadata["sha256"] != sha256:
        raise IntegrityError(
            f"{path} is not the file recorded in {server.rounds(world)}; delete {server.federation(world)}"
        )
    return weights
