"""The processes of a deployment on one machine: where each listens and logs, and how each is started, once or again."""

import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedinverse.flower_compat import one_port
from pipeline.deploy import commands
from pipeline.deploy.control import Control
from pipeline.deploy.keys import Keys, make_keys
from pipeline.deploy.network import HOST, Network
from pipeline.deploy.processes import Owned, Processes

_START = 120.0  # seconds until the SuperLink listens


@dataclass(frozen=True)
class Fleet:
    """A SuperLink and SuperNodes on loopback.

    Attributes:
        directory: holds keys, logs and every process's own Flower home.
        keys: certificates and node keys.
        fleet_port: where SuperNodes connect.
        control_port: where ``flwr`` connects.
        node_ports: where each SuperNode serves its own ClientApp processes.
        database: where the SuperLink keeps nodes and runs over a restart; None: in memory.
        network: whose loopback that is.
    """

    directory: Path
    keys: Keys
    fleet_port: int
    control_port: int
    node_ports: tuple[int, ...]
    database: Path | None = None
    network: Network = field(default_factory=Network)

    @classmethod
    def on_loopback(
        cls, directory: Path, nodes: int, database: Path | None = None, network: Network | None = None
    ) -> "Fleet":
        """Return a fleet of ``nodes`` SuperNodes on ports that are free now, its keys made; nothing is started."""
        fleet, control, *ports = free_ports(2 + nodes)
        control = fleet if one_port() else control
        keys = make_keys(directory / "keys", nodes)
        return cls(directory, keys, fleet, control, tuple(ports), database, network or Network())

    @property
    def fleet(self) -> str:
        """``host:port`` of the SuperLink for SuperNodes."""
        return f"{HOST}:{self.fleet_port}"

    @property
    def control(self) -> str:
        """``host:port`` of the SuperLink for ``flwr``."""
        return f"{HOST}:{self.control_port}"

    def start_superlink(self, processes: Processes) -> Owned:
        """Start the SuperLink and wait until it listens."""
        command = commands.superlink(self.keys, self.fleet, self.control, self.database)
        environment = commands.environment(self.directory / "superlink")
        log, within = self.directory / "superlink.log", self.network.within
        started = processes.start("SuperLink", command, environment, log, within)
        ports = (self.fleet_port, self.control_port)
        processes.wait_until("the SuperLink listens", lambda: all(map(self.network.listens, ports)), _START)
        return started

    def connect(self, register: Sequence[int] = ()) -> Control:
        """Return the SuperLink's control, after registering the public keys of the nodes ``register``."""
        home, authority = self.directory / "control", self.keys.authority
        control = Control.connect(home, self.control, authority, self.network.within)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ids = pool.map(control.register, [self.keys.node_public(number) for number in register])
            return replace(control, nodes=dict(zip(ids, register, strict=True)))

    def start_node(self, processes: Processes, number: int, node: commands.NodeConfig) -> Owned:
        """Start SuperNode ``number`` with the node config ``node``."""
        directory = self.directory / f"node-{number:02d}"
        key, port = self.keys.node(number), self.node_ports[number]
        command = commands.supernode(self.keys.authority, key, self.fleet, port, node)
        environment, log = commands.environment(directory / "flwr"), directory / "supernode.log"
        return processes.start(f"SuperNode {number:02d}", command, environment, log, self.network.within)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on just now."""
    with ExitStack() as held:  # all at once, or the same one would be found twice
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]
