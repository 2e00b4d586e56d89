"""The attack worker as a daemon beside a malicious SuperNode: started by its operator, from the operator's own config.

It shares two directories with the SuperNode, the spool and the node's own images, and nothing with the server.
"""

import sys
from pathlib import Path

from attacker.worker import Plan
from fedinverse.data import Request, open_source
from fedinverse.errors import ConfigError
from fedinverse.models import spec_of
from pipeline.experiment import Experiment, resolved


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
    table, public = resolved(experiment), experiment.data
    shape = spec_of(experiment.model.name).input_shape
    pool = open_source(Request(public.public, shape, public.public_root, public.public_limit, experiment.seed))
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
    return [sys.executable, "-m", "attacker.worker", str(path), "--watch"]
