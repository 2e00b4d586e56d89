"""What the auditor is shown: reconstructions on disk, each with the arm it belongs to. Files are all it shares with
the attacker; no code."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedinverse.errors import IntegrityError
from fedinverse.layout import World
from fedinverse.storage import load_weights


@dataclass(frozen=True)
class Exhibit:
    """Reconstructions of one arm.

    Attributes:
        arm: see ``auditor.arms``.
        world: where the target comes from.
        round: of the target.
        attack: label of the attack.
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N].
        confidence: float32 [N], the target's probability of the label: the attacker's own ranking.
        failed: bool [N]; such an image counts as a miss.
    """

    arm: str
    world: World
    round: int
    attack: str
    images: Tensor
    labels: Tensor
    confidence: Tensor
    failed: Tensor


def read_exhibit(path: Path, arm: str, world: World, server_round: int, attack: str) -> Exhibit:
    """Read one arm's reconstructions.

    Raises:
        IntegrityError: damaged file, or an array missing; names it.
    """
    arrays, _ = load_weights(path, finite=False)
    try:
        images, labels, confidence, failed = (
            torch.from_numpy(arrays[name]) for name in ("images", "labels", "confidence", "failed")
        )
    except KeyError as error:
        raise IntegrityError(f"{path}: holds no array {error}; it is not a file of reconstructions") from error
    return Exhibit(arm, world, server_round, attack, images, labels, confidence, failed)
