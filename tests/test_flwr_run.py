"""``flwr run .``: what Flower users try first, with a SuperLink of our own so that no daemon is left behind."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedinverse.run import Run
from fedinverse.storage import read_jsonl

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Run a SuperLink in simulation mode; yield the environment in which ``flwr run . test`` reaches it."""
    control, fleet = _free_port(), _free_port()
    home = tmp_path / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "test"\n[superlink.test]\naddress = "127.0.0.1:{fleet}"\ninsecure = true\n'
    )
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--control-api-address", f"127.0.0.1:{control}", "--host", "127.0.0.1", "--port", str(fleet)]
    with (tmp_path / "superlink.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", fleet)) == 0:
                break
        assert process.poll() is None, (tmp_path / "superlink.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield environment
    process.terminate()
    process.wait(timeout=30)


def test_flwr_run_federates_and_the_malicious_node_captures(superlink: dict[str, str], tmp_path: Path) -> None:
    directory = tmp_path / "run"
    overrides = f'run-dir="{directory}" num-server-rounds=2 learning-rate=0.02'
    command = ["flwr", "run", ".", "test", "--stream", "--run-config", overrides]
    command += ["--federation-config", "num-supernodes=4"]
    done = subprocess.run(command, cwd=ROOT, env=superlink, capture_output=True, text=True, check=False, timeout=300)
    # `flwr run --stream` ends with 0 even when the run failed: ask the SuperLink.
    listed = subprocess.run(
        ["flwr", "list", "test", "--format", "json"],
        cwd=ROOT, env=superlink, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    runs: list[dict[str, Any]] = json.loads(listed.stdout)["runs"]
    assert [run["status"] for run in runs] == ["finished:completed"], done.stdout + done.stderr
    run = Run(directory)
    assert run.population.clients == 4
    assert [line.round for line in run.recorded_rounds("with_victim")] == [0, 1, 2]
    receipts = read_jsonl(run.files.attacker.spool("with_victim") / "receipts.jsonl")
    sent = {line["sha256"] for line in read_jsonl(run.files.server.ledger("with_victim")) if line["partition"] == 3}
    assert {line["sha256"] for line in receipts} == sent
