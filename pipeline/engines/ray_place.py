"""Whether Ray can start on this machine: asked before any work, since Ray itself answers late and with a traceback."""

import os
import sys
from pathlib import Path

from fedinverse.errors import ConfigError
from pipeline.engines.settings import Engine

LONGEST_SOCKET = 107  # bytes of the path of a Unix socket
# What Ray puts behind its temporary directory: the longest of its sockets, with a process id of seven digits.
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
SHARED_MEMORY = Path("/dev/shm")  # where Ray keeps objects
_LOCAL = "or set engine.kind = 'local', which needs no Ray"


def check_ray(engine: Engine) -> None:
    """Refuse an engine of Ray's processes where they cannot start or cannot be reached.

    Raises:
        ConfigError: Ray was imported before the token was there that its processes ask for; its temporary directory is
            too deep for a socket; or shared memory cannot be written.
    """
    if engine.kind == "local" or engine.address:
        return
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise ConfigError(
            f"engine.kind = '{engine.kind}': 'ray' was imported by this program before, and reads only then which "
            "token its processes ask for. Import it after the federation, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN "
            f"before it, {_LOCAL}"
        )
    where = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    over = len(os.fsencode(where.rstrip("/") + _SOCKET)) - LONGEST_SOCKET
    if over > 0:
        raise ConfigError(
            f"engine.kind = '{engine.kind}': Ray's sockets below {where} would have paths {over} bytes too long; set "
            f"RAY_TMPDIR to a shorter directory (/tmp), {_LOCAL}"
        )
    if not os.access(SHARED_MEMORY, os.W_OK):
        raise ConfigError(
            f"engine.kind = '{engine.kind}': Ray keeps the model in {SHARED_MEMORY}, which cannot be written here; "
            f"mount it writable, {_LOCAL}"
        )
