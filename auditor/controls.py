"""Controls that need no further attack: what the instrument makes of images the attacker holds, and of wrong
labels."""

from dataclasses import replace

import torch
from torch import Tensor

from auditor.evidence import Exhibit
from fedinverse.data.source import unit
from fedinverse.models import Classifier


def permuted(shown: Exhibit) -> Exhibit:
    """Return arm B5: the same reconstructions, each labelled with the next of the attacked classes.

    What it scores cannot be there: above chance, the instrument is broken.
    """
    classes = torch.unique(shown.labels)
    place = torch.searchsorted(classes, shown.labels)
    return replace(shown, arm="B5", labels=classes[(place + 1) % len(classes)])


@torch.inference_mode()
def certainty(target: Classifier, images: Tensor) -> Tensor:
    """Return how sure ``target``, ready for inference, is of every class: [M, K] for uint8 images [M, C, H, W]."""
    return torch.cat([target(unit(part)) for part in images.split(256)]).softmax(1)


def nearest_known(shown: Exhibit, sure: Tensor, known: Tensor) -> Exhibit:
    """Return arm B4: no attack, the images the attacker holds that the target is surest show the class.

    Args:
        shown: whose labels and counts are met.
        sure: the certainty [M, K] of the target of the same round.
        known: the public images and the attacker's own, uint8 [M, C, H, W].
    """
    rows = torch.empty(len(shown.labels), dtype=torch.int64)
    for label in torch.unique(shown.labels).tolist():
        mine = shown.labels == label
        best = sure[:, label].topk(min(int(mine.sum()), len(known))).indices
        rows[mine] = best.repeat(-(-int(mine.sum()) // len(best)))[: int(mine.sum())]
    return replace(
        shown,
        arm="B4",
        images=unit(known[rows]),
        confidence=sure[rows, shown.labels],
        failed=torch.zeros(len(rows), dtype=torch.bool),
    )
