"""The plain Flower commands a deployment consists of: the same lists are run and shown. Nothing is started here."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from fedinverse.errors import ConfigError, StageError
from fedinverse.flower import DEVICE, RUN_DIR, WORLD
from fedinverse.flower_compat import one_port
from fedinverse.registry import search_path
from pipeline.deploy.keys import Keys

NodeConfig = Mapping[str, str | int | float]  # what a SuperNode's operator tells it

CONNECTION = "deployment"  # the SuperLink's name in Flower's own config file
QUIET = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # otherwise the SuperLink installs the app's for every run
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
}
_PROGRAMS = Path(sys.executable).parent  # Flower starts its own programs by name: they must be on the PATH


def superlink(keys: Keys, fleet: str, control: str, database: Path | None = None) -> list[str]:
    """Return the command of a SuperLink.

    Args:
        keys: its certificate and key.
        fleet: ``host:port`` where SuperNodes connect (gRPC).
        control: ``host:port`` where ``flwr run`` connects. Who reaches it can run code on the server and the nodes.
            Not used by a Flower that has one port for both.
        database: where it keeps its state over a restart; None: in memory.
    """
    host, port = _address(fleet if one_port() else control)
    command = ["flower-superlink", "--ssl-ca-certfile", str(keys.authority), "--ssl-certfile", str(keys.certificate)]
    command += ["--ssl-keyfile", str(keys.certificate_key), "--enable-supernode-auth", "--isolation", "subprocess"]
    command += ["--host", host, "--port", port]
    command += [] if one_port() else ["--fleet-api-address", fleet]
    return command + (["--database", str(database)] if database else [])


def supernode(
    authority: Path, key: Path, fleet: str, port: int, node: NodeConfig, secret: Path | None = None
) -> list[str]:
    """Return the command of a SuperNode.

    Args:
        authority: the certificate by which it verifies the SuperLink.
        key: its private key, registered with the SuperLink.
        fleet: ``host:port`` of the SuperLink.
        port: loopback port on which the SuperNode serves its own ClientApp processes.
        node: its node config, which nobody but its operator sets: ``partition-id``, ``data-path``, ``role`` …
        secret: file of the secret without which that port hands out no task; whoever starts ClientApps is then started
            beside it (``superexec``). None: the SuperNode starts it, and the port asks nobody who they are.
    """
    command = ["flower-supernode", "--superlink", fleet, "--root-certificates", str(authority)]
    command += ["--auth-supernode-private-key", str(key)]
    asked = ["process", "--superexec-auth-secret-file", str(secret)] if secret else ["subprocess"]
    return [
        *command,
        "--isolation",
        *asked,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--node-config",
        settings(node),
    ]


def superexec(port: int, secret: Path, supernode: int) -> list[str]:
    """Return the command that starts the ClientApps of SuperNode ``supernode``, a process id, and ends with it."""
    command = ["flower-superexec", "--runtime-api-address", f"127.0.0.1:{port}", "--insecure"]
    return [*command, "--superexec-auth-secret-file", str(secret), "--parent-pid", str(supernode)]


def register(public_key: Path) -> list[str]:
    """Return the command that registers a node's public key with the SuperLink."""
    return ["flwr", "supernode", "register", str(public_key), CONNECTION, "--format", "json"]


def submit(app: Path, run_directory: Path) -> list[str]:
    """Return the command that submits the run. Its ``run-dir`` is the server's; nodes have data of their own."""
    # The run directory is prepared: no config is to be read by the server.
    config = settings({"config": "", "run-dir": str(run_directory)})
    return ["flwr", "run", str(app), CONNECTION, "--run-config", config, "--format", "json"]


def show(run_id: str) -> list[str]:
    """Return the command that says how a run fares."""
    return ["flwr", "list", CONNECTION, "--run-id", run_id, "--format", "json"]


def log(run_id: str) -> list[str]:
    """Return the command that prints a run's ServerApp log."""
    return ["flwr", "log", run_id, CONNECTION, "--show"]


def settings(values: NodeConfig) -> str:
    """Return ``key=value`` pairs as ``--node-config`` and ``--run-config`` take them.

    Raises:
        ConfigError: a value holds a quote, a backslash or a line break, which Flower's parser cannot carry.
    """
    for key, value in values.items():
        if isinstance(value, str) and any(mark in value for mark in "\"'\\\n"):
            raise ConfigError(f"{key} is {value!r}; Flower cannot carry quotes, backslashes and line breaks there")
    return " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


def connection(control: str, authority: Path) -> str:
    """Return Flower's ``config.toml`` by which ``flwr`` finds the SuperLink."""
    return (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f"address = {json.dumps(control)}\nroot-certificates = {json.dumps(str(authority))}\n"
    )


def environment(home: Path | None = None) -> dict[str, str]:
    """Return the environment of a deployment's processes: nothing is installed per run, nothing sent to Flower.

    What an engine told its simulated clients is taken out: a deployed node knows only its own node config.

    Args:
        home: a Flower home of its own for a process that shares its host with others, which then runs on one thread;
            None: what the operator's environment says.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in (RUN_DIR, WORLD, DEVICE)}
    shared = {"FLWR_HOME": str(home), "OMP_NUM_THREADS": "1"} if home else {}
    paths = {"PATH": f"{_PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONPATH": search_path()}
    return inherited | shared | QUIET | paths


def program(command: list[str]) -> list[str]:
    """Return ``command`` with its program as installed beside this Python.

    Raises:
        StageError: it is not installed there.
    """
    path = _PROGRAMS / command[0]
    if not path.exists():
        raise StageError(
            f"{command[0]} is not installed beside {sys.executable}; install Flower there: pip install flwr"
        )
    return [str(path), *command[1:]]


def _address(address: str) -> tuple[str, str]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ConfigError(f"address '{address}' must be host:port, e.g. 127.0.0.1:8000")
    return host.strip("[]"), port
