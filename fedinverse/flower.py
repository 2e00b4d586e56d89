"""What server and clients agree on in Flower's messages, and how an app finds its run directory.

Keys are kebab-case as Flower users expect. Attacker settings never travel in a message.
"""

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from numpy.typing import NDArray

from fedinverse.data.source import cache_directory
from fedinverse.layout import World

ARRAYS, CONFIG, METRICS, CLIENT = "arrays", "config", "metrics", "client"
WHO_QUERY = "query.who"
PROXIMAL_MU = "proximal-mu"  # in a train message's config: weight of FedProx' proximal term, as Flower names it
CLIPPING = "clipping"  # in a train message's config: which of Flower's mods clips the update, "fixed" or "adaptive"
SECURE = "secure-aggregation"  # a train message's record: how updates are weighted and how large they may be

RUN_DIR, WORLD = "FEDINVERSE_RUN_DIR", "FEDINVERSE_WORLD"


def run_directory(context: Context) -> Path:
    """Return the run directory: the node's own config first, then the run's, then the environment.

    A plain ``flwr run .`` names none; server and simulated clients then share one in the cache directory, by the id of
    Flower's run.
    """
    for place in (
        context.node_config.get("run-dir"),
        context.run_config.get("run-dir"),
        os.environ.get(RUN_DIR),
    ):
        if place:
            return Path(str(place))
    return cache_directory() / "flwr" / f"run-{context.run_id}"


def world_of(context: Context) -> World:
    """Return the world this federation lives in."""
    place = context.node_config.get("world") or context.run_config.get("world") or os.environ.get(WORLD)
    return cast(World, place or "with_victim")


def to_record(weights: dict[str, NDArray[Any]]) -> ArrayRecord:
    """Pack named arrays into the record a message carries."""
    return ArrayRecord({name: Array(array) for name, array in weights.items()})


def from_record(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Unpack the named arrays of a message (npy without pickle)."""
    return {name: np.asarray(array.numpy()) for name, array in record.items()}
