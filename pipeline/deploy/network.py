"""Where the processes of ``deploy local`` listen: on a loopback interface that no other user of the machine can reach.

Flower's control and runtime ports ask nobody who they are: whoever reaches the one runs code on the server and the
nodes, whoever reaches the other takes a waiting task, and with it a model. On Linux everything is therefore started
in a network namespace of its own; only root, and the user who made it, can enter that.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedinverse.words import plain

HOST = "127.0.0.1"
_LISTENS = "0A"  # the state of a socket in /proc/net/tcp
# What holds the namespace: it brings the interface up, says so, and ends when its standard input is closed. The number
# is SIOCSIFFLAGS, the one behind the name IFF_UP.
_HOLDER = (
    "import fcntl, socket, struct, sys\n"
    "with socket.socket() as any: fcntl.ioctl(any, 0x8914, struct.pack('16sh14x', b'lo', 1))\n"
    "print('up', flush=True)\n"
    "sys.stdin.read()\n"
)


@dataclass(frozen=True)
class Network:
    """A loopback interface.

    Attributes:
        within: what a command begins with to run there; nothing: the machine's own loopback.
        holder: process id of what holds it; 0: the machine's own.
        reason: why it is the machine's own, where a private one was asked for.
    """

    within: tuple[str, ...] = ()
    holder: int = 0
    reason: str = ""

    def listens(self, port: int) -> bool:
        """Return whether something accepts connections on ``port``."""
        if not self.holder:
            with socket.socket() as probe:
                probe.settimeout(1.0)
                return probe.connect_ex((HOST, port)) == 0
        tables = (Path(f"/proc/{self.holder}/net/{name}") for name in ("tcp", "tcp6"))  # gRPC's sockets are IPv6 ones
        rows = [
            row.split()
            for table in tables
            if table.exists()
            for row in table.read_text(encoding="ascii").splitlines()[1:]
        ]
        return (f"{port:04X}", _LISTENS) in {(row[1].rpartition(":")[2], row[3]) for row in rows}


@contextmanager
def private_network() -> Iterator[Network]:
    """Make a private network for the body; where this user may not, it gets the machine's own, with the reason."""
    unshare, nsenter = shutil.which("unshare"), shutil.which("nsenter")
    if unshare is None or nsenter is None:
        yield Network(reason="there are no programs 'unshare' and 'nsenter' (Linux's util-linux)")
        return
    # Root needs no user namespace, and would lose its rights to other users' files in one.
    user = [] if os.geteuid() == 0 else ["--user"]
    as_user = ["--map-current-user", "--keep-caps"] if user else []
    command = [unshare, *user, *as_user, "--net", sys.executable, "-I", "-c", _HOLDER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stderr
        if holder.stdout.readline() == b"up\n":
            as_now = ["--preserve-credentials"] if user else []
            within = (nsenter, "--target", str(holder.pid), *user, "--net", *as_now, "--")
            try:
                yield Network(within, holder.pid)
            finally:
                holder.stdin.close()
            return
        said = holder.stderr.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
    yield Network(reason=plain(said[-1], 200))
