"""Everything that is said of one exhibit: class by class, as a set, and, of shared classes, of whose images it shows.

Shared classes: a reconstruction is compared with the victim's own training images of its class, with as many training
images of the same class at other clients (not the attacker's), and with as many that nobody holds (reserve). If it
shows the class only, any of the three may be nearest with the same chance: which image of a class went to which client
was drawn. ``peers_of`` draws the sets; of the shares "nearer to", which need no draw, the mean over all draws has a
closed form (``auditor.metrics.membership``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.bench import Bench, Inspected, scaled
from auditor.evaluators.threshold import Threshold
from auditor.metrics.attack_accuracy import attack_accuracy, restarts_of
from auditor.metrics.copies import copies
from auditor.metrics.distances import feature_distance, knn_distance
from auditor.metrics.diversity import effective_number, mean_pairwise_distance
from auditor.metrics.fidelity import Manifolds, fid, kid, manifolds
from auditor.metrics.membership import copy_guard, member_lift
from auditor.metrics.names import (
    ACCURACY,
    BEST,
    CONFIDENCE,
    COPIES,
    COPIES_FALSE,
    COPIES_NOBODY,
    COPIES_OTHERS,
    COPY_GUARD,
    COVERAGE,
    DENSITY,
    DEVIATION,
    DISAGREEMENT,
    FEATURE,
    FEATURE_SQUARED,
    FID_PUBLIC,
    FID_VICTIM,
    KID_PUBLIC,
    KID_VICTIM,
    KNN,
    KNN_SQUARED,
    MEMBER,
    METRICS,
    NEARER,
    NONE,
    OPEN,
    PAIRWISE,
    PRECISION,
    RECALL,
    RESEMBLANCE,
    RESEMBLANCE_NOBODY,
    RESEMBLANCE_OTHERS,
    RESEMBLANCE_VICTIM,
    TOP5,
    VENDI,
    WHOLE_SET,
)
from auditor.omitted import Omitted
from auditor.peers import Peers, Side

RESTARTED = ("A", "B0", "B1", "B2", "B3")
"""Arms whose n-th image of a class is a restart of its own; B4, B5 and CEIL have none, or A's."""
ATTRIBUTED = ("A", "B2")
"""Arms that are asked whose images they show: the attack, and the same attack without the victim's client."""


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


def figures_of(seen: Inspected, bench: Bench, metrics: Sequence[str] = ()) -> Iterator[Figure]:
    """Yield every figure of an exhibit; ``metrics`` names those from outside that are computed besides."""
    yield from class_figures(seen, bench)
    yield from set_figures(seen, bench)
    if bench.peers is not None and seen.exhibit.arm in ATTRIBUTED:
        yield from attribution_figures(seen, bench, bench.peers)
    for name in metrics:
        figures = METRICS.get(name).figures
        assert figures is not None  # settings are checked for it
        yield from (Figure(name, label, count, value) for label, count, value in figures(seen, bench))


def class_figures(seen: Inspected, bench: Bench) -> Iterator[Figure]:
    """Yield every per-class metric of an exhibit, by metric and class."""
    exhibit, sound = seen.exhibit, seen.sound
    accuracy = attack_accuracy(seen.ahead, exhibit.labels, restarts_of(exhibit.labels), bench.judge.model.classes)
    groups = {label: (exhibit.labels == label).nonzero().flatten() for label in accuracy.labels.tolist()}

    def shares(metric: str, hits: Tensor) -> Iterator[Figure]:
        for label, rows in groups.items():
            yield Figure(metric, label, len(rows), float(hits[rows].double().mean()))

    for metric, by_class in ((ACCURACY, accuracy.top1), (TOP5, accuracy.top5)):
        if isinstance(by_class, Omitted):
            yield Figure(metric, WHOLE_SET, len(exhibit.labels), by_class)
            continue
        for (label, rows), share in zip(groups.items(), by_class.tolist(), strict=True):
            yield Figure(metric, label, len(rows), share)
    for label, rows in groups.items():
        best = rows[exhibit.confidence[rows].argmax()]
        yield Figure(BEST, label, len(rows), float(seen.ahead[best] == 0))
    first, second = seen.answers.unbind(1)
    yield from shares(OPEN, (first == exhibit.labels) & (second == exhibit.labels))
    yield from shares(DISAGREEMENT, first != second)
    yield from shares(NONE, (first == bench.open.none) & (second == bench.open.none))
    yield from shares(CONFIDENCE, exhibit.confidence)
    if isinstance(bench.threshold, Threshold):
        near = bench.threshold.accepts(seen.features, exhibit.labels, bench.train_features, bench.train.labels)
        yield from shares(RESEMBLANCE, near & sound)
    else:
        yield Figure(RESEMBLANCE, WHOLE_SET, len(exhibit.labels), bench.threshold)
    yield from shares(COPY_GUARD, copy_guard(seen.features, bench.train_features, bench.known_features) & sound)
    real = bench.train_seen, bench.train.labels
    for metric, squared, apart in (
        (KNN, KNN_SQUARED, knn_distance(seen.seen, exhibit.labels, *real)),
        (FEATURE, FEATURE_SQUARED, feature_distance(seen.seen, exhibit.labels, *real)),
    ):
        for label, rows in groups.items():
            of_label = apart[rows[sound[rows]]]
            for name, values in ((metric, of_label), (squared, of_label.square())):
                yield Figure(name, label, len(of_label), _mean(values))
    for metric, spread in ((VENDI, effective_number), (PAIRWISE, mean_pairwise_distance)):
        for label, rows in groups.items():
            kept = rows[sound[rows]]
            yield Figure(metric, label, len(kept), spread(seen.features[kept]))
    if exhibit.arm == "A" or (exhibit.arm == "B2" and bench.peers is not None):
        yield from _nearer(MEMBER, seen, bench, Side(bench.reserve_features, bench.reserve.labels))


