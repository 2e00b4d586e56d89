"""The private images beyond one client's shard. Only the auditor reads them, and the server its utility set.

An import contract forbids this module to the attacker.
"""

import numpy as np
import torch

from fedinverse.run import Run
from fedinverse.shard import Shard


def part_of(run: Run, part: str, *, victim_only: bool = False) -> Shard:
    """Return all images of ``part`` (``train``, ``vault`` or ``reserve``), or only those of the victim classes."""
    manifest = run.split
    chosen = manifest["part"] == part
    if victim_only:
        chosen &= manifest["label"].isin(run.population.victim_classes)
    rows = manifest.loc[chosen, "row"].to_numpy(np.int64)
    pool = run.pools["private"]
    return Shard(pool.tensor(rows), torch.from_numpy(np.asarray(pool.labels)[rows]))
