"""Sharpness: the mean difference of neighbouring pixels of a class's reconstructions, in [0, 1].

Says nothing of leakage: a blurred reconstruction can show a person and a sharp one can show nobody.
"""

from collections.abc import Iterator

from torch import Tensor

from auditor.bench import Bench, Inspected
from auditor.metrics.names import Metric


def sharpness(images: Tensor) -> Tensor:
    """Return the mean absolute difference [N] of neighbouring pixels of ``images`` [N, C, H, W]."""
    across, down = images.diff(dim=3).abs(), images.diff(dim=2).abs()
    return (across.mean((1, 2, 3)) + down.mean((1, 2, 3))) / 2


def figures(seen: Inspected, bench: Bench) -> Iterator[tuple[int, int, float]]:
    """Yield label, number of images and mean sharpness of every class that has a sound reconstruction."""
    del bench  # the evaluators and the real images, for metrics that need them
    labels, images = seen.exhibit.labels[seen.sound], seen.exhibit.images[seen.sound]
    for label in labels.unique().tolist():
        mine = images[labels == label]
        yield label, len(mine), float(sharpness(mine).mean())


SHARPNESS = Metric("mean difference of neighbouring pixels", figures=figures)
