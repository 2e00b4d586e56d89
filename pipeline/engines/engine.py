"""Choosing an engine, and the environment every engine runs in."""

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fedinverse.errors import ConfigError
from fedinverse.layout import World
from fedinverse.registry import search_path
from pipeline.engines.environment import environment
from pipeline.engines.ray_place import check_ray
from pipeline.engines.settings import Engine

if TYPE_CHECKING:
    from flwr.serverapp import ServerApp

    from fedinverse.rounds import AfterRound
    from fedinverse.run import Run
    from pipeline.engines.ray_session import RaySession


def run_federation(
    run: "Run",
    world: World,
    engine: Engine,
    profiles: Path | None = None,
    after_round: "Sequence[AfterRound] | None" = None,
    session: "RaySession | None" = None,
) -> None:
    """Run (or resume) the federation of ``run`` in ``world`` on ``engine``.

    Every round goes to the callbacks ``after_round``; None: it is stored, nothing else. With ``profiles``, the ``ray``
    engine's actors run under cProfile and leave their rows in that directory; the other engines have no processes of
    their own making. The ``ray`` engine's actors are those of ``session`` (see ``session_of``); None: they end with
    this federation.

    Raises:
        ConfigError: clients are to train on a GPU and there is none (of a cluster elsewhere, Ray says what it has), or
            Ray cannot start here.
    """
    _check_gpu(engine)
    check_ray(engine)
    os.environ.update(quiet(os.environ))
    if engine.kind == "ray":
        from pipeline.engines.ray_session import RaySession

        with nullcontext(session) if session else RaySession(engine, profile=profiles is not None) as used:
            used.begin()  # what the server imports takes seconds, too
            from pipeline.engines.ray import run_on_ray

            run_on_ray(run, world, used, _server(engine, after_round), profiles)
    elif engine.kind == "local":
        from pipeline.engines.local import run_local

        run_local(run, world, engine, _server(engine, after_round))
    else:
        from fedinverse.flower import DEVICE, RUN_DIR, WORLD
        from pipeline.engines.flower import run_on_flower

        # Its nodes have no config of their own, and its server no run config: both read the environment.
        place = {RUN_DIR: str(run.path.resolve()), WORLD: world, DEVICE: engine.device, "PYTHONPATH": search_path()}
        with environment(place):
            run_on_flower(run, engine, _server(engine, after_round))


def _check_gpu(engine: Engine) -> None:
    if not engine.client_gpus or engine.address:
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"engine.client_gpus is {engine.client_gpus:g}, but this machine has no GPU that PyTorch can use; "
            "set it to 0, or engine.address to a cluster that has some"
        )


def _server(engine: Engine, after_round: "Sequence[AfterRound] | None") -> "ServerApp":
    from server.app import server_app  # Flower reads the environment when it is imported, and sets its own log level

    if engine.kind != "flower":  # the stages show rounds themselves
        logging.getLogger("flwr").setLevel(logging.WARNING)
    # Clients in processes of their own train on while a round is evaluated and stored. In one process they share
    # PyTorch's random numbers with whatever else computes in it: there, one thing at a time.
    return server_app(after_round, beside=engine.kind == "ray")


def session_of(engine: Engine, *, profile: bool = False) -> "AbstractContextManager[RaySession | None]":
    """Return what keeps the engine's processes from one federation to the next; other engines than ``ray`` have none.

    With ``profile``, actors run under cProfile.

    Raises:
        ConfigError: Ray cannot start here, or there is no GPU for the clients.
    """
    if engine.kind != "ray":
        return nullcontext()
    _check_gpu(engine)
    check_ray(engine)
    os.environ.update(quiet(os.environ))  # Ray reads it when it is imported
    from pipeline.engines.ray_session import RaySession

    return RaySession(engine, profile=profile)


def quiet(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with what keeps Flower and Ray to themselves, where it says nothing else."""
    return {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns until it is told
        # Ray listens on every interface and runs what it is sent: only holders of the token may connect. It reads these
        # when it is imported.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        **environment,
    }
