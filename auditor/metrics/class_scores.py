"""Scores of one exhibit class by class."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from auditor.bench import Bench, Inspected
from auditor.evaluators.threshold import Threshold
from auditor.metrics.attack_accuracy import AttackAccuracy, attack_accuracy, restarts_of
from auditor.metrics.distances import feature_distance, knn_distance
from auditor.metrics.diversity import effective_number, mean_pairwise_distance
from auditor.metrics.membership import copy_guard, member_lift
from auditor.metrics.names import (
    ACCURACY,
    BEST,
    CONFIDENCE,
    COPY_GUARD,
    DISAGREEMENT,
    FEATURE,
    FEATURE_SQUARED,
    KNN,
    KNN_SQUARED,
    MEMBER,
    NONE,
    OPEN,
    PAIRWISE,
    RESEMBLANCE,
    TOP5,
    VENDI,
    WHOLE_SET,
)
from auditor.omitted import Omitted


@dataclass(frozen=True)
class Figure:
    """One value of the score table, or why it is not there.

    Attributes:
        metric: see ``auditor.metrics.names``.
        label: the class; -1: the whole set.
        count: images it was made of.
        value: what it is.
    """

    metric: str
    label: int
    count: int
    value: float | Omitted


def class_figures(seen: Inspected, bench: Bench) -> Iterator[Figure]:
    """Yield every per-class metric of an exhibit, by metric and class."""
    exhibit = seen.exhibit
    accuracy = attack_accuracy(seen.ahead, exhibit.labels, restarts_of(exhibit.labels), bench.judge.model.classes)
    groups = {label: (exhibit.labels == label).nonzero().flatten() for label in accuracy.labels.tolist()}

    def shares(metric: str, hits: Tensor) -> Iterator[Figure]:
        for label, rows in groups.items():
            yield Figure(metric, label, len(rows), float(hits[rows].double().mean()))

    yield from _accuracy_figures(accuracy)
    for label, rows in groups.items():
        best = rows[exhibit.confidence[rows].argmax()]
        yield Figure(BEST, label, len(rows), float(seen.ahead[best] == 0))
    first, second = seen.answers.unbind(1)
    yield from shares(OPEN, (first == exhibit.labels) & (second == exhibit.labels))
    yield from shares(DISAGREEMENT, first != second)
    yield from shares(NONE, (first == bench.open.none) & (second == bench.open.none))
    yield from shares(CONFIDENCE, exhibit.confidence)
    yield from _resemblance_figures(seen, bench, shares)
    guard = copy_guard(seen.features, bench.train_features, bench.known_features)
    yield from shares(COPY_GUARD, guard.passed & seen.sound)
    sound = {label: rows[seen.sound[rows]] for label, rows in groups.items()}
    real = bench.train_seen, bench.train.labels
    for metric, squared, distance in (
        (KNN, KNN_SQUARED, knn_distance),
        (FEATURE, FEATURE_SQUARED, feature_distance),
    ):
        apart = distance(seen.seen, exhibit.labels, *real)
        for label, rows in sound.items():
            yield Figure(metric, label, len(rows), _mean(apart[rows]))
            yield Figure(squared, label, len(rows), _mean(apart[rows].square()))
    for metric, spread in ((VENDI, effective_number), (PAIRWISE, mean_pairwise_distance)):
        for label, rows in sound.items():
            yield Figure(metric, label, len(rows), spread(seen.features[rows]))
    if exhibit.arm == "A" or (exhibit.arm == "B2" and bench.peers is not None):
        yield from _member_figures(seen, bench)


def _accuracy_figures(accuracy: AttackAccuracy) -> Iterator[Figure]:
    restarts = list(zip(accuracy.labels.tolist(), accuracy.count.tolist(), strict=True))
    for (label, count), share in zip(restarts, accuracy.top1.tolist(), strict=True):
        yield Figure(ACCURACY, label, count, share)
    if isinstance(accuracy.top5, Omitted):
        yield Figure(TOP5, WHOLE_SET, int(accuracy.count.sum()), accuracy.top5)
        return
    for (label, count), share in zip(restarts, accuracy.top5.tolist(), strict=True):
        yield Figure(TOP5, label, count, share)


def _resemblance_figures(
    seen: Inspected, bench: Bench, shares: Callable[[str, Tensor], Iterator[Figure]]
) -> Iterator[Figure]:
    if isinstance(bench.threshold, Threshold):
        accepted = bench.threshold.accepts(seen.features, seen.exhibit.labels, bench.train_features, bench.train.labels)
        yield from shares(RESEMBLANCE, accepted & seen.sound)
    else:
        yield Figure(RESEMBLANCE, WHOLE_SET, len(seen.exhibit.labels), bench.threshold)


def _mean(distance: Tensor) -> float | Omitted:
    if len(distance) == 0:
        return Omitted("every reconstruction of a class failed")
    if not bool(distance.isfinite().all()):
        return Omitted("the victim holds no image of an attacked class")
    return float(distance.mean())


def _member_figures(seen: Inspected, bench: Bench) -> Iterator[Figure]:
    lift = member_lift(
        seen.features[seen.sound],
        seen.exhibit.labels[seen.sound],
        train=bench.train_features,
        train_labels=bench.train.labels,
        reserve=bench.reserve_features,
        reserve_labels=bench.reserve.labels,
    )
    if isinstance(lift, Omitted):
        yield Figure(MEMBER, WHOLE_SET, int(seen.sound.sum()), lift)
        return
    for label, share, count in zip(lift.labels.tolist(), lift.share.tolist(), lift.count.tolist(), strict=True):
        yield Figure(MEMBER, label, count, share)
