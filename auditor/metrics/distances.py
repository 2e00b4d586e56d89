"""Distances of reconstructions to real images in a feature space, through Gram matrices, a block of rows at a
time.

Features are [N, F] on one device. The space is the caller's: E1's penultimate features give the papers' KNN
and feature distance, the task-free embedding E2 the distances of membership, copy guard and threshold.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TIE = 1e-6  # distances nearer to each other than this are equal: rounding of the Gram matrix
BLOCK = 1 << 24  # entries of a distance matrix made at once: 128 MB


@dataclass(frozen=True)
class Nearest:
    """The nearest reference of every query.

    Attributes:
        distance: float64 [N], Euclidean; infinite where a query has no reference to be compared with.
        index: int64 [N], row of the references; -1 where there is none.
    """

    distance: Tensor
    index: Tensor


def euclidean(queries: Tensor, references: Tensor) -> Tensor:
    """Return the distances float64 [N, M] of queries [N, F] and references [M, F].

    Rows are centred on the references' mean first: distances do not change, the cancellation in
    |a|^2 + |b|^2 - 2ab shrinks.
    """
    centre = references.double().mean(0)
    a, b = queries.double() - centre, references.double() - centre
    squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return squared.clamp_min_(0).sqrt_()


def blocks(queries: Tensor, references: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, distances of these queries [n, M]) over all queries, in bounded memory."""
    step = max(1, BLOCK // max(1, len(references)))
    for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        yield rows, euclidean(queries[rows], references)


def nearest(queries: Tensor, references: Tensor) -> Nearest:
    """Return the nearest of ``references`` [M, F] for every one of ``queries`` [N, F]."""
    return _nearest(queries, references, None)


def nearest_of_class(queries: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor) -> Nearest:
    """Return the nearest reference of the query's own class.

    Args:
        queries: [N, F].
        labels: int64 [N], the class each query is meant to show.
        references: [M, F].
        reference_labels: int64 [M].
    """
    return _nearest(queries, references, (labels, reference_labels))


def _nearest(queries: Tensor, references: Tensor, classes: tuple[Tensor, Tensor] | None) -> Nearest:
    distance = queries.new_full((len(queries),), torch.inf, dtype=torch.float64)
    index = torch.full((len(queries),), -1, dtype=torch.int64, device=queries.device)
    if len(references) == 0:
        return Nearest(distance, index)
    for rows, apart in blocks(queries, references):
        if classes is not None:
            apart.masked_fill_(classes[0][rows, None] != classes[1], torch.inf)
        distance[rows], index[rows] = apart.min(1)
    return Nearest(distance, index.where(distance.isfinite(), -1))


def knn_distance(features: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor) -> Tensor:
    """Return float64 [N], the distance to the nearest private image of the class; infinite where there is none.

    The papers' "KNN dist" (GMI, Zhang et al. 2020, CVPR, section 4) is the mean of its square over the evaluator's
    penultimate features.
    """
    return nearest_of_class(features, labels, references, reference_labels).distance


def feature_distance(features: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor) -> Tensor:
    """Return float64 [N], the distance to the centroid of the class's private images; NaN where there is none.

    The papers' "feat dist" (GMI, Zhang et al. 2020, CVPR, section 4) is the mean of its square.
    """
    classes, rows = torch.unique(reference_labels, return_inverse=True)
    total = features.new_zeros((len(classes), features.shape[1]), dtype=torch.float64)
    total.index_add_(0, rows, references.double())
    centroids = total / rows.bincount(minlength=len(classes))[:, None]
    place = torch.searchsorted(classes, labels).clamp_max(len(classes) - 1)
    apart = (features.double() - centroids[place]).square().sum(1).sqrt()
    known: Tensor = classes[place] == labels
    return torch.where(known, apart, torch.nan)
