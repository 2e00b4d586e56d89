"""Everything that is said of one exhibit: class by class, as a set, and, of shared classes, of whose images it shows.

Shared classes: a reconstruction is compared with the victim's own training images of its class, with as many training
images of the same class at other clients (not the attacker's), and with as many that nobody holds (reserve). If it
shows the class only, any of the three may be nearest with the same chance: which image of a class went to which client
was drawn. ``peers_of`` draws the sets; of the shares "nearer to", which need no draw, the mean over all draws has a
closed form (``auditor.metrics.distances``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.bench import Bench, Inspected
from auditor.metrics.attack_accuracy import AttackAccuracy, attack_accuracy, restarts_of
from auditor.metrics.copies import Copies, copies
from auditor.metrics.distances import (
    MemberLift,
    copy_guard,
    feature_distance,
    knn_distance,
    member_lift,
    nearest,
    nearest_of_class,
)
from auditor.metrics.diversity import effective_number, mean_pairwise_distance
from auditor.metrics.fidelity import Manifolds, fid, kid, manifolds, scaled
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


@dataclass(frozen=True)
class Measured:
    """An exhibit [N] held against the real images, before it is told class by class.

    Attributes:
        accuracy: E1's reading.
        deviation: over restarts, of the accuracy on the victim's classes; None: the arm has no restarts.
        to_nearest: float64 [N], distance in E1's features to the nearest training image of the class.
        to_centroid: float64 [N], to the mean of these.
        guarded: bool [N], nearer by E2 to a victim's image than to every image that the attacker holds.
        resembling: metric -> bool [N], near enough by E2 to one of a side's images of the class.
        nearer: metric -> share nearer by E2 to the victim's images than to as many of another side.
        among: how the set and the victim's images cover each other.
        apart: metric -> distance of the set by E2 to a set of real images.
        copied: metric -> copies of a side's images.
    """

    accuracy: AttackAccuracy
    deviation: float | Omitted | None
    to_nearest: Tensor
    to_centroid: Tensor
    guarded: Tensor
    resembling: dict[str, Tensor | Omitted]
    nearer: dict[str, MemberLift | Omitted]
    among: Manifolds | Omitted
    apart: dict[str, float | Omitted]
    copied: dict[str, Copies | Omitted]


def figures_of(seen: Inspected, bench: Bench, metrics: Sequence[str] = ()) -> Iterator[Figure]:
    """Yield every figure of an exhibit; ``metrics`` names those from outside that are computed besides."""
    measured = measure(seen, bench)
    yield from class_figures(seen, bench, measured)
    yield from set_figures(seen, bench, measured)
    peers = attributed(seen, bench)
    if peers is not None:
        yield from attribution_figures(seen, peers, measured)
    for name in metrics:
        figures = METRICS.get(name).figures
        assert figures is not None  # settings are checked for it
        yield from (Figure(name, label, count, value) for label, count, value in figures(seen, bench))


def attributed(seen: Inspected, bench: Bench) -> Peers | None:
    """Return other clients' and nobody's images if it is asked whose images an exhibit shows; None: it is not."""
    return bench.peers if seen.exhibit.arm in ATTRIBUTED else None


def measure(seen: Inspected, bench: Bench) -> Measured:
    """Hold an exhibit against the real images."""
    arm, labels, sound = seen.exhibit.arm, seen.exhibit.labels, seen.sound
    train, train_labels, peers = bench.train_features, bench.train.labels, attributed(seen, bench)
    victims, known = torch.isin(labels, train_labels.unique()), bench.judge.model.classes
    accuracy = attack_accuracy(seen.ahead, labels, restarts_of(labels), known)
    deviation: float | Omitted | None = None
    if arm in RESTARTED:
        deviation = Omitted("no class of the victim's was attacked")
        if victims.any():
            of_victims = labels[victims]
            deviation = attack_accuracy(seen.ahead[victims], of_victims, restarts_of(of_victims), known).deviation
    likes = {RESEMBLANCE: Side(train, train_labels)}
    others = {MEMBER: Side(bench.reserve_features, bench.reserve.labels)} if arm == "A" or peers else {}
    chance = bench.reserve_features[torch.isin(bench.reserve.labels, train_labels.unique())]
    copyable = {COPIES: (seen.features[sound & victims], train, chance)}
    if peers is not None:
        likes |= {RESEMBLANCE_VICTIM: peers.victim, RESEMBLANCE_OTHERS: peers.others, RESEMBLANCE_NOBODY: peers.nobody}
        others[NEARER] = peers.held
        of_shared = seen.features[sound & torch.isin(labels, peers.victim.labels.unique())]
        copyable[COPIES_OTHERS] = (of_shared, peers.others.features, peers.chance)
        copyable[COPIES_NOBODY] = (of_shared, peers.nobody.features, peers.not_drawn)
    features = scaled(seen.features[sound & victims])
    apart = {
        FID_VICTIM: fid(features, bench.of_victim),
        FID_PUBLIC: fid(features, bench.of_public),
        KID_VICTIM: kid(features, bench.of_victim),
        KID_PUBLIC: kid(features, bench.of_public),
    }
    among = manifolds(features, bench.of_victim)
    resembling: dict[str, Tensor | Omitted] = {}
    for metric, side in likes.items():
        near = nearest_of_class(seen.features, labels, side.features, side.labels)
        limit = bench.threshold
        resembling[metric] = limit if isinstance(limit, Omitted) else (near.distance <= limit.distance) & sound
    nearer = {
        metric: member_lift(
            seen.features[sound],
            labels[sound],
            train=train,
            train_labels=train_labels,
            reserve=side.features,
            reserve_labels=side.labels,
        )
        for metric, side in others.items()
    }
    reached = {
        metric: (nearest(images, real), nearest(by_chance, real).distance)
        for metric, (images, real, by_chance) in copyable.items()
    }
    return Measured(
        accuracy,
        deviation,
        knn_distance(seen.seen, labels, bench.train_seen, train_labels),
        feature_distance(seen.seen, labels, bench.train_seen, train_labels),
        copy_guard(seen.features, train, bench.known_features) & sound,
        resembling,
        nearer,
        among,
        apart,
        {metric: copies(*near) for metric, near in reached.items()},
    )


def class_figures(seen: Inspected, bench: Bench, measured: Measured) -> Iterator[Figure]:
    """Yield every per-class metric of an exhibit, by metric and class."""
    exhibit, sound, accuracy = seen.exhibit, seen.sound, measured.accuracy
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
    near = measured.resembling[RESEMBLANCE]
    if isinstance(near, Omitted):
        yield Figure(RESEMBLANCE, WHOLE_SET, len(exhibit.labels), near)
    else:
        yield from shares(RESEMBLANCE, near)
    yield from shares(COPY_GUARD, measured.guarded)
    for metric, squared, apart in (
        (KNN, KNN_SQUARED, measured.to_nearest),
        (FEATURE, FEATURE_SQUARED, measured.to_centroid),
    ):
        for label, rows in groups.items():
            of_label = apart[rows[sound[rows]]]
            for name, values in ((metric, of_label), (squared, of_label.square())):
                yield Figure(name, label, len(of_label), _mean(values))
    for metric, spread in ((VENDI, effective_number), (PAIRWISE, mean_pairwise_distance)):
        for label, rows in groups.items():
            kept = rows[sound[rows]]
            yield Figure(metric, label, len(kept), spread(seen.features[kept]))
    if MEMBER in measured.nearer:
        yield from _by_class(MEMBER, int(sound.sum()), measured.nearer[MEMBER])


def _mean(distances: Tensor) -> float | Omitted:
    if len(distances) == 0:
        return Omitted("every reconstruction of a class failed")
    if not bool(distances.isfinite().all()):
        return Omitted("the victim holds no image of an attacked class")
    return float(distances.mean())


def _by_class(metric: str, count: int, lift: MemberLift | Omitted) -> Iterator[Figure]:
    if isinstance(lift, Omitted):
        yield Figure(metric, WHOLE_SET, count, lift)
        return
    for label, share, images in zip(lift.labels.tolist(), lift.share.tolist(), lift.count.tolist(), strict=True):
        yield Figure(metric, label, images, share)


def set_figures(seen: Inspected, bench: Bench, measured: Measured) -> Iterator[Figure]:
    """Yield every whole-set metric (label -1) of an exhibit's sound reconstructions of the victim's classes."""
    victims = torch.isin(seen.exhibit.labels, bench.train.labels.unique())
    count = int((victims & seen.sound).sum())
    for metric, distance in measured.apart.items():
        yield Figure(metric, WHOLE_SET, count, distance)
    among, copied = measured.among, measured.copied[COPIES]
    for metric, name in ((PRECISION, "precision"), (RECALL, "recall"), (DENSITY, "density"), (COVERAGE, "coverage")):
        yield Figure(metric, WHOLE_SET, count, getattr(among, name) if isinstance(among, Manifolds) else among)
    for metric, name in ((COPIES, "originals"), (COPIES_FALSE, "expected_false")):
        value = copied if isinstance(copied, Omitted) else float(getattr(copied, name))
        yield Figure(metric, WHOLE_SET, count, value)
    if measured.deviation is not None:
        yield Figure(DEVIATION, WHOLE_SET, int(victims.sum()), measured.deviation)


def attribution_figures(seen: Inspected, peers: Peers, measured: Measured) -> Iterator[Figure]:
    """Yield every figure of an exhibit on whose images it shows; for a victim who shares their classes."""
    labels, lift = seen.exhibit.labels, measured.nearer[NEARER]
    if isinstance(lift, Omitted):
        lift = Omitted("no attacked class is held by the victim and by another client who is not the attacker")
    yield from _by_class(NEARER, int(seen.sound.sum()), lift)
    of_both = peers.victim.labels.unique()  # the classes of which all three sides hold equally many
    for metric in (RESEMBLANCE_VICTIM, RESEMBLANCE_OTHERS, RESEMBLANCE_NOBODY):
        near = measured.resembling[metric]
        if isinstance(near, Omitted):
            yield Figure(metric, WHOLE_SET, len(labels), near)
            continue
        for label in of_both.tolist():
            rows = labels == label
            if rows.any():
                yield Figure(metric, label, int(rows.sum()), float(near[rows].double().mean()))
    for metric in (COPIES_OTHERS, COPIES_NOBODY):
        copied = measured.copied[metric]
        value = copied if isinstance(copied, Omitted) else float(copied.originals)
        yield Figure(metric, WHOLE_SET, int((seen.sound & torch.isin(labels, of_both)).sum()), value)
