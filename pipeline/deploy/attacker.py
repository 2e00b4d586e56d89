"""The attack worker, a daemon beside a malicious SuperNode: of our federation or another, started by its operator.

It shares two directories with the SuperNode, the spool and the node's own images, and nothing with the server. Beside
somebody else's app the node is started with two environment variables; through them the capture finds its way around
whatever ``ClientApp`` Flower loads (``hook/sitecustomize.py``).
"""

import os
from pathlib import Path

from attacker.attacks.registry import make_attack
from attacker.spool import Spool
from attacker.worker import Plan
from fedinverse.data import open_source
from fedinverse.errors import ConfigError
from fedinverse.models import build, spec_of
from fedinverse.program import command_of
from fedinverse.registry import search_path
from fedinverse.run import requests_of
from pipeline.experiment import Experiment, resolved
from pipeline.ownapp.app import FlowerApp
from pipeline.ownapp.prepare import names_of, public_request
from pipeline.ownapp.settings import FILE, read_settings


def plan_beside(experiment: Experiment, spool: Path, data: Path, classes: int) -> Plan:
    """Return the worker's plan for what a SuperNode captures into ``spool``.

    Args:
        experiment: the operator's own configuration: ``attacks``, ``attacker``, the public half of ``data``, the
            model's name (for the shape of images) and the seed are used.
        spool: where the SuperNode captures; need not exist yet.
        data: the node's own ``images.npy`` and ``labels.npy``.
        classes: number of classes of the federation's model; every participant knows it.

    Raises:
        ConfigError: no attack is configured.
        DataError: the public source is absent.
    """
    if not experiment.attacks:
        raise ConfigError(f"the config '{experiment.name}' has no attacks; add a table [attacks.LABEL] with a kind")
    table, shape = resolved(experiment), spec_of(experiment.model.name).input_shape
    pool = open_source(requests_of(experiment.data, shape, experiment.seed)["public"])
    return Plan(
        spool=str(spool),
        controls=(),
        shard=str(data),
        public=str(pool.path),
        classes=classes,
        store=str(spool.parent / "inversions"),
        seed=experiment.seed,
        attacker=table["attacker"],
        attacks=table["attacks"],
        model=experiment.model.name,
    )


def daemon(path: Path) -> list[str]:
    """Return the command of the worker that watches the spool of the plan at ``path``, until it is told to stop."""
    return command_of("attacker.worker", str(path), "--watch")


CAPTURE = "FEDINVERSE_CAPTURE"
HOOK = Path(__file__).resolve().parent / "hook"
SETTINGS = "capture.json"


def environment(spool: Path) -> dict[str, str]:
    """Return what the operator's SuperNode is started with, so that it captures into ``spool``."""
    return {
        CAPTURE: str(spool.parent / SETTINGS),
        "PYTHONPATH": os.pathsep.join([str(HOOK), search_path()]),
    }


def plan_beside_app(path: Path, spool: Path, data: Path | None, assignments: list[str]) -> Plan:
    """Write the settings of the capture beside ``spool``; return the plan of the worker that inverts what comes.

    Args:
        path: directory of the app, or its audit.toml: ``model``, ``inputs``, ``state``, ``public``, ``attack`` and
            ``schedule`` are used; clients, data and victim are not known here.
        spool: where the node keeps what it is sent.
        data: the node's own images.npy and labels.npy; None: the attacker has none.
        assignments: over the file's.

    Raises:
        FedInverseError: the file or the model does not fit; names the key.
    """
    file = path if path.is_file() else path / FILE
    settings = read_settings(file, assignments)
    app = FlowerApp.read(file.parent / settings.app)
    app.on_path()
    network = build(settings.declaration.name, settings.class_count, seed=settings.seed)
    about: dict[str, str | int | float] = {
        "model": settings.declaration.name,
        "width": 1.0,
        "classes": settings.class_count,
    }
    Spool(str(spool), about, names_of(settings, network), settings.record).write(spool.parent / SETTINGS)
    attack = make_attack(settings.attack, "attack", FILE)
    return Plan(
        spool=str(spool),
        controls=(),
        shard="" if data is None else str(data),
        public=str(open_source(public_request(settings, spool.parent / "public")).path),
        classes=settings.class_count,
        store=str(spool.parent / "inversions"),
        seed=settings.seed,
        attacker=settings.schedule.model_dump(mode="json"),
        attacks={attack.name: attack.table},
        model=settings.declaration.name,
    )
