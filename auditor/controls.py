"""Controls that need no further attack: what the instrument makes of images the attacker holds, and of wrong
labels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from auditor.evidence import Exhibit
from fedinverse.data.source import unit
from fedinverse.models import Classifier

_CHUNK = 256  # known images shown to a target at once


def permuted(exhibit: Exhibit) -> Exhibit:
    """Return arm B5: the same reconstructions, each labelled with the next of the attacked classes.

    What it scores cannot be there: above chance, the instrument is broken.
    """
    classes = torch.unique(exhibit.labels)
    place = torch.searchsorted(classes, exhibit.labels)
    return replace(exhibit, arm="B5", labels=classes[(place + 1) % len(classes)])


@dataclass(frozen=True)
class KnownImages:
    """The known images that a target takes for a class with most certainty.

    Attributes:
        rows: class -> rows of the known images, the surest first; of equally sure ones, the lower row first.
        sure: class -> the target's probability of the class for these rows, descending.
    """

    rows: dict[int, Tensor]
    sure: dict[int, Tensor]


@torch.inference_mode()
def surest_known(target: Classifier, known: Tensor, labels: Tensor, device: str | torch.device = "cpu") -> KnownImages:
    """Return, for every class of ``labels``, as many known images as it has labels, those ``target`` is surest of.

    Memory does not grow with the number of classes times known images: after every chunk the best are kept.

    Args:
        target: ready for inference, on ``device``.
        known: uint8 [M, C, H, W].
        labels: int64 [N].
        device: where the target computes.
    """
    classes, counts = torch.unique(labels, return_counts=True)
    most = min(int(counts.max()), len(known))
    sure = torch.empty(0, len(classes))
    rows = torch.empty(0, len(classes), dtype=torch.int64)
    for start in range(0, len(known), _CHUNK):
        images = unit(known[start : start + _CHUNK], device)
        here = target(images).softmax(1)[:, classes.to(device)].cpu()
        place = torch.arange(start, start + len(here))[:, None].expand(-1, len(classes))
        sure, rows = torch.cat([sure, here]), torch.cat([rows, place])
        order = sure.argsort(stable=True, dim=0, descending=True)[:most]  # earlier rows come first: ties go to them
        sure, rows = sure.gather(0, order), rows.gather(0, order)
    each = {int(label): column for column, label in enumerate(classes)}
    size = {label: min(int(counts[column]), most) for label, column in each.items()}
    return KnownImages(
        {label: rows[: size[label], column] for label, column in each.items()},
        {label: sure[: size[label], column] for label, column in each.items()},
    )


def nearest_known(exhibit: Exhibit, surest: KnownImages, known: Tensor, arm: str = "B4") -> Exhibit:
    """Return arm B4 or B4W: no attack, the images the attacker holds that a target is surest show the class.

    Args:
        shown: whose labels and counts are met; where too few images are known, they come again.
        surest: as ``surest_known`` returns it, for the target of the same round.
        known: the public images and the attacker's own, uint8 [M, C, H, W].
        arm: B4 for the model with the victim, B4W for the one without.
    """
    rows, sure = torch.empty(len(exhibit.labels), dtype=torch.int64), torch.empty(len(exhibit.labels))
    for label, best in surest.rows.items():
        mine = exhibit.labels == label
        again = torch.arange(int(mine.sum())) % len(best)
        rows[mine], sure[mine] = best[again], surest.sure[label][again]
    return replace(
        exhibit,
        arm=arm,
        images=unit(known[rows]),
        confidence=sure,
        failed=torch.zeros(len(rows), dtype=torch.bool),
    )
