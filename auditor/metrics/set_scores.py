"""Scores of one exhibit as a set: all its sound reconstructions of the victim's classes together (label -1)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from auditor.bench import Bench, Inspected, scaled
from auditor.metrics.attack_accuracy import attack_accuracy, restarts_of
from auditor.metrics.class_scores import Figure
from auditor.metrics.copies import copies
from auditor.metrics.fidelity import Manifolds, fid, kid, manifolds
from auditor.metrics.names import (
    COPIES,
    COPIES_FALSE,
    COVERAGE,
    DENSITY,
    DEVIATION,
    FID_PUBLIC,
    FID_VICTIM,
    KID_PUBLIC,
    KID_VICTIM,
    PRECISION,
    RECALL,
    WHOLE_SET,
)
from auditor.omitted import Omitted

RESTARTED = ("A", "B0", "B1", "B2", "B3")
"""Arms whose n-th image of a class is a restart of its own; B4, B5 and CEIL have none, or A's."""


def set_figures(seen: Inspected, bench: Bench) -> Iterator[Figure]:
    """Yield every whole-set metric of an exhibit."""
    victims = torch.isin(seen.exhibit.labels, bench.train.labels.unique())
    sound = victims & seen.sound
    features, count = scaled(seen.features[sound]), int(sound.sum())
    for metric, distance, real in (
        (FID_VICTIM, fid, bench.of_victim),
        (FID_PUBLIC, fid, bench.of_public),
        (KID_VICTIM, kid, bench.of_victim),
        (KID_PUBLIC, kid, bench.of_public),
    ):
        yield Figure(metric, WHOLE_SET, count, distance(features, real))
    for metric, value in _manifold_values(manifolds(features, bench.of_victim)).items():
        yield Figure(metric, WHOLE_SET, count, value)
    copied = copies(seen.features[sound], bench.train_features, _reserve_of_victim(bench))
    for metric, number in ((COPIES, "originals"), (COPIES_FALSE, "expected_false")):
        value = copied if isinstance(copied, Omitted) else float(getattr(copied, number))
        yield Figure(metric, WHOLE_SET, count, value)
    if seen.exhibit.arm in RESTARTED:
        labels = seen.exhibit.labels[victims]
        yield Figure(
            DEVIATION, WHOLE_SET, len(labels), _deviation(seen.ahead[victims], labels, bench.judge.model.classes)
        )


def _reserve_of_victim(bench: Bench) -> Tensor:
    return bench.reserve_features[torch.isin(bench.reserve.labels, bench.train.labels.unique())]


def _manifold_values(measured: Manifolds | Omitted) -> dict[str, float | Omitted]:
    if isinstance(measured, Omitted):
        return dict.fromkeys((PRECISION, RECALL, DENSITY, COVERAGE), measured)
    return {
        PRECISION: measured.precision,
        RECALL: measured.recall,
        DENSITY: measured.density,
        COVERAGE: measured.coverage,
    }


def _deviation(ahead: Tensor, labels: Tensor, known: int) -> float | Omitted:
    if len(labels) == 0:
        return Omitted("no class of the victim's was attacked")
    return attack_accuracy(ahead, labels, restarts_of(labels), known).deviation
