"""What is scored: every metric of the score table by name, what it says and between which values it lies.

A metric outside this repository is a ``Metric`` with its own ``figures``, named ``package.module:NAME`` or by an entry
point ``fedinverse.metrics``; ``audit.metrics`` lists those that are computed besides.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fedinverse.registry import Registry

WHOLE_SET = -1
"""Label of a metric that speaks of all reconstructions of the victim's classes together."""

ACCURACY, TOP5, DEVIATION = "attack-accuracy", "attack-accuracy-top5", "attack-accuracy-deviation"
OPEN, DISAGREEMENT, NONE = "attack-accuracy-open", "evaluator-disagreement", "none-of-these"
BEST = "attack-accuracy-best"
CONFIDENCE, RESEMBLANCE = "target-confidence", "resemblance"
MEMBER, COPY_GUARD = "member-share", "copy-guard"
KNN, FEATURE = "knn-distance", "feature-distance"
KNN_SQUARED, FEATURE_SQUARED = "knn-distance-squared", "feature-distance-squared"
VENDI, PAIRWISE = "vendi", "pairwise-distance"
FID_VICTIM, FID_PUBLIC, KID_VICTIM, KID_PUBLIC = "fid-victim", "fid-public", "kid-victim", "kid-public"
COPIES, COPIES_FALSE = "copied-images", "copied-images-expected-false"
NEARER = "nearer-to-victim"
RESEMBLANCE_VICTIM = "resemblance-victim"
RESEMBLANCE_OTHERS, RESEMBLANCE_NOBODY = "resemblance-others", "resemblance-nobody"
COPIES_OTHERS, COPIES_NOBODY = "copied-images-others", "copied-images-nobody"
OF_SHARED = (NEARER, RESEMBLANCE_VICTIM, RESEMBLANCE_OTHERS, RESEMBLANCE_NOBODY, COPIES_OTHERS, COPIES_NOBODY)
"""Metrics that are scored only where the victim shares their classes."""
PRECISION, RECALL, DENSITY, COVERAGE = "precision", "recall", "density", "coverage"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        meaning: what it says; E1 is the evaluator that must choose a class, the open evaluators are two that may answer
            "none of these", E2 is the task-free embedding.
        share: whether it lies in [0, 1].
        whole: whether it speaks of the whole set (label -1) and not of a class.
        figures: of one from outside: (``auditor.bench.Inspected``, ``auditor.bench.Bench``) -> label, count and value.
    """

    meaning: str
    share: bool = True
    whole: bool = False
    figures: Callable[[Any, Any], Iterator[tuple[int, int, float]]] | None = None


METRICS: Registry[Metric] = Registry(
    "metric",
    "fedinverse.metrics",
    "a Metric with 'figures' (auditor.metrics.names)",
    lambda imported: imported if isinstance(imported, Metric) and imported.figures else None,
)
for _name, _metric in {
    ACCURACY: Metric("share that E1 reads as the intended class; a tie and a failed image count as misses"),
    OPEN: Metric("share that both open evaluators read as the intended class; a failed image misses"),
    DISAGREEMENT: Metric("share that the two open evaluators read differently"),
    NONE: Metric("share that both open evaluators call none of these"),
    BEST: Metric("1 if E1 reads the class in its image of highest target confidence (reported by GMI), else 0"),
    TOP5: Metric("share with the class among E1's first five; from 50 classes on"),
    DEVIATION: Metric(
        "standard deviation of the accuracy over restarts: how much depends on the attack's luck", whole=True
    ),
    CONFIDENCE: Metric("the target's mean probability of the class: the attacker's own view"),
    RESEMBLANCE: Metric("share near enough by E2 to a training image of the class, at 1 % false accepts"),
    MEMBER: Metric("share nearer by E2 to a training than to a reserve image; .5: class prototypes (arm A)"),
    COPY_GUARD: Metric("share nearer by E2 to a victim's image than to every public image and image of the attacker's"),
    KNN: Metric("mean distance to the nearest training image of the class, E1's features", share=False),
    KNN_SQUARED: Metric("mean squared distance to the nearest training image, E1's features: the papers'", False),
    FEATURE: Metric("mean distance to the mean of the class's training images, E1's features", share=False),
    FEATURE_SQUARED: Metric("mean squared distance to that mean, E1's features: the papers'", share=False),
    COPIES: Metric("training images that reconstructions copy by E2, at 5 % false discoveries", False, True),
    COPIES_FALSE: Metric("reconstructions among those called copies that are expected not to be", False, True),
    NEARER: Metric(
        "share nearer by E2 to an image of the victim's than to one of as many of the class at other clients"
    ),
    RESEMBLANCE_VICTIM: Metric("resemblance to some images of the victim's, as many as in the two below"),
    RESEMBLANCE_OTHERS: Metric("resemblance to as many images of the class that other clients hold"),
    RESEMBLANCE_NOBODY: Metric("resemblance to as many images of the class that nobody holds"),
    COPIES_OTHERS: Metric("the same of as many images that other clients hold", False, True),
    COPIES_NOBODY: Metric("the same of as many images that nobody holds: false ones", False, True),
    VENDI: Metric("effective number of different images by E2, from 1 to their count", share=False),
    PAIRWISE: Metric("mean E2 distance of two images of the class, 0 alike, 1.41 unrelated", share=False),
    FID_VICTIM: Metric("Fréchet distance to the victim's training images, E2; from 2,000 images on", False, True),
    FID_PUBLIC: Metric("Fréchet distance to the public images, E2; from 2,000 images on", False, True),
    KID_VICTIM: Metric("kernel distance to the victim's training images, E2; unbiased, at times below 0", False, True),
    KID_PUBLIC: Metric("kernel distance to the public images, E2; unbiased, at times below 0", False, True),
    PRECISION: Metric("share among the victim's training images, E2 (5 neighbours)", whole=True),
    RECALL: Metric("share of the victim's training images among the reconstructions, E2 (5 neighbours)", whole=True),
    DENSITY: Metric("how densely the victim's training images surround them, E2; may exceed 1", False, True),
    COVERAGE: Metric("share of the victim's training images with a reconstruction near, E2", whole=True),
}.items():
    METRICS.register(_name, _metric, __name__)


def in_order(names: Iterable[str]) -> list[str]:
    """Return the ``names`` of metrics in the order of this file, those from outside last."""
    known = METRICS.registered()
    return sorted(set(names), key=lambda name: (known.index(name) if name in known else len(known), name))
