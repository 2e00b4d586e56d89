"""Reference models that the attacker can train itself: on its own images, and on public ones of classes that both know.

LiRA and RMIA compare the target with models that never saw the candidate. A participant cannot train on the victim's
data, so it trains on halves of what it holds: its shard, and those public images whose class has the name of a class of
the federation. Where the candidates' classes are in neither, such a model knows nothing of them; whoever reads the
scores must be told (``Holdings.lacking``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedinverse.config import Section
from fedinverse.data import Pool
from fedinverse.data.source import unit
from fedinverse.errors import ConfigError
from fedinverse.folders import spelling
from fedinverse.models import Classifier, build
from fedinverse.optimisers import SGD
from fedinverse.seeds import derive, generator, seeded
from fedinverse.shard import Shard

FEWEST = 4  # images that a reference model can be trained on: halves of two, so that BatchNorm has a batch


class References(Section):
    """How the attacker trains its reference models."""

    count: int = Field(4, ge=0, le=256, description="reference models that the attacker trains; 0: none")
    epochs: int = Field(20, ge=1, description="epochs of each, on half of the attacker's images")
    batch_size: int = Field(16, ge=2, description="images per step")
    lr: float = Field(0.02, gt=0, description="learning rate of SGD with momentum 0.9, annealed to zero by a cosine")


@dataclass(frozen=True)
class Holdings:
    """What the attacker may train references on.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N], classes of the federation.
    """

    images: Tensor
    labels: Tensor

    def lacking(self, labels: Tensor) -> tuple[int, ...]:
        """Return the classes among ``labels`` of which no image is held."""
        return tuple(sorted(set(labels.tolist()) - set(self.labels.tolist())))


def holdings(shard: Shard, public: Pool | None, class_names: Sequence[str]) -> Holdings:
    """Return the attacker's shard with those public images whose class bears the name of one of ``class_names``.

    Args:
        shard: the attacker's own images; may be empty.
        public: its public images; None: none.
    """
    held = [(shard.images, shard.labels)] if len(shard) else []
    if public is not None:
        known = {spelling(name): number for number, name in enumerate(class_names)}
        numbers = np.array([known.get(spelling(name), -1) for name in public.class_names], np.int64)[public.labels]
        rows = np.flatnonzero(numbers >= 0)
        if len(rows):
            held.append((public.tensor(rows), torch.from_numpy(numbers[rows])))
    if not held:
        return Holdings(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    return Holdings(torch.cat([images for images, _ in held]), torch.cat([labels for _, labels in held]))


def train_references(
    held: Holdings, network: tuple[str, int, float], settings: References, seed: int, device: str | torch.device
) -> list[Classifier]:
    """Return ``settings.count`` models of the target's architecture, each trained on a random half of ``held``.

    Args:
        held: what the attacker holds.
        network: (name, classes, width) of the target.

    Raises:
        ConfigError: the attacker holds too few images.
    """
    if settings.count == 0:
        return []
    if len(held.labels) < FEWEST:
        raise ConfigError(
            f"the attacker holds {len(held.labels)} images, too few to train reference models on; set "
            "membership.references.count = 0, or give it more"
        )
    seeds = (derive(seed, "reference", number) for number in range(settings.count))
    return [_trained(held, network, settings, each, device) for each in seeds]


def _trained(
    held: Holdings, network: tuple[str, int, float], settings: References, seed: int, device: str | torch.device
) -> Classifier:
    name, classes, width = network
    model = build(name, classes, width, derive(seed, "weights")).to(device).train()
    random = generator(seed, "batches")
    half = torch.randperm(len(held.labels), generator=random)[: len(held.labels) // 2]
    optimizer = SGD(model.parameters(), settings.lr, momentum=0.9)
    annealed = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    with seeded(derive(seed, "layers"), device):
        for _ in range(settings.epochs):
            for rows in half[torch.randperm(len(half), generator=random)].split(settings.batch_size):
                if len(rows) < 2:  # BatchNorm cannot train on one image
                    continue
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(unit(held.images[rows], device)), held.labels[rows].to(device)).backward()
                optimizer.step()
            annealed.step()
    return model.eval()
