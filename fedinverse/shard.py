"""One client's own images: all that a client, honest or malicious, may read of the private data."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedinverse.errors import DataError, IntegrityError
from fedinverse.run import Run, World
from fedinverse.split import held_by
from fedinverse.storage import load_array


@dataclass(frozen=True)
class Shard:
    """Images of one client.

    Attributes:
        images: uint8 [N, C, H, W], channels-last.
        labels: int64 [N].
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def shard_of(run: Run, client: int, world: World) -> Shard:
    """Return the images of ``client``; in the world ``without_victim`` the victim classes are taken out."""
    manifest = run.split
    mine = held_by(manifest, client)
    if world == "without_victim":
        mine = mine & ~manifest["label"].isin(run.population.victim_classes).to_numpy(bool)
    rows = manifest.loc[mine, "row"].to_numpy(np.int64)
    pool = run.pools["private"]
    return Shard(pool.tensor(rows), torch.from_numpy(np.asarray(pool.labels)[rows]))


def open_shard(path: Path) -> Shard:
    """Read a node's own data directory: ``images.npy`` uint8 [N, C, H, W] and ``labels.npy`` int64 [N]."""
    try:
        images, labels = load_array(path / "images.npy"), load_array(path / "labels.npy")
    except IntegrityError as error:
        raise DataError(f"{path}: no readable images.npy and labels.npy ({error})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{path}: images {images.dtype} {images.shape} with labels {labels.shape}; "
            "uint8 (N, C, H, W) and (N,) are needed"
        )
    channels_last = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    return Shard(channels_last, torch.from_numpy(labels.astype(np.int64)))
