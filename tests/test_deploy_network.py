"""The ports of ``deploy local`` lie in a network of its own, which no other user of the machine can reach."""

import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.deploy.fleet import free_ports
from pipeline.deploy.network import HOST, Network, private_network

LISTEN = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); sys.stdin.read()"


def reached(port: int) -> bool:
    """Return whether this process, or any other of the machine, reaches ``port`` of the loopback interface."""
    with suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


def test_a_port_in_a_private_network_is_reached_from_inside_alone() -> None:
    (port,) = free_ports(1)
    with private_network() as network:
        if network.reason:  # a container without the right: then it is said, see below
            assert network == Network(reason=network.reason)
            return
        command = [*network.within, sys.executable, "-c", LISTEN, str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as server:
            deadline = time.monotonic() + 30
            while not network.listens(port):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert not reached(port)
            assert not Network().listens(port)
            ask = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
            subprocess.run([*network.within, sys.executable, "-c", ask], check=True)
            assert server.stdin is not None
            server.stdin.close()
    assert not Path(f"/proc/{network.holder}").exists()


def test_where_the_system_has_no_private_network_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with private_network() as network:
        assert network.within == ()
        assert "unshare" in network.reason
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    refusing.with_name("nsenter").symlink_to(refusing)
    with private_network() as network:
        assert network.within == ()
        assert "Operation not permitted" in network.reason
