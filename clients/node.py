"""What a node knows of itself: its partition, its shard, its role, its defence, its seed and what it will be told.

All of it is the node's own: no message and no run config of the server's changes any of it.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from flwr.app import Context

from clients.cohorts import UNDEFENDED, defences_of
from clients.defences import Defence, make_defence
from clients.participant import Participant, make_participant
from fedinverse.client_data import shard_of
from fedinverse.errors import ConfigError
from fedinverse.flower import DEVICE, client_directory, world_of
from fedinverse.layout import PASSIVE, World
from fedinverse.models import is_code
from fedinverse.run import Run
from fedinverse.seeds import derive
from fedinverse.shard import Shard, open_shard
from fedinverse.words import plain

ROLES = ("honest", "malicious")
# A node config is flat: Flower joins the keys of tables with dots.
DEFENCE_SETTINGS, ACTIVE_SETTINGS = "defence-settings.", "active-settings."


@dataclass(frozen=True)
class Limits:
    """What a node's operator lets a server ask of it.

    Attributes:
        model_bytes: size of a received model, encoded; ``max-model-mb`` in the node config.
        epochs: local epochs in a round; ``max-epochs``.
        model: a network outside this package that may be imported, as ``package.module:Name``; ``model``.
    """

    model_bytes: int = 4_000_000_000
    epochs: int = 1000
    model: str = ""

    def check_model(self, name: str) -> None:
        """Raise ``ConfigError`` if the network ``name`` is somebody's code that the operator did not name."""
        if is_code(name) and name != self.model:
            raise ConfigError(
                f"the server asks for the network '{plain(name, 100)}', code to be imported on this node; its operator "
                'allows that with model="package.module:Name" in the node config'
            )


@dataclass(frozen=True)
class Activity:
    """What a malicious node's operator has it do beside training honestly.

    Attributes:
        memory: directory where it keeps what it remembers between rounds.
    """

    kind: str
    settings: tuple[tuple[str, Any], ...]
    memory: Path


@dataclass(frozen=True)
class Node:
    """One client, as its operator configured it.

    Attributes:
        partition: partition id, the client's name in the split manifest.
        path: the run directory of a simulation, or the node's own data directory in a deployment.
        world: the world a simulated client lives in; None for a node with its own data directory.
        role: ``honest`` or ``malicious``.
        defence_name: its defence, with ``defence_settings``.
        seed: its random streams derive from it; the server's seed never reaches a node.
        limits: what a server may ask of it.
        activity: what a malicious node does beside training honestly; None: nothing.
    """

    partition: int
    path: Path
    world: World | None
    role: str
    device: str
    defence_name: str
    defence_settings: dict[str, Any]
    seed: int
    limits: Limits
    activity: "Activity | None" = None

    @cached_property
    def shard(self) -> Shard:
        """The node's images; read once per process."""
        if self.world is None:
            return open_shard(self.path)
        return shard_of(_run(self.path), self.partition, self.world)

    def defence(self) -> Defence:
        """Return the node's defence, fresh for one round."""
        return make_defence(self.defence_name, self.defence_settings, f"client {self.partition}")

    def participant(self) -> Participant | None:
        """Return what the node does beside training honestly, for one round; None: nothing."""
        if self.activity is None:
            return None
        kind, settings = self.activity.kind, dict(self.activity.settings)
        origin = f"client {self.partition}"
        return make_participant(kind, settings, self.seed, self.activity.memory, self.device, origin)


