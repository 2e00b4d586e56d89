"""A process that has imported what an actor needs, and forks once for every worker that Ray starts on this machine.

The imports take two seconds of each actor's start. Here they are made once, while the program makes its own, and the
actors share their memory. Whoever asks (``ray_worker.fork_instead``) sends how it was started through a socket; the
fork goes on as that process, and the socket is closed when it ends.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from fedinverse.program import command_of
from fedinverse.registry import search_path
from pipeline.engines.ray_worker import SOCKET, STARTED

_ALONE = 1.0  # seconds after which a server that hears nothing looks whether its parent still lives
_PROGRAM = "pipeline.engines.forks"


class ForkServer:
    """The process, from when this is made until ``end``.

    Raises:
        OSError: it cannot be started, or its socket has no place.

    Attributes:
        path: of its socket, which nobody else's processes reach; for ``FEDINVERSE_FORKS`` of those who are to ask it.
    """

    def __init__(self) -> None:
        where = os.environ.get("RAY_TMPDIR", "")  # known to be short enough for the path of a socket
        place = where if where and Path(where).is_dir() else None
        self._directory = tempfile.TemporaryDirectory(prefix="fedinverse-", dir=place)
        self.path = str(Path(self._directory.name) / "forks")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.path)
            listening.listen()
            self._process = subprocess.Popen(
                command_of(_PROGRAM, str(listening.fileno()), str(os.getpid())),
                pass_fds=[listening.fileno()],
                # First what a fork does not change: from there Ray finds the memory of a process's title.
                env={SOCKET: self.path, **os.environ, "PYTHONPATH": search_path()},
                stdin=subprocess.DEVNULL,
                process_group=0,  # an interrupt at the keyboard is for the program, which ends it
            )

    def end(self) -> None:
        """End it, if it has not ended; its forks go on."""
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()


def _serve(listening: socket.socket, parent: int) -> tuple[list[str], socket.socket]:
    """Fork for everybody who asks, while process ``parent`` lives.

    Returns in the forks alone: what each is to run, and what its end is to close.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork here
    listening.settimeout(_ALONE)
    while os.getppid() == parent:
        with suppress(TimeoutError):
            asking, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return _become(asking), asking
            asking.close()
    os._exit(0)


def _become(asking: socket.socket) -> list[str]:
    """Take over output, environment and directory of the process at the other end; return what it is to run."""
    import numpy as np  # here it is imported by now; the program that starts this process need not wait for it

    asking.settimeout(None)
    head, output, _, _ = socket.recv_fds(asking, 8, 2)
    about, more = b"", head
    while more and len(about) < int.from_bytes(head, "big"):
        more = asking.recv(1 << 16)
        about += more
    if not more:  # whoever asked has died meanwhile
        os._exit(1)
    for number, handle in enumerate(output, 1):
        os.dup2(handle, number)
        os.close(handle)
    asked = json.loads(about)
    environment: dict[str, str] = asked["environment"]
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    # What is there already is not set again, the first of it in particular (see above).
    os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
    os.chdir(asked["directory"])
    random.seed()  # or all forks would draw the same numbers
    np.random.seed()
    asking.sendall(STARTED)
    words: list[str] = asked["argv"]
    return words


if __name__ == "__main__":
    import gc
    import runpy

    import pipeline.engines.client_process  # noqa: F401 - what the forks need

    gc.freeze()  # nobody looks at it again, or its pages would be copied into every fork
    sys.argv, held = _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    runpy.run_path(sys.argv[0], run_name="__main__")
