"""Real processes on loopback, TLS and node authentication on: the same federation, and a stranger who is refused."""

import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedinverse.errors import ConfigError, StageError
from fedinverse.layout import World
from fedinverse.run import Run, prepare
from fedinverse.storage import append_jsonl, read_jsonl, read_metadata
from pipeline.cli.deploy import app
from pipeline.deploy import commands
from pipeline.deploy.fleet import Fleet
from pipeline.deploy.keys import make_keys, node_secret
from pipeline.deploy.local import check_captures, federate_deployed
from pipeline.deploy.network import Network
from pipeline.deploy.parties import node_configs, server_run
from pipeline.deploy.processes import Owned, Processes, tail
from pipeline.engines import Engine, run_federation
from pipeline.experiment import resolved
from server.settings import Federation

Load = Callable[..., Any]
WORLD: World = "with_victim"
START_NODE = Fleet.start_node


def processes_of(directory: Path) -> list[int]:
    """Return the ids of living processes whose environment names ``directory``: each has its Flower home there."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(directory).encode() in (process / "environ").read_bytes():
                pids.append(int(process.name))
    return pids


def test_deployed_federation_is_the_simulated_one_and_the_captures_equal_the_ledger(
    tiny: Load, tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(installed)  # one client's defence is another package's, which its SuperNode imports
    federation = {"rounds": 2, "fraction_evaluate": 0.5, "policy": "every_round", "always_train": [3], "timeout": 120.0}
    gan = {"kind": "gan", "images": 4, "steps": 2, "batch_size": 4, "width": 0.1}
    table = resolved(tiny(federation=federation, cohorts=[{"defence": "noisy_images", "clients": [1]}], active=gan))
    deployed, simulated = prepare(tmp_path / "deployed", table), prepare(tmp_path / "simulated", table)
    open_ports: list[bool] = []

    def start_node(fleet: Fleet, *arguments: Any) -> Owned:
        open_ports.append(not fleet.network.reason and Network().listens(fleet.control_port))
        return START_NODE(fleet, *arguments)

    monkeypatch.setattr(Fleet, "start_node", start_node)
    compared = federate_deployed(deployed)
    assert open_ports == [False] * 4  # the SuperLink listens, but not where other users of this machine could reach it
    assert processes_of(tmp_path) == []

    run_federation(simulated, WORLD, Engine(kind="local"))
    rounds = [[line.sha256 for line in run.recorded_rounds(WORLD)] for run in (deployed, simulated)]
    assert len(rounds[0]) == 3
    assert rounds[0] == rounds[1]  # bit for bit
    clients = read_jsonl(deployed.files.server.client_reports(WORLD))
    assert "fedinverse_example.noisy_images:NoisyImages" in {line.get("defence") for line in clients}

    states = [sorted(run.files.attacker.active(WORLD).rglob("gan-*.safetensors")) for run in (deployed, simulated)]
    generators = [[read_metadata(path)["sha256"] for path in each] for each in states]
    assert len(generators[0]) == 2  # the node's operator alone turned the GAN participant on
    assert generators[0] == generators[1]

    # The attacker trains in both rounds; its spool, fed by one node alone, is where the later stages look for it.
    receipts = read_jsonl(deployed.files.attacker.spool(WORLD) / "receipts.jsonl")
    assert compared == len(receipts) >= 2
    assert len({line["node"] for line in receipts}) == 1
    assert (deployed.files.attacker.spool(WORLD) / "round-0000.safetensors").exists()

    assert federate_deployed(Run(deployed.path)) == compared  # done: nothing is started again
    unsent = {"round": 3, "message-type": "train", "partition": 3, "node": "0", "sha256": "0"}
    append_jsonl(deployed.files.server.ledger(WORLD), unsent)
    with pytest.raises(StageError, match="1 messages to client 3 were not captured"):
        check_captures(deployed, 3)


def says(log: Path, text: str) -> bool:
    """Return whether ``text`` stands in ``log``."""
    return text in log.read_text()


def deploy_with_a_stranger(directory: Path) -> None:
    """Start a SuperLink and two SuperNodes, of which only node 0 is registered; wait for what does not come."""
    fleet = Fleet.on_loopback(directory, 2)
    with Processes() as processes:
        fleet.start_superlink(processes)
        fleet.connect(register=[0])
        for number in (0, 1):
            started = fleet.start_node(processes, number, {"partition-id": number, "data-path": str(directory)})
            if number == 0:
                processes.wait_until("node 0 is accepted", partial(says, started.log, "SuperNode ID"), 60)
        processes.wait_until("a refusal", lambda: False, 60)


def test_a_node_whose_key_is_not_registered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="SuperNode 01 ended"):
        deploy_with_a_stranger(tmp_path)
    assert "SuperNode ID" not in (tmp_path / "node-01" / "supernode.log").read_text()
    assert (tmp_path / "superlink.log").read_text().count("Activated node_id") == 1
    assert processes_of(tmp_path) == []


def start_nonsense(directory: Path) -> None:
    """Start a program that ends at once, and wait."""
    with Processes() as processes:
        command = ["flower-supernode", "--no-such-option"]
        processes.start("nobody", command, commands.environment(directory), directory / "nobody.log")
        processes.wait_until("it lives", lambda: False, 60)


def test_a_process_that_ends_is_named_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"nobody ended with code \d+; see .*nobody\.log"):
        start_nonsense(tmp_path)
    assert "unrecognized arguments" in tail(tmp_path / "nobody.log")
    assert processes_of(tmp_path) == []


def test_keys_are_private_kept_and_name_their_hosts(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys", 1, ["federation.example", "10.0.0.1"])
    for path in (keys.authority_key, keys.certificate_key, keys.node(0)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = {path: path.read_bytes() for path in keys.root.iterdir()}
    make_keys(keys.root, 2, ["10.0.0.1"])
    assert {path: path.read_bytes() for path in before} == before
    assert keys.node_public(1).read_text().startswith("ecdsa-sha2-nistp384 ")
    with pytest.raises(ConfigError, match=r"does not name the host other\.example"):
        make_keys(keys.root, 1, ["other.example"])


def test_a_nodes_secret_is_made_once_and_for_itself_alone(tmp_path: Path) -> None:
    path = node_secret(tmp_path / "node-03.key")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert node_secret(tmp_path / "node-03.key").read_bytes() == path.read_bytes()
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        node_secret(tmp_path / "node-03.key")
    with pytest.raises(ConfigError, match="32 random bytes"):
        node_secret(tmp_path / "nowhere" / "node-03.key")


def test_what_a_node_config_says(tiny: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quotes"):
        commands.settings({"data-path": 'a"b'})
    cohorts = [{"defence": "bido_hsic", "clients": [1], "settings": {"lambda_x": 2.5}}]
    run = prepare(tmp_path / "run", resolved(tiny(cohorts=cohorts, population={"malicious": 2})))
    nodes = node_configs(run)
    assert "partition-id=1 " in commands.settings(nodes[1])
    assert 'defence="bido_hsic"' in commands.settings(nodes[1])
    assert "defence-settings.lambda_x=2.5" in commands.settings(nodes[1])
    assert ["role" in node for node in nodes] == [False, False, True, True]
    assert nodes[2]["spool"] != nodes[3]["spool"]  # two processes never write one


def test_the_servers_directory_does_not_say_who_is_malicious(tiny: Load, tmp_path: Path) -> None:
    cohorts = [{"defence": "bido_hsic", "clients": [1]}]
    run = prepare(tmp_path / "run", resolved(tiny(cohorts=cohorts)))
    server = server_run(run)
    assert run.population.attackers == (3,)
    assert server.population.attackers == ()
    assert not {"attacker", "attacks", "audit", "cohorts"} & server.table.keys()
    assert server.section("federation", Federation) == run.section("federation", Federation)
    assert server.split.equals(run.split)
    assert server.pools["private"].path == run.pools["private"].path
    assert not [path for path in server.path.rglob("*") if b"attack" in path.read_bytes()]


@pytest.mark.parametrize(
    ("command", "plain"),
    [
        ("keys", "flwr supernode register"),
        ("superlink", "flower-superlink"),
        ("supernode", "flower-supernode"),
        ("attacker", "attacker.worker"),
        ("prepare", "flwr run"),
        ("local", "flwr run"),
    ],
)
def test_every_command_shows_the_plain_command(command: str, plain: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert plain in result.stdout