def node_of(context: Context) -> Node:
    """Return the node that ``context`` belongs to.

    In a deployment the operator's ``--node-config`` says everything: ``partition-id``, ``data-path``, ``role``,
    ``device``, ``defence`` and its settings (``defence-settings.lambda_x=2.0``), ``seed`` and limits; with
    ``role="malicious"`` also ``active`` and its settings (``active-settings.images=32``). A simulated node has a
    partition id only; the run directory tells the rest.

    Raises:
        ConfigError: no partition id, or an unknown role, defence or setting of one.
    """
    config = context.node_config
    if "partition-id" not in config:
        raise ConfigError(
            "node config has no 'partition-id'; start the SuperNode with --node-config 'partition-id=0 …'"
        )
    partition = _whole(config, "partition-id", 0)
    role = str(config.get("role", "honest"))
    if role not in ROLES:
        raise ConfigError(f"node config: role '{role}' is unknown; use one of {', '.join(ROLES)}")
    device = str(config.get("device") or os.environ.get(DEVICE) or "cpu")
    if "data-path" in config:
        defence = str(config.get("defence", UNDEFENDED[0]))
        settings, path = _below(DEFENCE_SETTINGS, config), Path(str(config["data-path"]))
        # Without a seed of its own a node draws one for every process: nothing it does can then be repeated.
        seed = _whole(config, "seed", _drawn())
        limits = Limits(
            _whole(config, "max-model-mb", Limits.model_bytes // 10**6) * 10**6,
            _whole(config, "max-epochs", Limits.epochs),
            str(config.get("model", "")),
        )
        activity = _activity(partition, role, config)
        return _own_data(partition, path, role, device, defence, settings, seed, limits, activity)
    return _simulated(partition, client_directory(context), world_of(context), device)


@cache
def _drawn() -> int:
    return secrets.randbits(62)


def client_seed(run_seed: int, partition: int) -> int:
    """Return the seed of a client in a measurement whose run seed is ``run_seed``, in [0, 2^62)."""
    return derive(run_seed, "client", partition) >> 1


def _below(prefix: str, config: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the keys of a node config that begin with ``prefix``, without it, and their values."""
    return tuple((key.removeprefix(prefix), value) for key, value in config.items() if key.startswith(prefix))


def _activity(partition: int, role: str, config: Mapping[str, Any]) -> Activity | None:
    """Return what a node's operator has it do beside training honestly.

    Raises:
        ConfigError: it is no malicious node, or does not say where it keeps what it captures.
    """
    kind, settings = str(config.get("active", "")), _below(ACTIVE_SETTINGS, config)
    if not kind:
        return None
    if role != "malicious":
        raise ConfigError(f'node config: active="{kind}" is for a node with role="malicious"; this one is {role}')
    if "spool" not in config:
        raise ConfigError(f"node config: active=\"{kind}\" needs 'spool', beside which it keeps what it remembers")
    return Activity(kind, settings, Path(str(config["spool"])).parent / "active" / f"client-{partition}")


def _whole(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if type(value) is not int or value < 0:
        raise ConfigError(f"node config: '{key}' is {value!r}; it must be a whole number, at least 0")
    return value


@lru_cache(maxsize=4)
def _run(path: Path) -> Run:
    return Run(path)


@lru_cache(maxsize=4)
def _defences(path: Path) -> dict[int, tuple[str, dict[str, Any]]]:
    return defences_of(_run(path))


@cache
def _own_data(
    partition: int,
    path: Path,
    role: str,
    device: str,
    defence: str,
    settings: tuple[tuple[str, Any], ...],
    seed: int,
    limits: Limits,
    activity: Activity | None,
) -> Node:
    make_defence(defence, dict(settings), f"node config of client {partition}")  # refused before the first round
    node = Node(partition, path, None, role, device, defence, dict(settings), seed, limits, activity)
    node.participant()  # likewise
    return node


@cache
def _simulated(partition: int, path: Path, world: World, device: str) -> Node:
    run = _run(path)
    role = "malicious" if partition in run.population.attackers else "honest"
    name, settings = _defences(path)[partition]
    seed, limits = client_seed(run.seed_of(world), partition), Limits(model=run.model.name)
    activity = None
    asked = dict(run.table.get("active") or {})
    if role == "malicious" and asked and world != PASSIVE:
        memory = run.files.attacker.active(world) / f"client-{partition}"
        activity = Activity(str(asked.pop("kind")), tuple(asked.items()), memory)
    return Node(partition, path, world, role, device, name, settings, seed, limits, activity)
