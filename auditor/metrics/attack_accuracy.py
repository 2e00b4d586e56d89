"""Attack accuracy: how often the evaluator takes a reconstruction for the class it is meant to show."""

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.omitted import Omitted

FEWEST_CLASSES_FOR_TOP5 = 50


@dataclass(frozen=True)
class AttackAccuracy:
    """Top-1 and top-5 attack accuracy.

    Attributes:
        labels: int64 [C], the classes attacked, ascending.
        top1: float64 [C], share of the class's reconstructions the evaluator takes for it, in [0, 1].
        top5: the same among its five highest logits; omitted with fewer than 50 classes, where five are too
            many.
        count: int64 [C], reconstructions of the class.
        mean: mean of ``top1`` over the classes, each weighing the same.
        deviation: sample standard deviation over restarts of the mean top-1 over classes, the published "+-";
            it measures the attack's luck only, not what another set of classes or another federation would
            give.
    """

    labels: Tensor
    top1: Tensor
    top5: Tensor | Omitted
    count: Tensor
    mean: float
    deviation: float | Omitted


def others_ahead(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many other classes are at least as likely as the intended one, int64 [N]; 0: it leads alone.

    A row of NaN counts every class as ahead: it is no success.

    Args:
        logits: [N, K].
        labels: int64 [N].

    Raises:
        ValueError: a label outside [0, K).
    """
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]):
        raise ValueError(f"labels must lie in [0, {logits.shape[1]}), the evaluator's classes")
    label_logit = logits.gather(1, labels[:, None])
    return (~(logits < label_logit)).sum(1) - 1


def attack_accuracy(ahead: Tensor, labels: Tensor, restarts: Tensor, known: int) -> AttackAccuracy:
    """Return the attack accuracy of reconstructions.

    Args:
        ahead: int64 [N], as ``others_ahead`` returns it for an evaluator that is not the target. A tie is no success:
            the class must lead alone.
        labels: int64 [N], the class each reconstruction is meant to show.
        restarts: int64 [N], which restart of the attack made it.
        known: number K of classes the evaluator knows.

    Raises:
        ValueError: no reconstruction.
    """
    if len(labels) == 0:
        raise ValueError("attack accuracy of no reconstruction")
    classes, group = torch.unique(labels, return_inverse=True)
    top1 = mean_by(group, ahead < 1, len(classes))
    top5: Tensor | Omitted = mean_by(group, ahead < 5, len(classes))
    if known < FEWEST_CLASSES_FOR_TOP5:
        top5 = Omitted(f"top-5 of {known} classes says little; it needs {FEWEST_CLASSES_FOR_TOP5}")
    return AttackAccuracy(
        classes,
        top1,
        top5,
        group.bincount(minlength=len(classes)),
        float(top1.mean()),
        _deviation(ahead < 1, group, restarts),
    )


def restarts_of(labels: Tensor) -> Tensor:
    """Return for every reconstruction of ``labels`` [N] how many of its class came before it, int64 [N].

    An attack writes the restarts of a class in their order.
    """
    _, group, count = torch.unique(labels, return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    restart = torch.empty_like(group)
    restart[order] = torch.arange(len(labels), device=labels.device) - (count.cumsum(0) - count)[group[order]]
    return restart


def mean_by(group: Tensor, values: Tensor, groups: int) -> Tensor:
    """Return the mean float64 [groups] of ``values`` [N] within each ``group`` [N]; NaN for an empty one."""
    total = torch.zeros(groups, dtype=torch.float64, device=values.device)
    total.index_add_(0, group, values.double())
    return total / group.bincount(minlength=groups)


def _deviation(success: Tensor, group: Tensor, restarts: Tensor) -> float | Omitted:
    names, restart = torch.unique(restarts, return_inverse=True)
    if len(names) < 2:
        return Omitted("one restart has no deviation")
    classes = int(group.max()) + 1
    cells = mean_by(restart * classes + group, success, len(names) * classes).view(len(names), classes)
    return float(cells.nanmean(1).std())
