"""Paired differences of groups from a baseline, each beside the accuracy it was paid with.

A difference is taken cell by cell over the seeds and classes that both groups hold; Holm's adjustment is over the
groups that are held against the baseline.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from auditor.omitted import Omitted
from auditor.statistics import NO_SPREAD, Cells, Estimate, aligned, holm, paired_difference
from auditor.table import cells
from fedinverse.seeds import numpy_generator
from report.comparison.figures import GroupFigures, mean_of

MATCHED = 0.01  # accuracies this near count as equal utility (spec: audit)


@dataclass(frozen=True)
class Difference:
    """A group minus the baseline.

    Attributes:
        group: label of the group.
        quantity: ``leakage`` or ``attack-accuracy`` (the primary score of arm A).
        found: the paired difference with its 95 % interval and unadjusted p.
        p_holm: p adjusted over the groups compared; None where there is none.
        accuracy: difference of the models' accuracies over the paired seeds.
        seeds: paired seeds.
    """

    group: str
    quantity: str
    found: Estimate | Omitted
    p_holm: float | None
    accuracy: float
    seeds: int

    @property
    def matched(self) -> bool:
        """Whether the accuracies are within one percentage point."""
        return abs(self.accuracy) <= MATCHED + 1e-9


def differences(figures: Sequence[GroupFigures], baseline: GroupFigures) -> tuple[Difference, ...]:
    """Return every other group's differences from ``baseline``, leakage first."""
    others = [each for each in figures if each is not baseline]
    made: list[Difference] = []
    for quantity, read in (("leakage", _leakage), ("attack-accuracy", _attack)):
        found = [_difference(read(each), read(baseline), quantity, baseline) for each in others]
        p = {number: each.p for number, each in enumerate(found) if isinstance(each, Estimate)}
        adjusted = dict(zip(p, holm(list(p.values())), strict=True))
        for number, each in enumerate(others):
            accuracy, seeds = _accuracies(each, baseline)
            label = each.group.label
            made.append(Difference(label, quantity, found[number], adjusted.get(number), accuracy, seeds))
    return tuple(made)


def _attack(figures: GroupFigures) -> Cells | Omitted:
    primary = figures.verdict.primary
    return cells(figures.scores, "A", primary.attack, primary.round, primary.metric)


def _leakage(figures: GroupFigures) -> Cells | Omitted:
    """Return s(A) - s(B2), cell by cell."""
    primary = figures.verdict.primary
    attack, control = _attack(figures), cells(figures.scores, "B2", primary.attack, primary.round, primary.metric)
    for arm in (attack, control):
        if isinstance(arm, Omitted):
            return arm
    assert isinstance(attack, Cells)
    assert isinstance(control, Cells)
    try:
        both = aligned({"A": attack, "B2": control})
    except ValueError as error:
        return Omitted(str(error))
    return Cells(both["A"].values - both["B2"].values, both["A"].seeds, both["A"].labels)


def _difference(
    one: Cells | Omitted, base: Cells | Omitted, quantity: str, baseline: GroupFigures
) -> Estimate | Omitted:
    for each in (one, base):
        if isinstance(each, Omitted):
            return each
    assert isinstance(one, Cells)
    assert isinstance(base, Cells)
    random = numpy_generator(baseline.group.seeds[0], "comparison", quantity)
    share = all(0 <= each.mean <= 1 for each in (one, base))
    try:
        found = paired_difference(one, base, random, share=share)
    except ValueError:
        return Omitted("no seed and class in common with the baseline")
    if NO_SPREAD in found.marks and not share:
        return Omitted("every class differs by the same amount: no interval can be had")
    return found


def _accuracies(one: GroupFigures, base: GroupFigures) -> tuple[float, int]:
    """Return the mean difference of accuracy over the seeds both have (all, if none), and their number."""
    mine, theirs = _by_seed(one), _by_seed(base)
    both = sorted(mine.keys() & theirs.keys())
    if not both:
        return one.accuracy.value - base.accuracy.value, 0
    return mean_of([mine[seed] - theirs[seed] for seed in both]), len(both)


def _by_seed(figures: GroupFigures) -> dict[int, float]:
    records = figures.group.records
    return {record.seed: float(record.rounds[record.primary.round]["accuracy"]) for record in records}
