"""``deploy local``: the federation of a run directory as real processes on this machine, over TLS with known nodes.

The server knows its run directory from the run config. A node knows what its operator's node config says: its
partition, its own data directory, and the malicious one its role and spool; nothing the server sends names it.
"""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from clients.cohorts import Cohort, assign
from fedinverse.config import parse
from fedinverse.errors import ConfigError, StageError
from fedinverse.run import Run, World, prepare
from fedinverse.shard import shard_of
from fedinverse.storage import load_weights, read_jsonl, save_array
from pipeline.console import console, percent
from pipeline.deploy import commands
from pipeline.deploy.control import Control
from pipeline.deploy.keys import Keys, make_keys
from pipeline.deploy.processes import Processes
from pipeline.experiment import Experiment, resolved
from pipeline.stages import run_all
from server.settings import Federation

WORLD: World = "with_victim"  # whose world without the victim only a simulation can make
_START = 120.0  # seconds until the SuperLink listens, and until the first round is recorded beside the rounds' own time
_ASK, _ASK_AT_THE_END = 15.0, 1.0  # seconds between two questions to the SuperLink: each costs a fresh process


def deploy_local(experiment: Experiment, *, resume: bool) -> Path:
    """Run the federation of ``experiment`` as real processes, then every later stage as in a simulation.

    The control world without the victim's images, if the audit wants it, is simulated on the configured engine: it is
    the same training, and nobody can run a real federation a second time without one of its members.

    Returns:
        The report.

    Raises:
        ConfigError: the run directory exists and ``resume`` was not asked for.
        FedInverseError: see ``federate_deployed`` and the stages.
    """
    path = (Path(experiment.out) / experiment.name).resolve()
    if (path / "config.json").exists() and not resume:
        raise ConfigError(
            f"{path} exists already; continue it with --resume, or choose another name with --set name=... or --out"
        )
    run = prepare(path, resolved(experiment))
    compared = federate_deployed(run)
    if compared:
        console.print(f"[b]Captures[/b]  {compared} messages to the malicious node, all equal to the server's ledger")
    return run_all(experiment, resume=True)  # the federation it finds done


def federate_deployed(run: Run) -> int:
    """Bring the federation of ``run`` to its last round over real processes; leave none behind.

    A run that was stopped goes on after its last recorded round.

    Returns:
        How many captured messages were held against the server's ledger; 0 without a malicious client.

    Raises:
        ConfigError: more than one malicious client, or a defence with settings, which a node config cannot carry.
        StageError: a process ended or a wait ran out (the message names the log), or captures differ from the ledger.
    """
    nodes = node_configs(run)
    rounds = run.section("federation", Federation).rounds
    directory = _private(run)
    if _last_round(run) < rounds:
        export_shards(run, nodes)
        keys = make_keys(directory / "keys", len(nodes))
        with Processes() as processes:
            _federate(run, directory, keys, nodes, processes)
    return check_captures(run) if run.population.attackers else 0


def _federate(run: Run, directory: Path, keys: Keys, nodes: list[dict[str, str | int]], processes: Processes) -> None:
    federation = run.section("federation", Federation)
    fleet_port, control_port, *ports = free_ports(2 + len(nodes))
    fleet, control_address = f"127.0.0.1:{fleet_port}", f"127.0.0.1:{control_port}"
    console.print(f"[b]Deploying[/b] SuperLink on {fleet} and {len(nodes)} SuperNodes; logs in {directory}")
    link = commands.superlink(keys, fleet, control_address)
    processes.start("SuperLink", link, commands.environment(directory / "superlink"), directory / "superlink.log")
    listening = [fleet_port, control_port]
    processes.wait_until("the SuperLink listens", lambda: all(map(listens, listening)), _START)
    control = Control.connect(directory / "control", control_address, keys.authority)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(control.register, [keys.node_public(number) for number in range(len(nodes))]))
    for number, (node, port) in enumerate(zip(nodes, ports, strict=True)):
        own = directory / f"node-{number:02d}"
        command = commands.supernode(keys.authority, keys.node(number), fleet, port, node)
        processes.start(f"SuperNode {number:02d}", command, commands.environment(own / "flwr"), own / "supernode.log")
    run_id = control.submit(run.path)
    patience = _START + federation.timeout * (federation.rounds - max(_last_round(run), 0) + 1)
    watch = _Watch(run, control, run_id)
    processes.wait_until(f"run {run_id} finishes", watch.finished, patience, pause=0.5)
    done = _last_round(run)
    if watch.status != "finished:completed" or done < federation.rounds:
        raise StageError(
            f"run {run_id} is {watch.status} after round {done} of {federation.rounds}; see "
            f"{control.fetch_log(run_id)} and {directory}/node-*/supernode.log"
        )


