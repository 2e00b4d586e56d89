"""E2's decision: how near in the task-free embedding a reconstruction must be to count as the class it is
meant to show.

The threshold is where 1 % of natural impostors are accepted: real reserve images of every *other* class,
compared in the same way with the same gallery. Genuine reserve images of the class say what the decision can
see at all (CEIL).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.metrics.distances import blocks
from auditor.omitted import Omitted

FALSE_ACCEPTS = 0.01
FEWEST_IMPOSTORS = 100  # below, 1 % is less than one of them


@dataclass(frozen=True)
class Threshold:
    """A calibrated decision.

    Attributes:
        distance: accept a reconstruction whose nearest gallery image of its class is at most this far.
        false_accepts: share of natural impostors accepted, at most 1 %.
        genuine_accepts: share of genuine reserve images accepted, the ceiling of every accept rate.
        impostors: comparisons of an impostor with a class.
    """

    distance: float
    false_accepts: float
    genuine_accepts: float
    impostors: int


def calibrate(gallery: Tensor, gallery_labels: Tensor, probes: Tensor, probe_labels: Tensor) -> Threshold | Omitted:
    """Set the threshold.

    Args:
        gallery: [M, F] real images of the classes under attack, which reconstructions will be compared with;
            the nearest of many is nearer than the nearest of few, so a threshold holds for its own gallery.
        gallery_labels: int64 [M].
        probes: [R, F] real images in nobody's training set, of these and preferably more classes.
        probe_labels: int64 [R].
    """
    classes, place = torch.unique(gallery_labels, return_inverse=True)
    ours = torch.isin(probe_labels, classes)
    genuine, impostors = int(ours.sum()), len(probes) * len(classes) - int(ours.sum())
    if impostors < FEWEST_IMPOSTORS or not genuine:
        return Omitted(
            f"{FALSE_ACCEPTS:.0%} false accepts need {FEWEST_IMPOSTORS} natural impostors and one genuine "
            f"image, got {impostors} and {genuine}"
        )
    wanted = int(FALSE_ACCEPTS * impostors)
    smallest, of_own = probes.new_empty(0, dtype=torch.float64), []
    for nearest, genuine_pairs in _by_class(probes, probe_labels, gallery, classes, place):
        of_own.append(nearest[genuine_pairs])
        smallest = torch.cat([smallest, nearest[~genuine_pairs]])
        smallest = smallest.topk(min(wanted + 1, len(smallest)), largest=False).values  # in ascending order
    # The largest distance that accepts no more than 1 %: just below the first impostor that must stay out.
    first_refused = smallest[wanted]
    distance = torch.nextafter(first_refused, torch.zeros_like(first_refused))
    return Threshold(
        float(distance),
        int((smallest <= distance).sum()) / impostors,
        float((torch.cat(of_own) <= distance).double().mean()),
        impostors,
    )


def _by_class(
    probes: Tensor, probe_labels: Tensor, gallery: Tensor, classes: Tensor, place: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for the probes of a block, the distance [n, C] to the nearest of every class, and which is their own.

    With thousands of classes the whole table would take gigabytes.
    """
    for rows, apart in blocks(probes, gallery):
        nearest = apart.new_full((len(apart), len(classes)), torch.inf)
        nearest.scatter_reduce_(1, place.expand_as(apart), apart, "amin")
        yield nearest, probe_labels[rows, None] == classes