def _mean(distances: Tensor) -> float | Omitted:
    if len(distances) == 0:
        return Omitted("every reconstruction of a class failed")
    if not bool(distances.isfinite().all()):
        return Omitted("the victim holds no image of an attacked class")
    return float(distances.mean())


def _nearer(metric: str, seen: Inspected, bench: Bench, others: Side, none: str = "") -> Iterator[Figure]:
    """Yield the share of every class that is nearer to the victim's images than to as many of ``others``."""
    sound = seen.sound
    lift = member_lift(
        seen.features[sound],
        seen.exhibit.labels[sound],
        train=bench.train_features,
        train_labels=bench.train.labels,
        reserve=others.features,
        reserve_labels=others.labels,
    )
    if isinstance(lift, Omitted):
        yield Figure(metric, WHOLE_SET, int(sound.sum()), Omitted(none) if none else lift)
        return
    for label, share, count in zip(lift.labels.tolist(), lift.share.tolist(), lift.count.tolist(), strict=True):
        yield Figure(metric, label, count, share)


def set_figures(seen: Inspected, bench: Bench) -> Iterator[Figure]:
    """Yield every whole-set metric (label -1) of an exhibit's sound reconstructions of the victim's classes."""
    labels = seen.exhibit.labels
    victims = torch.isin(labels, bench.train.labels.unique())
    sound = victims & seen.sound
    features, count = seen.features[sound], int(sound.sum())
    for metric, distance, real in (
        (FID_VICTIM, fid, bench.of_victim),
        (FID_PUBLIC, fid, bench.of_public),
        (KID_VICTIM, kid, bench.of_victim),
        (KID_PUBLIC, kid, bench.of_public),
    ):
        yield Figure(metric, WHOLE_SET, count, distance(scaled(features), real))
    among = manifolds(scaled(features), bench.of_victim)
    for metric, name in ((PRECISION, "precision"), (RECALL, "recall"), (DENSITY, "density"), (COVERAGE, "coverage")):
        yield Figure(metric, WHOLE_SET, count, getattr(among, name) if isinstance(among, Manifolds) else among)
    reserve = bench.reserve_features[torch.isin(bench.reserve.labels, bench.train.labels.unique())]
    copied = copies(features, bench.train_features, reserve)
    for metric, name in ((COPIES, "originals"), (COPIES_FALSE, "expected_false")):
        value = copied if isinstance(copied, Omitted) else float(getattr(copied, name))
        yield Figure(metric, WHOLE_SET, count, value)
    if seen.exhibit.arm in RESTARTED:
        deviation: float | Omitted = Omitted("no class of the victim's was attacked")
        if victims.any():
            restarts, classes = restarts_of(labels[victims]), bench.judge.model.classes
            deviation = attack_accuracy(seen.ahead[victims], labels[victims], restarts, classes).deviation
        yield Figure(DEVIATION, WHOLE_SET, int(victims.sum()), deviation)


def attribution_figures(seen: Inspected, bench: Bench, peers: Peers) -> Iterator[Figure]:
    """Yield every figure of an exhibit on whose images it shows; for a victim who shares their classes."""
    none = "no attacked class is held by the victim and by another client who is not the attacker"
    yield from _nearer(NEARER, seen, bench, peers.held, none)
    labels = seen.exhibit.labels
    for metric, side in (
        (RESEMBLANCE_VICTIM, peers.victim),
        (RESEMBLANCE_OTHERS, peers.others),
        (RESEMBLANCE_NOBODY, peers.nobody),
    ):
        if not isinstance(bench.threshold, Threshold):
            yield Figure(metric, WHOLE_SET, len(labels), bench.threshold)
            continue
        near = bench.threshold.accepts(seen.features, labels, side.features, side.labels) & seen.sound
        for label in torch.unique(side.labels).tolist():
            rows = labels == label
            if rows.any():
                yield Figure(metric, label, int(rows.sum()), float(near[rows].double().mean()))
    features = seen.features[seen.sound & torch.isin(labels, peers.victim.labels.unique())]
    for metric, side, chance in (
        (COPIES_OTHERS, peers.others, peers.chance),
        (COPIES_NOBODY, peers.nobody, peers.not_drawn),
    ):
        copied = copies(features, side.features, chance)
        value = copied if isinstance(copied, Omitted) else float(copied.originals)
        yield Figure(metric, WHOLE_SET, len(features), value)
