"""Hosts with addresses of their own: the documented commands, directories that know their own party only, and the wire.

Server, two honest nodes and the attacker; every process is started by the command its operator would type. Namespaces
need root; where they are not permitted, the same runs on loopback addresses behind relays, which always runs.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from conftest import TINY, merged
from deploy_federation import WAIT, WORLD, processes_of, until
from deploy_networks import Namespaces, Relays

from attacker.worker import Plan
from fedinverse.arrays import to_record
from fedinverse.models import build
from fedinverse.run import Run
from fedinverse.storage import read_json, read_jsonl, to_weights
from pipeline.deploy import commands
from pipeline.deploy.processes import Processes

ROOT = Path(__file__).parent.parent
NODES, MALICIOUS = 3, 2
EXPERIMENT = merged(
    TINY,
    {
        "population": {"clients": NODES},
        "federation": {"rounds": 1, "fraction_train": 1.0, "fraction_evaluate": 1.0, "timeout": 120.0},
        "engine": None,
    },
)


class Hosts:
    """A directory per host: the server's run, each node's data and key, the attacker's own config."""

    def __init__(self, directory: Path, network: Namespaces | Relays) -> None:
        self.directory, self.network = directory, network

    def path(self, host: str) -> Path:
        """Return the directory of ``host``."""
        return self.directory / host

    def environment(self, host: str) -> dict[str, str]:
        """Return the environment of a host's processes: a Flower home of its own."""
        return os.environ | commands.QUIET | {"FLWR_HOME": str(self.path(host) / "flwr"), "OMP_NUM_THREADS": "1"}

    def command(self, host: str, *line: str) -> list[str]:
        """Return ``line``, a program installed beside this Python and its arguments, as run on ``host``."""
        return [*self.network.at(host), *commands.program(list(line))]

    def call(self, host: str, *line: str) -> str:
        """Run ``line`` on ``host`` to its end; return what it printed."""
        done = subprocess.run(
            self.command(host, *line),
            env=self.environment(host) | {"PATH": commands.environment()["PATH"], "COLUMNS": "400"},
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=WAIT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, processes: Processes, host: str, name: str, *line: str) -> Path:
        """Start ``line`` on ``host``; return its log."""
        log = self.path(host) / f"{name}.log"
        processes.start(f"{name} on {host}", self.command(host, *line), self.environment(host), log)
        return log

    def flwr(self, *line: str) -> Any:
        """Run ``flwr`` on the server's host; return its answer."""
        return json.loads(self.call("server", "flwr", *line, "--format", "json"))


def lay_out(hosts: Hosts) -> None:
    """Prepare once, hand every party its own, and take the rest away: no host has what is another's."""
    config = hosts.path("operator") / "tiny.toml"
    config.parent.mkdir(parents=True)
    config.write_text(tomli_w.dumps(EXPERIMENT))
    network, operator = hosts.network, hosts.path("operator")
    hosts.call("server", "fedinverse", "deploy", "prepare", str(config), "--out", str(operator))
    names = [
        word
        for address in {network.server, *(link.split(":")[0] for link in network.links)}
        for word in ("--host", address)
    ]
    hosts.call("server", "fedinverse", "deploy", "keys", str(operator / "keys"), "--nodes", str(NODES), *names)
    shutil.move(operator / "tiny" / "deploy" / "server", hosts.path("server") / "run")
    for name in ("ca.pem", "server.pem", "server.key", *(f"node-{number:02d}.pub" for number in range(NODES))):
        shutil.copy(operator / "keys" / name, hosts.path("server") / name)
    for number in range(NODES):
        home = hosts.path(f"n{number}")
        shutil.move(operator / "tiny" / "deploy" / f"node-{number:02d}" / "data", home / "data")
        for name in ("ca.pem", f"node-{number:02d}.key"):
            shutil.copy(operator / "keys" / name, home / name)
    shutil.copy(config, hosts.path(f"n{MALICIOUS}") / "own.toml")
    shutil.rmtree(operator)


