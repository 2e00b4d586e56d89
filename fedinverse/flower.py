"""How an app of Flower's finds its run directory and its world.

A server is told both by whoever submits the run. A client outside a simulation is told nothing by the server: what a
run config says reaches every node, and must not make one malicious or name a path on it.
"""

import os
import sys
from pathlib import Path
from typing import cast

from flwr.app import Context

from fedinverse.data.source import cache_directory
from fedinverse.errors import ConfigError
from fedinverse.layout import WORLDS, World

RUN_DIR, WORLD, DEVICE = "FEDINVERSE_RUN_DIR", "FEDINVERSE_WORLD", "FEDINVERSE_DEVICE"


def server_directory(context: Context) -> Path:
    """Return the run directory of a ServerApp: the run config's, then the environment's.

    A plain ``flwr run .`` names none; server and simulated clients then share one in the cache directory, by the id of
    Flower's run.
    """
    place = context.run_config.get("run-dir") or os.environ.get(RUN_DIR)
    return Path(str(place)) if place else cache_directory() / "flwr" / f"run-{context.run_id}"


def client_directory(context: Context) -> Path:
    """Return the run directory of a simulated client: its node config's, its environment's, or in Flower's simulation
    the run's.

    Raises:
        ConfigError: nobody but the server says where it is, and this is no simulation.
    """
    place = context.node_config.get("run-dir") or os.environ.get(RUN_DIR)
    if place:
        return Path(str(place))
    if _in_flowers_simulation():
        return server_directory(context)
    raise ConfigError(
        "node config has no 'data-path'; outside a simulation a node's operator says where its data are: start the "
        "SuperNode with --node-config 'partition-id=0 data-path=\"/data\"'"
    )


def world_of(context: Context) -> World:
    """Return the world that a server or a simulated client lives in.

    Raises:
        ConfigError: it is called neither ``with_victim`` nor ``without_victim``.
    """
    server = context.run_config.get("world") if not context.node_config or _in_flowers_simulation() else None
    place = context.node_config.get("world") or server or os.environ.get(WORLD) or "with_victim"
    if place not in WORLDS:
        raise ConfigError(f"world '{str(place)[:60]}' is unknown; it is one of {', '.join(WORLDS)}")
    return cast(World, place)


def _in_flowers_simulation() -> bool:
    """Return whether this process is one of Ray's: nodes of a deployment never are."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
