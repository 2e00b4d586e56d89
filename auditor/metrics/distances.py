"""How near reconstructions are to real images in a feature space: distances, member lift, copy guard.

A block of rows is held at a time. Features are [N, F] on one device. The space is the caller's: E1's penultimate
features give the papers' KNN and feature distance, the task-free embedding E2 all others.

Do reconstructions show the training images, or only the class? Member lift compares two sets of images of the same
class: those the victim trained on, and reserve images nobody did. An attack that recovers the class only is as near to
one as to the other. Are they more than a known image given back? The copy guard asks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.omitted import Omitted
from auditor.statistics import wilson

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


@dataclass(frozen=True)
class MemberLift:
    """Share of reconstructions nearer to a target-train than to a reserve image, the two sets of equal size.

    Attributes:
        labels: int64 [C], classes that have reconstructions, train and reserve images, ascending.
        share: float64 [C], in [0, 1].
        count: int64 [C], reconstructions of the class.
        value: mean of ``share`` over the classes; 0.5: class prototypes.
        interval: 95 %; above 0.5: memorisation. Reconstructions of one class are compared with the same
            images and often look alike, so the class is the unit: Wilson's interval for C trials, which no
            spread of the shares within classes can make too narrow.
    """

    labels: Tensor
    share: Tensor
    count: Tensor
    value: float
    interval: tuple[float, float]

    @property
    def memorised(self) -> bool:
        """Whether the whole interval lies above one half."""
        return self.interval[0] > 0.5


def member_lift(
    features: Tensor,
    labels: Tensor,
    *,
    train: Tensor,
    train_labels: Tensor,
    reserve: Tensor,
    reserve_labels: Tensor,
) -> MemberLift | Omitted:
    """Return the member lift of reconstructions; no random choice is made.

    Where one set is larger, the share is the probability that a random subset of it, as large as the smaller
    set, holds the nearest image: the mean over all subsets, in closed form. If reconstructions do not depend
    on which images of the class were trained on, train and reserve can be exchanged and its expectation is
    exactly one half.

    A price of the subsets: a copied training image is itself in a subset of n out of m with probability n / m
    only, so perfect copies score 1/2 + n / (2 m): .7 with 50 % train and 20 % reserve. Given the vault's
    images as well (no target was trained on them either), the sets are equal and copies score 1. The
    embedding has seen the vault's mean and covariance; real images of neither set scored .52 (digits) and .53
    (synthfaces) against it, not quite .5.

    Args:
        features: [N, F] of the reconstructions.
        labels: int64 [N].
        train: [M, F] of the images the target was trained on.
        train_labels: int64 [M].
        reserve: [R, F] of images of the same classes that nobody trained on.
        reserve_labels: int64 [R].
    """
    attacked, shares, counts = [], [], []
    for label in torch.unique(labels).tolist():
        mine = features[labels == label]
        members, others = train[train_labels == label], reserve[reserve_labels == label]
        if min(len(members), len(others)) > 0:
            attacked.append(label)
            shares.append(_win_probability(mine, members, others).mean())
            counts.append(len(mine))
    if not attacked:
        return Omitted("no class has a reconstruction, a training image and a reserve image")
    share = torch.stack(shares).clamp(0, 1)  # the closed form rounds
    value = float(share.mean())
    return MemberLift(
        torch.tensor(attacked), share.cpu(), torch.tensor(counts), value, wilson(value * len(attacked), len(attacked))
    )


def _win_probability(queries: Tensor, members: Tensor, others: Tensor) -> Tensor:
    """Return [N], the chance that of equal-size random subsets the members' holds the nearest; a tie is half."""
    if len(members) < len(others):
        return 1 - _win_probability(queries, others, members)
    strict = torch.empty(len(queries), dtype=torch.float64, device=queries.device)
    lenient = torch.empty_like(strict)
    bound = nearest(queries, others).distance
    for rows, apart in blocks(queries, members):
        strict[rows] = (apart < bound[rows, None] - TIE).double().sum(1)
        lenient[rows] = (apart <= bound[rows, None] + TIE).double().sum(1)
    size, drawn = len(members), len(others)
    return 1 - (_none_drawn(strict, size, drawn) + _none_drawn(lenient, size, drawn)) / 2


def _none_drawn(nearer: Tensor, size: int, drawn: int) -> Tensor:
    """Return C(size - nearer, drawn) / C(size, drawn): no one of ``nearer`` is among ``drawn`` of ``size``."""
    left = size - nearer
    room = (left - drawn).clamp_min(0)
    whole = torch.tensor([size + 1.0, size - drawn + 1.0], dtype=torch.float64, device=nearer.device).lgamma()
    chance = ((left + 1).lgamma() - (room + 1).lgamma() - whole[0] + whole[1]).exp()
    return chance.where(left >= drawn, 0.0)


def copy_guard(features: Tensor, victim: Tensor, known: Tensor) -> Tensor:
    """Return which reconstructions are nearer to a victim's image than to every image the attacker held all along.

    The attacker's images are often more, which favours them: the guard errs against calling something a leak.

    Args:
        features: [N, F] of the reconstructions.
        victim: [M, F] of the victim's images.
        known: [P, F] of the attacker's own images and the public ones.

    Returns:
        bool [N].
    """
    return nearest(features, victim).distance < nearest(features, known).distance - TIE