def federate(hosts: Hosts, processes: Processes) -> Run:
    """Bring everything up, run the federation, let the attacker finish; return the server's run."""
    network, server = hosts.network, hosts.path("server")
    line = ["fedinverse", "deploy", "superlink", str(server), "--fleet", network.fleet, "--control", network.control]
    link = hosts.start(processes, "server", "superlink", *line)
    until("the SuperLink listens", lambda: "Application startup complete" in link.read_text())
    home = server / "flwr"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(commands.connection(network.control, server / "ca.pem"))
    for number in range(NODES):
        hosts.flwr("supernode", "register", str(server / f"node-{number:02d}.pub"), "deployment")
    for number in range(NODES):
        directory = hosts.path(f"n{number}")
        line = ["fedinverse", "deploy", "supernode", network.links[number], "--partition", str(number)]
        line += [
            "--data",
            str(directory / "data"),
            "--ca",
            str(directory / "ca.pem"),
            "--key",
            str(directory / f"node-{number:02d}.key"),
        ]
        line += ["--port", str(9094 + number), *(["--spool", str(directory / "spool")] if number == MALICIOUS else [])]
        hosts.start(processes, f"n{number}", "supernode", *line)
    attacker = hosts.path(f"n{MALICIOUS}")
    line = ["fedinverse", "deploy", "attacker", str(attacker / "own.toml"), "--spool", str(attacker / "spool")]
    hosts.start(processes, attacker.name, "worker", *line, "--data", str(attacker / "data"), "--classes", "10")
    settings = commands.settings({"config": "", "run-dir": str(server / "run")})
    run_id = str(hosts.flwr("run", ".", "deployment", "--run-config", settings)["run-id"])
    run = Run(server / "run")
    processes.wait_until("round 1 is recorded", lambda: len(run.recorded_rounds(WORLD)) == 2, 2 * WAIT)

    def status() -> str:
        return str(hosts.flwr("list", "deployment", "--run-id", run_id)["runs"][0]["status"])

    processes.wait_until("the run is over", lambda: status().startswith("finished"), WAIT, pause=2)
    assert status() == "finished:completed"
    Plan.stop(attacker / "plan.json").touch()
    until("the attacker has inverted", lambda: bool(list((attacker / "inversions").rglob("about.json"))))
    return run


def speak_in_the_clear(hosts: Hosts, host: str) -> bytes:
    """Send a few bytes without TLS from ``host`` to the fleet port; return them: the record of the wire shows such."""
    address, port = hosts.network.links[int(host[1:])].split(":")
    said = b"num-examples in the clear"
    program = f"import socket; socket.create_connection(({address!r}, {port})).sendall({said!r})"
    subprocess.run([*hosts.network.at(host), sys.executable, "-c", program], check=True, timeout=30)
    return said


def take_a_task(hosts: Hosts, number: int) -> str:
    """Ask the runtime port of a node for a task, as any user of its host may; return the status of the answer."""
    program = (
        "import urllib.error, urllib.request as r\n"
        f"where = 'http://127.0.0.1:{9094 + number}/v1/runtime/acquire-task'\n"
        "asked = r.Request(where, b'', {'Content-Type': 'application/protobuf'}, method='POST')\n"
        "try: print(r.urlopen(asked, timeout=30).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    command = [*hosts.network.at(f"n{number}"), sys.executable, "-c", program]
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout.strip()


def check_wire(wire: dict[str, bytes]) -> None:
    """Check that what passed is TLS: a handshake first, and nothing that the messages say in the clear."""
    weights = to_weights(build("mcnn", 10, 0.1, seed=0))
    sent = b"".join(array.data for array in to_record(weights).values())
    said = [*(name.encode() for name in weights), b"num-examples", b"query.who", b"numpy.ndarray", b"flwr.proto"]
    for address, passed in wire.items():
        assert len(passed) > len(sent), f"{address}: a model passed, the wire shows {len(passed)} bytes"
        assert b"\x16\x03\x01" in passed[:3], f"{address} did not begin with a TLS ClientHello"
        assert [marker for marker in said if marker in passed] == []


@pytest.mark.parametrize("kind", [Namespaces, Relays])
def test_hosts_of_their_own_federate_over_tls(kind: type[Namespaces | Relays], tmp_path: Path) -> None:
    if kind is Namespaces and Namespaces.missing():
        pytest.skip(Namespaces.missing())
    with kind(tmp_path, NODES) as network:
        hosts = Hosts(tmp_path, network)
        lay_out(hosts)
        with Processes() as processes:
            run = federate(hosts, processes)
            check_wire(network.wire())
            assert [take_a_task(hosts, number) for number in range(NODES)] == ["401"] * NODES
            said = speak_in_the_clear(hosts, "n0")
            until("the wire shows what is said in the clear", lambda: said in network.wire()[network.addresses[0]], 10)
    assert processes_of(tmp_path) == []

    # Nothing the server holds says who is malicious, nor that anybody is.
    assert run.population.malicious == 0
    assert not {"attacker", "attacks", "audit"} & run.table.keys()
    assert [path for path in run.path.rglob("*.json*") if b"attack" in path.read_bytes()] == []

    # Its operator's spool holds what the ledger says was sent to it.
    attacker = hosts.path(f"n{MALICIOUS}")
    sent = {
        (line["round"], line["message-type"], line["sha256"])
        for line in read_jsonl(run.files.server.ledger(WORLD))
        if line["partition"] == MALICIOUS
    }
    receipts = read_jsonl(attacker / "spool" / "receipts.jsonl")
    assert {(line["round"], line["message-type"], line["sha256"]) for line in receipts} == sent
    assert len(sent) == 2
    assert read_json(attacker / "plan.json")["spool"] == str(attacker / "spool")
    assert not list(tmp_path.glob("n[01]/spool"))
