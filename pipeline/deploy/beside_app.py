"""Beside a SuperNode of somebody else's federation: what its operator sets, and the worker that inverts what it keeps.

Their fab runs as it is. The node's process is started with two environment variables; through them the capture finds
its way around whatever ``ClientApp`` Flower loads (``hook/sitecustomize.py``).
"""

import os
from pathlib import Path

from attacker.attacks.registry import make_attack
from attacker.spool import Spool
from attacker.worker import Plan
from fedinverse.data import open_source
from fedinverse.models import build
from fedinverse.registry import search_path
from pipeline.ownapp.app import FlowerApp
from pipeline.ownapp.prepare import names_of, public_request
from pipeline.ownapp.settings import FILE, read_settings

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
        attacks={attack.name: {"kind": attack.name, **attack.settings.model_dump(mode="json")}},
        model=settings.declaration.name,
    )
