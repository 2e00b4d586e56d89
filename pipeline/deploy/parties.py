"""What each party of a deployment is given: the server its run directory, every node its config and its own images.

The server's directory says nothing about attackers. A node knows what its operator's node config says, and nothing the
server sends makes a node malicious. Whoever prepares a measurement knows both sides, as the auditor must.
"""

import shutil
from pathlib import Path

from clients.cohorts import defences_of
from clients.node import ACTIVE_SETTINGS, DEFENCE_SETTINGS, client_seed
from fedinverse.client_data import shard_of
from fedinverse.layout import RunFiles, World
from fedinverse.run import Run
from fedinverse.shard import save_shard
from fedinverse.storage import write_json

WORLD: World = "with_victim"  # whose world without the victim only a simulation can make
_NOT_THE_SERVERS = ("attacker", "attacks", "audit", "cohorts", "membership", "updates", "active")


def private_directory(run: Run) -> Path:
    """Return the deployment's directory; it holds keys and copies of the clients' images."""
    directory = run.path / "deploy"
    directory.mkdir(exist_ok=True, mode=0o700)
    return directory


def server_run(run: Run) -> Run:
    """Lay out and return the server's run directory: ``run`` without a word on attackers, attacks or the audit."""
    path = private_directory(run) / "server"
    path.mkdir(exist_ok=True)
    table = {key: value for key, value in run.table.items() if key not in _NOT_THE_SERVERS}
    table["population"] = table["population"] | {"malicious": 0}
    files = RunFiles(path)
    shutil.copyfile(run.files.split, files.split)
    shutil.copyfile(run.files.pools, files.pools)
    write_json(files.config, table)
    return Run(path)


def node_configs(run: Run) -> list[dict[str, str | int]]:
    """Return what each node's operator writes into its node config, by partition."""
    population, defences = run.population, defences_of(run)
    nodes: list[dict[str, str | int]] = []
    for number in range(population.clients):
        data = private_directory(run) / f"node-{number:02d}" / "data"
        defence, settings = defences[number]
        node: dict[str, str | int] = {"partition-id": number, "data-path": str(data), "defence": defence}
        node["seed"] = client_seed(run.seed, number)  # so that the deployment's models are the simulation's
        if ":" in run.model.name:
            node["model"] = run.model.name
        node |= {f"{DEFENCE_SETTINGS}{key}": value for key, value in settings.items()}
        if number in population.attackers:
            node |= {"role": "malicious", "spool": str(spool_of(run, number))}
            active = dict(run.table.get("active") or {})
            node |= {"active": active.pop("kind")} if active else {}
            node |= {f"{ACTIVE_SETTINGS}{key}": value for key, value in active.items()}
        nodes.append(node)
    return nodes


def spool_of(run: Run, number: int) -> Path:
    """Return the spool of the malicious node ``number``.

    Each has one of its own, as on its own host; later stages pool them (``fedinverse.layout.spools_of``).
    """
    if number == run.population.attackers[0]:
        return run.files.attacker.spool(WORLD)
    return run.files.attacker.accomplice_spool(WORLD, number)


def export_shards(run: Run, nodes: list[dict[str, str | int]]) -> None:
    """Write every client's images and labels into the data directory that its node config names."""
    for number, node in enumerate(nodes):
        shard = shard_of(run, number, WORLD)
        save_shard(Path(str(node["data-path"])), shard)
