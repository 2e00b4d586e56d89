"""The private images beyond one client's shard. Only the auditor reads them, and the server its utility set.

An import contract forbids this module to the attacker.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from fedinverse.run import Run
from fedinverse.shard import Shard
from fedinverse.split import held_by


def part_of(run: Run, part: str, *, victim_only: bool = False) -> Shard:
    """Return all images of ``part`` (``train``, ``vault`` or ``reserve``), or only the victim's.

    The victim's are those of their classes; of a victim who shares their classes, what they alone hold.
    """
    manifest = run.split
    chosen = (manifest["part"] == part).to_numpy(np.bool_)
    if victim_only:
        chosen = chosen & manifest["label"].isin(run.victim_classes).to_numpy(np.bool_)
        if run.population.shares_classes and part == "train":
            chosen = chosen & _alone(run)
    return _shard(run, chosen)


def held_by_others(run: Run) -> Shard:
    """Return the training images of the victim's classes that neither they nor an attacker holds."""
    manifest, population = run.split, run.population
    chosen = (manifest["part"] == "train").to_numpy(np.bool_) & manifest["label"].isin(run.victim_classes).to_numpy()
    for client in (population.victim, *population.attackers):
        chosen = chosen & ~held_by(manifest, client)
    return _shard(run, chosen)


def _alone(run: Run) -> NDArray[np.bool_]:
    """Return which rows the victim holds and nobody else."""
    population, victim = run.population, run.population.victim
    if "borrowers" not in run.split:  # every image is at one client
        return held_by(run.split, victim)
    others = [held_by(run.split, client) for client in range(population.clients) if client != victim]
    alone: NDArray[np.bool_] = held_by(run.split, victim) & ~np.logical_or.reduce(others)
    return alone


def _shard(run: Run, chosen: NDArray[np.bool_]) -> Shard:
    rows = run.split.loc[chosen, "row"].to_numpy(np.int64)
    pool = run.pools["private"]
    return Shard(pool.tensor(rows), torch.from_numpy(np.asarray(pool.labels)[rows]))
