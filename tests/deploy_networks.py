"""Networks for a deployment test: namespaces with addresses of their own, or loopback addresses behind relays.

Both can say afterwards which bytes went over the wire between the nodes and the SuperLink.
"""

import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

PORT = 9092  # the SuperLink's fleet port on a host of its own
_SNIFF = """
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as wire, open(sys.argv[1], "wb", 0) as file:
    while True:
        packet = wire.recv(1 << 17)
        file.write(len(packet).to_bytes(4, "big") + packet)
"""


class Namespaces(ExitStack):
    """One network namespace per host, all on one bridge: 10.99.0.1 is the server, then one per node."""

    def __init__(self, directory: Path, nodes: int) -> None:
        super().__init__()
        self._tag = f"fi{os.getpid() % 100000}"
        self._file = directory / "packets"
        self.server = "10.99.0.1"
        self.addresses = [f"10.99.0.{number + 2}" for number in range(nodes)]
        self.links = [f"{self.server}:{PORT}"] * nodes  # what each node is told
        self.fleet, self.control = f"{self.server}:{PORT}", "127.0.0.1:8000"

    @staticmethod
    def missing() -> str:
        """Return what this machine lacks; empty: nothing."""
        if shutil.which("ip") is None:
            return "there is no 'ip' command (iproute2)"
        name = f"fi{os.getpid() % 100000}try"
        for command in (["netns", "add", name], ["-n", name, "link", "add", "br0", "type", "bridge"]):
            tried = subprocess.run(["ip", *command], capture_output=True, text=True, check=False)
            if tried.returncode:
                break
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        said = tried.stderr.strip()
        return f"network namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN (root): {said}" if tried.returncode else ""

    def __enter__(self) -> "Namespaces":
        super().__enter__()
        switch = self._namespace("switch")
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for host, address in (("server", self.server), *((f"n{n}", at) for n, at in enumerate(self.addresses))):
            name = self._namespace(host)
            _ip("-n", switch, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", switch, "link", "set", host, "master", "br0", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        sniffer = subprocess.Popen([*self.at("server"), sys.executable, "-c", _SNIFF, str(self._file)])
        self.callback(_end, sniffer)
        deadline = time.monotonic() + 30
        while not self._file.exists():
            assert time.monotonic() < deadline, "the packet socket does not open"
            time.sleep(0.05)
        return self

    def _namespace(self, host: str) -> str:
        name = f"{self._tag}{host}"
        _ip("netns", "add", name)
        self.callback(_ip, "netns", "delete", name)
        _ip("-n", name, "link", "set", "lo", "up")
        return name

    def at(self, host: str) -> list[str]:
        """Return the command that runs the rest of the line on ``host``: ``server``, ``n0``, ``n1`` …"""
        return [str(shutil.which("ip")), "netns", "exec", f"{self._tag}{host}"]

    def wire(self) -> dict[str, bytes]:
        """Return the TCP payload that each node's address sent to the fleet port or was sent by it."""
        received: dict[str, bytearray] = {address: bytearray() for address in self.addresses}
        content, at = self._file.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 4], "big")
            packet, at = content[at + 4 : at + 4 + size], at + 4 + size
            if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
                continue
            head = (packet[0] & 15) * 4
            ports = {int.from_bytes(packet[head + place : head + place + 2], "big") for place in (0, 2)}
            ends = {socket.inet_ntoa(packet[place : place + 4]) for place in (12, 16)} - {self.server}
            if PORT in ports and ends and (node := ends.pop()) in received:
                received[node] += packet[head + (packet[head + 12] >> 4) * 4 : int.from_bytes(packet[2:4], "big")]
        return {node: bytes(payload) for node, payload in received.items()}


class Relays(ExitStack):
    """Every node reaches the SuperLink, on 127.0.0.2, through a relay with an address of its own: 127.0.0.3 and on."""

    def __init__(self, directory: Path, nodes: int) -> None:
        super().__init__()
        del directory
        self.server = "127.0.0.2"
        self.addresses = [f"127.0.0.{number + 3}" for number in range(nodes)]
        port, control = _free(self.server), _free(self.server)
        self.fleet, self.control = f"{self.server}:{port}", f"{self.server}:{control}"
        self._relays = [_Relay(address, (self.server, port)) for address in self.addresses]
        self.links = [f"{address}:{relay.server_address[1]}" for address, relay in zip(self.addresses, self._relays)]  # noqa: B905

    def __enter__(self) -> "Relays":
        super().__enter__()
        for relay in self._relays:
            threading.Thread(target=relay.serve_forever, daemon=True).start()
            self.callback(relay.server_close)
            self.callback(relay.shutdown)
        return self

    def at(self, host: str) -> list[str]:
        """Return no prefix: every host is this one."""
        del host
        return []

    def wire(self) -> dict[str, bytes]:
        """Return what passed each node's relay, both ways."""
        return {address: bytes(relay.passed) for address, relay in zip(self.addresses, self._relays, strict=True)}


class _Relay(socketserver.ThreadingTCPServer):
    """Passes connections on to ``to`` and keeps what passes."""

    daemon_threads, block_on_close = True, False

    def __init__(self, address: str, to: tuple[str, int]) -> None:
        super().__init__((address, 0), _Connection)
        self.to, self.passed, self.lock = to, bytearray(), threading.Lock()


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Relay)
        with suppress(OSError), socket.create_connection(self.server.to, 10) as onward:
            onward.settimeout(None)
            back = threading.Thread(target=self._pump, args=(onward, self.request), daemon=True)
            back.start()
            self._pump(self.request, onward)
            back.join(10)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        assert isinstance(self.server, _Relay)
        with suppress(OSError):
            while data := source.recv(1 << 16):
                with self.server.lock:
                    self.server.passed += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def _free(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(30)
