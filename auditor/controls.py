"""Controls that need no further attack: what the instrument makes of public images, and of wrong labels."""

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
def nearest_public(shown: Exhibit, target: Classifier, public: Tensor) -> Exhibit:
    """Return arm B4: for every reconstruction a public image, those the target is surest show its class.

    Args:
        shown: whose labels and counts are met.
        target: the model of the same round, ready for inference.
        public: the attacker's images uint8 [M, C, H, W].
    """
    sure = torch.cat([target(unit(part)) for part in public.split(256)]).softmax(1)
    rows = torch.empty(len(shown.labels), dtype=torch.int64)
    for label in torch.unique(shown.labels).tolist():
        mine = shown.labels == label
        best = sure[:, label].topk(min(int(mine.sum()), len(public))).indices
        rows[mine] = best.repeat(-(-int(mine.sum()) // len(best)))[: int(mine.sum())]
    return replace(
        shown,
        arm="B4",
        images=unit(public[rows]),
        confidence=sure[rows, shown.labels],
        failed=torch.zeros(len(rows), dtype=torch.bool),
    )
