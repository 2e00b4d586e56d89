"""The images that a client of a simulated run holds, out of the split manifest."""

import numpy as np
import torch

from fedinverse.canaries import COLUMN, NONE, PART
from fedinverse.layout import WITH_VICTIM, World, is_control
from fedinverse.run import Run
from fedinverse.shard import Shard
from fedinverse.split import held_by


def pooled_shard(run: Run) -> Shard:
    """Return the images of all malicious clients: those who pool their captures pool these too."""
    shards = [shard_of(run, client, WITH_VICTIM) for client in run.population.attackers]
    if len(shards) == 1:
        return shards[0]
    images = torch.cat([shard.images for shard in shards]).contiguous(memory_format=torch.channels_last)
    return Shard(images, torch.cat([shard.labels for shard in shards]))


def shard_of(run: Run, client: int, world: World) -> Shard:
    """Return the images of ``client``, canaries with their random labels.

    In a world without the victim the victim's classes and all canaries are taken out; of a victim who shares their
    classes, all they hold: they are not asked to take part there.
    """
    manifest = run.split
    held = held_by(manifest, client)
    if is_control(world):
        gone = (manifest["label"].isin(run.population.victim_classes) | (manifest["part"] == PART)).to_numpy(bool)
        held = held & ~(gone | (run.population.shares_classes and client == run.population.victim))
    rows = manifest.loc[held, "row"].to_numpy(np.int64)
    pool = run.pools["private"]
    labels = np.asarray(pool.labels)[rows]
    if COLUMN in manifest:
        planted = manifest.loc[held, COLUMN].to_numpy(np.int64)
        labels = np.where(planted == NONE, labels, planted)
    return Shard(pool.tensor(rows), torch.from_numpy(labels))