def check_captures(run: Run) -> int:
    """Hold what the malicious node captured against what the server's ledger says it was sent.

    Returns:
        The number of messages compared, each by round, message type and SHA-256.

    Raises:
        StageError: a message is in one of the two only.
        IntegrityError: a captured file does not hold what its hash says.
    """
    attacker, spool = run.population.attackers[0], run.spool(WORLD)
    sent = {_key(line) for line in read_jsonl(run.ledger(WORLD)) if line["partition"] == attacker}
    receipts = read_jsonl(spool / "receipts.jsonl")
    received = {_key(line) for line in receipts}
    if sent != received:
        raise StageError(
            f"the captures in {spool} are not what the ledger says: {len(sent - received)} messages to client "
            f"{attacker} were not captured, {len(received - sent)} captured ones were not sent"
        )
    files = {line["file"]: line["sha256"] for line in receipts}
    for name, sha in files.items():
        if load_weights(spool / name)[1]["sha256"] != sha:
            raise StageError(f"{spool / name} is not the capture that its receipt names")
    return len(sent)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on just now."""
    with ExitStack() as held:  # all at once, or the same one would be found twice
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def listens(port: int) -> bool:
    """Return whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def node_configs(run: Run) -> list[dict[str, str | int]]:
    """Return what each node's operator writes into its node config, by partition.

    Raises:
        ConfigError: more than one malicious client, or a defence with settings, which a node config cannot carry.
    """
    population, origin = run.population, str(run.path / "config.json")
    if population.malicious > 1:
        raise ConfigError(
            f"{origin}: 'population.malicious' is {population.malicious}; a deployment on one machine runs one "
            "malicious node with one spool: set it to 1 or 0"
        )
    cohorts = [parse(Cohort, table, f"cohorts.{at}", origin) for at, table in enumerate(run.table.get("cohorts", []))]
    defences = assign(cohorts, population.clients, run.seed, population.attackers, origin)
    if any(cohort.settings for cohort in cohorts):
        raise ConfigError(
            f"{origin}: 'cohorts' give settings to a defence, and a node config carries its name only; "
            "remove them to have its defaults, or simulate"
        )
    nodes: list[dict[str, str | int]] = []
    for number in range(population.clients):
        data = _private(run) / f"node-{number:02d}" / "data"
        node: dict[str, str | int] = {"partition-id": number, "data-path": str(data), "defence": defences[number][0]}
        if number in population.attackers:
            node |= {"role": "malicious", "spool": str(run.spool(WORLD))}
        nodes.append(node)
    return nodes


def export_shards(run: Run, nodes: list[dict[str, str | int]]) -> None:
    """Write every client's images and labels into the data directory that its node config names."""
    for number, node in enumerate(nodes):
        shard = shard_of(run, number, WORLD)
        save_array(Path(str(node["data-path"])) / "images.npy", shard.images.numpy())
        save_array(Path(str(node["data-path"])) / "labels.npy", shard.labels.numpy())


def _private(run: Run) -> Path:
    """Return the deployment's directory; it holds keys and copies of the clients' images."""
    directory = run.path / "deploy"
    directory.mkdir(exist_ok=True, mode=0o700)
    return directory


def _last_round(run: Run) -> int:
    lines = run.recorded_rounds(WORLD)
    return int(lines[-1]["round"]) if lines else -1


def _key(line: dict[str, object]) -> tuple[object, ...]:
    return line["round"], line["message-type"], line["sha256"]


class _Watch:
    """Shows rounds as the server records them and asks the SuperLink now and then whether the run is over."""

    def __init__(self, run: Run, control: Control, run_id: str) -> None:
        self._run, self._control, self._run_id = run, control, run_id
        self._shown, self._asked = _last_round(run), time.monotonic()
        self._rounds = run.section("federation", Federation).rounds
        self.status = "submitted"

    def finished(self) -> bool:
        """Return whether the run is over; ``status`` then says how."""
        self._show()
        if time.monotonic() - self._asked >= (_ASK if self._shown < self._rounds else _ASK_AT_THE_END):
            self.status = self._control.status(self._run_id)
            self._asked = time.monotonic()
        if not self.status.startswith("finished"):
            return False
        self._show()
        return True

    def _show(self) -> None:
        for line in self._run.recorded_rounds(WORLD):
            if line["round"] > self._shown:
                self._shown = line["round"]
                console.print(
                    f"  round {self._shown:>3}   accuracy {percent(line['accuracy']):>7}"
                    f"   victim's classes {percent(line['victim-accuracy']):>7}"
                )
