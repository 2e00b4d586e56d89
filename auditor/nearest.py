"""What the attacker would keep of every attacked class, and the images nearest to it in the task-free embedding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.evaluators.embedding import Embedding
from auditor.evidence import Exhibit
from auditor.metrics.distances import nearest, nearest_of_class
from fedinverse.shard import Shard

KINDS = {
    "made": ("reconstruction", "Reconstruction of class {}"),
    "train": ("training", "Nearest image of class {} that the victim trained on"),
    "reserve": ("reserve", "Nearest image of class {} that nobody trained on"),
    "public": ("attacker's", "Image the attacker holds, nearest to the reconstruction of class {}"),
}
"""Kinds of pictures: caption, and alternative text for a class's name."""


@dataclass(frozen=True)
class BestReconstruction:
    """One class.

    Attributes:
        label: the class.
        images: kind (see ``KINDS``) -> uint8 [C, H, W]; a kind without any image is absent.
        distance: kind -> E2 distance to the reconstruction, 0 alike, 1.41 unrelated.
    """

    label: int
    images: dict[str, Tensor]
    distance: dict[str, float]

    @property
    def guarded(self) -> bool:
        """Whether a victim's image is nearer than every image the attacker holds (copy guard)."""
        return self.distance.get("train", torch.inf) < self.distance.get("public", torch.inf)


@dataclass(frozen=True)
class Featured:
    """Images with their E2 features [N, F], made once for all attacks."""

    shard: Shard
    features: Tensor


def best_per_class(exhibit: Exhibit) -> Tensor:
    """Return the row of every class's sound reconstruction with the highest target confidence, classes ascending."""
    rows = []
    for label in torch.unique(exhibit.labels).tolist():
        mine = ((exhibit.labels == label) & ~exhibit.failed).nonzero().flatten()
        if len(mine):
            rows.append(mine[exhibit.confidence[mine].argmax()])
    return torch.stack(rows) if rows else torch.empty(0, dtype=torch.int64)


def find(
    exhibit: Exhibit, embedding: Embedding, train: Featured, reserve: Featured, public: Sequence[Featured]
) -> list[BestReconstruction]:
    """Return every class with its nearest images by E2; a class whose reconstructions all failed is left out.

    Args:
        shown: the reconstructions of one attack at one round.
        embedding: E2.
        train: training images of the attacked classes; the nearest is sought within the class.
        reserve: images in no training set; likewise.
        public: what the attacker holds, its shard and its public images; the nearest of any class.
    """
    rows = best_per_class(exhibit)
    labels, images = exhibit.labels[rows], exhibit.images[rows]
    features = embedding(images)
    near = {
        name: nearest_of_class(features, labels, among.features, among.shard.labels)
        for name, among in (("train", train), ("reserve", reserve))
    }
    held = torch.cat([part.shard.images for part in public])
    near["public"] = nearest(features, torch.cat([part.features for part in public]))
    pools = {"train": train.shard.images, "reserve": reserve.shard.images, "public": held}
    best = []
    for place, label in enumerate(labels.tolist()):
        pictures = {"made": images[place].clamp(0, 1).mul(255).round().to(torch.uint8)}
        distance = {}
        for name, hit in near.items():
            if (row := int(hit.index[place])) >= 0:
                pictures[name] = pools[name][row]
                distance[name] = float(hit.distance[place])
        best.append(BestReconstruction(label, pictures, distance))
    return best
