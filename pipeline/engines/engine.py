"""Choosing an engine, and what its section of the configuration says."""

import logging
import os
import secrets
from typing import Literal

from pydantic import Field

from fedinverse.config import Section
from fedinverse.flower import RUN_DIR, WORLD
from fedinverse.run import Run, World

EngineName = Literal["ray", "local", "flower"]


class Engine(Section):
    """What runs the clients of a simulation."""

    kind: EngineName = Field("ray", description="ray: actors; local: in process; flower: Flower's own runtime")
    actors: int = Field(0, ge=0, description="ray: client processes, one thread each; 0: one per CPU core")
    address: str = Field("", description="ray: address of a running cluster; empty: start one here")
    client_cpus: float = Field(1.0, gt=0, description="ray: CPUs of an honest client's actor")
    client_gpus: float = Field(0.0, ge=0, description="ray: share of a GPU of an honest client's actor")


def run_federation(run: Run, world: World, engine: Engine) -> None:
    """Run (or resume) the federation of ``run`` in ``world`` on ``engine``."""
    # Where a client has no node config of its own (Flower's runtime), it reads these; children inherit them.
    os.environ[RUN_DIR], os.environ[WORLD] = str(run.path.resolve()), world
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

        run_on_ray(run, world, engine)
    else:
        from pipeline.engines.flower import run_on_flower

        run_on_flower(run, engine)
