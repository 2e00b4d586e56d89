"""The private images beyond one client's shard. Only the auditor reads them, and the server its utility set.

An import contract forbids this module to the attacker.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedinverse.client_data import shard_of
from fedinverse.layout import WITH_VICTIM
from fedinverse.run import Run
from fedinverse.shard import Shard
from fedinverse.split import held_alone, held_by


@dataclass(frozen=True)
class Holdings:
    """Training images that reconstructions are held against, by who holds them.

    Attributes:
        victim: the victim's, of their classes; of a victim who shares their classes, what they alone hold.
        others: of shared classes, what neither the victim nor an attacker holds; None: the classes are the victim's.
        attackers: each attacker's own.
    """

    victim: Shard
    others: Shard | None
    attackers: tuple[Shard, ...]


def holdings_of(run: Run) -> Holdings:
    """Return the training images of the victim, of others and of the attackers of ``run``."""
    manifest, population = run.split, run.population
    attackers = tuple(shard_of(run, client, WITH_VICTIM) for client in population.attackers)
    victims = ((manifest["part"] == "train") & manifest["label"].isin(run.victim_classes)).to_numpy(np.bool_)
    others = None
    if population.shares_classes:
        parties = [held_by(manifest, client) for client in (population.victim, *population.attackers)]
        others = victims & ~np.logical_or.reduce(parties)
        victims = victims & held_alone(manifest, population.victim, population.clients)
    return Holdings(_shard(run, victims), None if others is None else _shard(run, others), attackers)


def part_of(run: Run, part: str, *, victim_only: bool = False) -> Shard:
    """Return all images of ``part`` (``train``, ``vault`` or ``reserve``), or only the victim's.

    The victim's are those of their classes; of a victim who shares their classes, what they alone hold.
    """
    manifest, population = run.split, run.population
    chosen = (manifest["part"] == part).to_numpy(np.bool_)
    if victim_only:
        chosen = chosen & manifest["label"].isin(run.victim_classes).to_numpy(np.bool_)
        if population.shares_classes and part == "train":
            chosen = chosen & held_alone(manifest, population.victim, population.clients)
    return _shard(run, chosen)


def _shard(run: Run, chosen: NDArray[np.bool_]) -> Shard:
    rows = run.split.loc[chosen, "row"].to_numpy(np.int64)
    pool = run.pools["private"]
    return Shard(pool.tensor(rows), torch.from_numpy(np.asarray(pool.labels)[rows]))
