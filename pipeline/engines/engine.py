"""Choosing an engine, and the environment every engine runs in."""

import logging
import os
import secrets
from pathlib import Path

from fedinverse.flower import RUN_DIR, WORLD
from fedinverse.layout import World
from fedinverse.registry import search_path
from fedinverse.run import Run
from pipeline.engines.settings import Engine


def run_federation(run: Run, world: World, engine: Engine, profiles: Path | None = None) -> None:
    """Run (or resume) the federation of ``run`` in ``world`` on ``engine``.

    With ``profiles``, the ``ray`` engine's actors run under cProfile and leave their rows in that directory; the other
    engines have no processes of their own making.
    """
    # Where a client has no node config of its own (Flower's runtime), it reads these; children inherit them.
    os.environ[RUN_DIR], os.environ[WORLD] = str(run.path.resolve()), world
    os.environ["PYTHONPATH"] = search_path()  # Ray hands on the script's directory alone
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns until it is told
    # Ray listens on every interface and runs what it is sent: only holders of the token may connect. It reads these
    # when it is imported.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    if engine.kind != "flower":  # the stages show rounds themselves
        logging.getLogger("flwr").setLevel(logging.WARNING)
    if engine.kind == "local":
        from pipeline.engines.local import run_local

        run_local(run, world)
    elif engine.kind == "ray":
        from pipeline.engines.ray import run_on_ray

        run_on_ray(run, world, engine, profiles)
    else:
        from pipeline.engines.flower import run_on_flower

        run_on_flower(run, engine)
