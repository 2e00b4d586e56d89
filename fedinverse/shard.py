"""One client's own images: all that a client, honest or malicious, may read of the private data."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedinverse.errors import DataError, IntegrityError
from fedinverse.layout import ShardFiles
from fedinverse.storage import load_array, save_array


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

    @classmethod
    def empty(cls) -> "Shard":
        """Return a shard without images."""
        return cls(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))


def save_shard(directory: Path, shard: Shard) -> None:
    """Write a shard as a node's own data directory."""
    files = ShardFiles(directory)
    save_array(files.images, shard.images.numpy())
    save_array(files.labels, shard.labels.numpy())


def open_shard(directory: Path) -> Shard:
    """Read a node's own data directory: ``images.npy`` uint8 [N, C, H, W] and ``labels.npy`` int64 [N]."""
    files = ShardFiles(directory)
    try:
        images, labels = load_array(files.images), load_array(files.labels)
    except IntegrityError as error:
        raise DataError(f"{directory}: no readable images.npy and labels.npy ({error})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{directory}: images {images.dtype} {images.shape} with labels {labels.shape}; "
            "uint8 (N, C, H, W) and (N,) are needed"
        )
    channels_last = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    return Shard(channels_last, torch.from_numpy(labels.astype(np.int64)))
