"""How an app of Flower's finds its run directory and its world."""

import os
from pathlib import Path
from typing import cast

from flwr.app import Context

from fedinverse.data.source import cache_directory
from fedinverse.layout import World

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
