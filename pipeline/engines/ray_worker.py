"""What Ray starts as a worker here: the same worker in one process, where Ray's own script makes two of it.

Ray's script imports Ray, has a shell start Python anew, and that imports Ray again. The first of them is for runtime
environments, of which this engine uses none; where there is one, or the script takes other options than it did, it is
run after all. Where a process is there to fork from (``forks``), the worker is a fork of that. Nothing but Python's own
library is imported here: Ray waits for it.
"""

import sys

if __name__ == "__main__":
    del sys.path[0]  # this directory, where 'ray' is another module

import argparse
import json
import os
import runpy
import socket
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

SOCKET = "FEDINVERSE_FORKS"  # environment variable: where the socket of the process is that forks
STARTED = b"1"  # what a fork says first
_OPTIONS = ("--serialized-runtime-env-context", "--language")  # of Ray's script; all others are its worker's


def ray_script() -> Path:
    """Return the script by which Ray starts a worker; Ray itself is not imported."""
    place = find_spec("ray")
    assert place is not None
    assert place.origin is not None
    return Path(place.origin).parent / "_private" / "workers" / "setup_worker.py"


def takes_known_options(script: Path) -> bool:
    """Return whether ``script`` takes the options known here and no others."""
    source = script.read_text(encoding="utf-8")
    return source.count("add_argument(") == len(_OPTIONS) and all(f'"{option}"' in source for option in _OPTIONS)


def _is_plain(environment: str | None) -> bool:
    """Return whether a runtime environment changes nothing of how a worker is started."""
    about = json.loads(environment or "{}")
    return not any(about.get(key) for key in ("env_vars", "command_prefix", "override_worker_entrypoint"))


def fork_instead(path: str, words: list[str]) -> bool:
    """Have the server at ``path`` run ``words`` with this process's environment and output, and wait for the end of it.

    Returns:
        Whether it did; False: there is no server any more, and nothing was started.
    """
    about = json.dumps({"argv": words, "environment": dict(os.environ), "directory": str(Path.cwd())}).encode()
    with suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.connect(path)
        socket.send_fds(asking, [len(about).to_bytes(8, "big")], [1, 2])
        asking.sendall(about)
        if asking.recv(1) == STARTED:
            asking.recv(1)  # nothing is sent any more: this returns when the fork has ended
            return True
    return False


def main() -> None:
    """Become the worker that Ray asks for, or wait for the end of the fork that has."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in _OPTIONS:
        parser.add_argument(option)
    known, words = parser.parse_known_args()
    script, forks = ray_script(), os.environ.get(SOCKET, "")
    plain = known.language == "PYTHON" and _is_plain(known.serialized_runtime_env_context)
    if not (plain and words[0].endswith("default_worker.py") and takes_known_options(script)):
        sys.argv[0] = str(script)
    elif forks and fork_instead(forks, words):
        return
    else:
        sys.argv = words
    from fedinverse.program import collect_rarely

    collect_rarely()
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
