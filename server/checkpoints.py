"""Round checkpoints: the global model after every round, with its metadata, and where to resume."""

from typing import Any

from numpy.typing import NDArray

from fedinverse.errors import IntegrityError
from fedinverse.run import Run, World
from fedinverse.storage import append_jsonl, load_weights, read_jsonl, save_weights

Weights = dict[str, NDArray[Any]]


def save_round(run: Run, world: World, server_round: int, weights: Weights, utility: dict[str, Any]) -> None:
    """Store the model after ``server_round`` (0: before training), then its line in ``rounds.jsonl``."""
    metadata = {
        "model-round": server_round,
        "model": run.model.name,
        "width": run.model.width,
        "classes": len(run.class_names),
        "accuracy": utility["accuracy"],
    }
    sha = save_weights(run.checkpoint(world, server_round), weights, metadata)
    append_jsonl(run.rounds(world), {"round": server_round, "sha256": sha, **utility})


def latest_round(run: Run, world: World) -> tuple[int, Weights] | None:
    """Return the last round whose line and checkpoint are both whole, with its weights; None: start anew.

    Raises:
        IntegrityError: the checkpoint of a recorded round is damaged; the message names it.
    """
    lines = read_jsonl(run.rounds(world))
    if not lines:
        return None
    last = lines[-1]
    path = run.checkpoint(world, int(last["round"]))
    if not path.exists():
        raise IntegrityError(
            f"{path} is missing although round {last['round']} is recorded; delete {run.federation(world)}"
        )
    weights, metadata = load_weights(path)
    if metadata["sha256"] != last["sha256"]:
        raise IntegrityError(
            f"{path} is not the checkpoint recorded in {run.rounds(world)}; delete {run.federation(world)}"
        )
    return int(last["round"]), weights
