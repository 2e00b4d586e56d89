"""Whose images are shown, where the victim shares his classes: his own, or no more his than anybody's of the class?

A reconstruction is compared with the victim's own training images of its class, with as many training images of the
same class at other clients (not the attacker's), and with as many that nobody holds (reserve). If it shows the class
only, any of the three may be nearest with the same chance: which image of a class went to which client was drawn.
``peers_of`` draws the sets; of the shares "nearer to", which need no draw, the mean over all draws has a closed form
(``auditor.metrics.membership``).
"""

from collections.abc import Iterator

import torch

from auditor.bench import Bench, Inspected
from auditor.evaluators.threshold import Threshold
from auditor.metrics.class_scores import Figure
from auditor.metrics.copies import copies
from auditor.metrics.membership import member_lift
from auditor.metrics.names import (
    COPIES_NOBODY,
    COPIES_OTHERS,
    NEARER,
    RESEMBLANCE_NOBODY,
    RESEMBLANCE_OTHERS,
    RESEMBLANCE_VICTIM,
    WHOLE_SET,
)
from auditor.omitted import Omitted
from auditor.peers import Peers

ARMS = ("A", "B2")
"""Arms that are asked whose images they show: the attack, and the same attack without the victim's client."""


def attribution_figures(seen: Inspected, bench: Bench) -> Iterator[Figure]:
    """Yield every figure of an exhibit on whose images it shows; none where the victim's classes are his alone."""
    if bench.peers is None or seen.exhibit.arm not in ARMS:
        return
    yield from _nearer(seen, bench, bench.peers)
    yield from _resembling(seen, bench, bench.peers)
    yield from _copied(seen, bench.peers)


def _nearer(seen: Inspected, bench: Bench, peers: Peers) -> Iterator[Figure]:
    sound = seen.sound
    lift = member_lift(
        seen.features[sound],
        seen.exhibit.labels[sound],
        train=bench.train_features,
        train_labels=bench.train.labels,
        reserve=peers.held.features,
        reserve_labels=peers.held.labels,
    )
    if isinstance(lift, Omitted):
        reason = Omitted("no attacked class is held by the victim and by another client who is not the attacker")
        yield Figure(NEARER, WHOLE_SET, int(sound.sum()), reason)
        return
    for label, share, count in zip(lift.labels.tolist(), lift.share.tolist(), lift.count.tolist(), strict=True):
        yield Figure(NEARER, label, count, share)


def _resembling(seen: Inspected, bench: Bench, peers: Peers) -> Iterator[Figure]:
    sets = ((RESEMBLANCE_VICTIM, peers.victim), (RESEMBLANCE_OTHERS, peers.others), (RESEMBLANCE_NOBODY, peers.nobody))
    for metric, side in sets:
        if not isinstance(bench.threshold, Threshold):
            yield Figure(metric, WHOLE_SET, len(seen.exhibit.labels), bench.threshold)
            continue
        near = bench.threshold.accepts(seen.features, seen.exhibit.labels, side.features, side.labels) & seen.sound
        for label in torch.unique(side.labels).tolist():
            rows = seen.exhibit.labels == label
            if rows.any():
                yield Figure(metric, label, int(rows.sum()), float(near[rows].double().mean()))


def _copied(seen: Inspected, peers: Peers) -> Iterator[Figure]:
    features = seen.features[seen.sound & torch.isin(seen.exhibit.labels, peers.victim.labels.unique())]
    for metric, side, chance in (
        (COPIES_OTHERS, peers.others, peers.chance),
        (COPIES_NOBODY, peers.nobody, peers.not_drawn),
    ):
        copied = copies(features, side.features, chance)
        yield Figure(
            metric, WHOLE_SET, len(features), copied if isinstance(copied, Omitted) else float(copied.originals)
        )
