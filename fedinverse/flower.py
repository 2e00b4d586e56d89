"""How an app of Flower's finds its run directory and its world; and three helpers for apps that are not ours.

A server is told both by whoever submits the run. A client outside a simulation is told nothing by the server: what a
run config says reaches every node, and must not make one malicious or name a path on it.

``from fedinverse.flower import capture, record, shard`` is all that an app's author needs to put FedInverse beside it
by hand; ``fedinverse audit-app`` needs not even that.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from flwr.app import Context, Message

from fedinverse.data.source import cache_directory
from fedinverse.errors import ConfigError
from fedinverse.layout import PASSIVE, WITH_VICTIM, WITHOUT_VICTIM, WORLDS, World, is_control
from fedinverse.received import arrays_in, weights_in
from fedinverse.records import LedgerLine, append_lines
from fedinverse.shard import Shard, open_shard
from fedinverse.storage import weights_sha256

S = TypeVar("S")
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
        ConfigError: it is called neither ``with_victim`` or its passive twin nor as a control world is.
    """
    server = context.run_config.get("world") if not context.node_config or _in_flowers_simulation() else None
    place = context.node_config.get("world") or server or os.environ.get(WORLD) or "with_victim"
    if place not in (WITH_VICTIM, PASSIVE) and not is_control(str(place)):
        known = ", ".join((*WORLDS, PASSIVE))
        raise ConfigError(f"world '{str(place)[:60]}' is unknown; it is one of {known}, {WITHOUT_VICTIM}-1 and so on")
    return str(place)


def _in_flowers_simulation() -> bool:
    """Return whether this process is one of Ray's: nodes of a deployment never are."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


# ---------------------------------------------------------------- for apps whose authors may change them a little
ATTACKER, SPOOL, LEDGER = "FEDINVERSE_ATTACKER", "FEDINVERSE_SPOOL", "FEDINVERSE_LEDGER"


def capture() -> Any:
    """Return a Flower mod: ``ClientApp(mods=[capture()])``. It does nothing unless this node is malicious.

    A node is, if its operator says ``role="malicious"`` in its node config, or if in a simulation the environment's
    ``FEDINVERSE_ATTACKER`` is its partition id, or ``last`` and it is the last one. It keeps every model it is sent in
    the node config's ``spool``, or in ``FEDINVERSE_SPOOL``, or in ``captures`` where it runs; and never fails for it.
    """
    spool_module = importlib.import_module("attacker.spool")  # by name: the kernel imports no role

    def mod(message: Message, context: Context, call_next: Any) -> Message:
        if not _is_malicious(context):
            return cast(Message, call_next(message, context))
        place = str(context.node_config.get("spool") or os.environ.get(SPOOL) or "captures")
        return cast(Message, spool_module.captured(lambda: spool_module.Spool(place), message, context, call_next))

    return mod


def _is_malicious(context: Context) -> bool:
    config, wanted = context.node_config, os.environ.get(ATTACKER, "")
    if wanted == "last":
        wanted = str(int(config.get("num-partitions", 0)) - 1)
    return config.get("role") == "malicious" or (wanted != "" and wanted == str(config.get("partition-id", "")))


def record(strategy: S) -> S:
    """Return ``strategy``, which from now on notes what it sends: round, receiver and SHA-256 of every model.

    The lines go to ``FEDINVERSE_LEDGER``, or to ``ledger.jsonl`` where the server runs. A capture whose hash is not
    among them is not what the server sent.
    """
    place = Path(os.environ.get(LEDGER) or "ledger.jsonl")
    for name in ("configure_train", "configure_evaluate"):
        if hasattr(strategy, name):
            setattr(strategy, name, _recording(getattr(strategy, name), place))
    return strategy


def _recording(configure: Callable[..., Iterable[Message]], place: Path) -> Callable[..., list[Message]]:
    @wraps(configure)
    def configured(server_round: int, *given: Any, **named: Any) -> list[Message]:
        messages = list(configure(server_round, *given, **named))
        lines = []
        for message in messages:
            arrays = arrays_in(message.content)
            if arrays is not None:
                kind, node = message.metadata.message_type, str(message.metadata.dst_node_id)
                lines.append(LedgerLine(server_round, kind, node, weights_sha256(weights_in(arrays))))
        append_lines(place, lines)
        return messages

    return configured


def shard(context: Context) -> Shard:
    """Return this node's own images, from the ``data-path`` of its node config (``images.npy``, ``labels.npy``).

    Raises:
        ConfigError: the node config names none.
        DataError: nothing readable lies there.
    """
    place = context.node_config.get("data-path")
    if not place:
        raise ConfigError(
            "node config has no 'data-path'; start the SuperNode with --node-config 'data-path=\"/data\"'"
        )
    return open_shard(Path(str(place)))
