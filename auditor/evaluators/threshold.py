"""E2's decision: how near in the task-free embedding a reconstruction must be to count as the class it is
meant to show.

The threshold is where 1 % of natural impostors are accepted: real reserve images of every *other* class,
compared in the same way with the same gallery. Genuine reserve images of the class say what the decision can
see at all (CEIL).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.metrics.distances import euclidean, nearest_of_class
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

    def accepts(self, features: Tensor, labels: Tensor, gallery: Tensor, gallery_labels: Tensor) -> Tensor:
        """Return bool [N]: the nearest gallery image [M, F] of the class ``labels`` [N] is near enough."""
        return nearest_of_class(features, labels, gallery, gallery_labels).distance <= self.distance


def calibrate(gallery: Tensor, gallery_labels: Tensor, probes: Tensor, probe_labels: Tensor) -> Threshold | Omitted:
    """Set the threshold.

    Args:
        gallery: [M, F] real images of the classes under attack, which reconstructions will be compared with;
            the nearest of many is nearer than the nearest of few, so a threshold holds for its own gallery.
        gallery_labels: int64 [M].
        probes: [R, F] real images in nobody's training set, of these and preferably more classes.
        probe_labels: int64 [R].
    """
    classes = torch.unique(gallery_labels)
    apart = euclidean(probes, gallery)
    nearest = torch.stack([apart[:, gallery_labels == label].amin(1) for label in classes], 1)
    same_class = probe_labels[:, None] == classes
    impostors = nearest[~same_class].sort().values
    if len(impostors) < FEWEST_IMPOSTORS or not bool(same_class.any()):
        return Omitted(
            f"{FALSE_ACCEPTS:.0%} false accepts need {FEWEST_IMPOSTORS} natural impostors and one genuine "
            f"image, got {len(impostors)} and {int(same_class.sum())}"
        )
    # The largest distance that accepts no more than 1 %: just below the first impostor that must stay out.
    first_refused = impostors[int(FALSE_ACCEPTS * len(impostors))]
    distance = torch.nextafter(first_refused, torch.zeros_like(first_refused))
    return Threshold(
        float(distance),
        float((impostors <= distance).double().mean()),
        float((nearest[same_class] <= distance).double().mean()),
        len(impostors),
    )
