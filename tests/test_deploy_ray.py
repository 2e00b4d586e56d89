"""The ``ray`` engine on a cluster that others started: two Ray nodes, a token, and the models of the local engine."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deploy_federation import WAIT, WORLD, until

from fedinverse.errors import ConfigError
from fedinverse.run import prepare
from pipeline.deploy.fleet import free_ports
from pipeline.deploy.processes import Processes
from pipeline.engines import Engine, run_federation
from pipeline.experiment import resolved

ROOT = Path(__file__).parent.parent
Load = Callable[..., Any]
FEDERATE = """
import sys
from pathlib import Path
from fedinverse.run import Run
from pipeline.engines import Engine, run_federation
if __name__ == "__main__":
    engine = Engine(kind="ray", address=sys.argv[2])
    run_federation(Run(Path(sys.argv[1])), "with_victim", engine)
    import ray
    assert not ray.is_initialized()
"""


def environment(token: str) -> dict[str, str]:
    return os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Start two Ray nodes of one CPU each, which only holders of the token may use; yield the address."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    # A directory of its own: Ray notes the cluster it started last where every later ray.init() would look for it. Its
    # sockets' paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray") as short, Processes() as processes:
        common = ["--block", "--num-cpus", "1", "--object-store-memory", str(80 << 20)]
        head = ["ray", "start", "--head", "--node-ip-address", "127.0.0.1", "--port", str(port), "--temp-dir", short]
        log = Path(short) / "head.log"
        processes.start("the head", [*head, "--include-dashboard", "false", *common], environment("right"), log)
        until("the head listens", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        second = Path(short) / "second.log"
        processes.start("the second", ["ray", "start", "--address", address, *common], environment("right"), second)
        until("the second node is up", lambda: "Ray runtime started" in second.read_text())
        yield address


def federate(run: Path, address: str, token: str) -> "subprocess.CompletedProcess[str]":
    """Run the federation of ``run`` on the cluster in a process of its own: Ray reads the token when imported."""
    command = [sys.executable, "-c", FEDERATE, str(run), address]
    return subprocess.run(
        command, env=environment(token), cwd=run, capture_output=True, text=True, check=False, timeout=WAIT
    )


def test_a_cluster_of_two_nodes_gives_the_same_models_as_local(cluster: str, tiny: Load, tmp_path: Path) -> None:
    # One actor takes one CPU, each node has one: two actors are two nodes.
    table = resolved(tiny(federation={"rounds": 2, "timeout": 120.0}))
    here, there = prepare(tmp_path / "here", table), prepare(tmp_path / "there", table)
    done = federate(there.path, cluster, "right")
    assert done.returncode == 0, done.stderr
    run_federation(here, WORLD, Engine(kind="local"))
    hashes = [[line.sha256 for line in run.recorded_rounds(WORLD)] for run in (here, there)]
    assert len(hashes[0]) == 3
    assert hashes[0] == hashes[1]


def test_who_lacks_the_token_is_refused(cluster: str, tiny: Load, tmp_path: Path) -> None:
    run = prepare(tmp_path / "run", resolved(tiny()))
    done = federate(run.path, cluster, "wrong")
    assert done.returncode != 0
    assert f"engine.address '{cluster}': what listens there refuses this driver" in done.stderr
    assert run.recorded_rounds(WORLD) == []


def test_a_cluster_that_is_not_there_is_named_at_once(tiny: Load, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    engine = Engine(kind="ray", address=f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match=rf"engine\.address '127\.0\.0\.1:{port}': no Ray cluster answers there"):
        run_federation(prepare(tmp_path / "run", resolved(tiny())), WORLD, engine)
