"""Defences where they cost no accuracy: of each, the strongest point within one point of the undefended run.

Which strength is compared is chosen by accuracy and order alone, never by leakage; Holm's adjustment is over the
defences for which there is such a point. Every difference is over the same seeds and classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from auditor.omitted import Omitted
from auditor.statistics import UPPER, Estimate
from auditor.verdict import GateReport
from report.comparison.differences import MATCHED, adjusted_p, difference_of, paired_accuracies
from report.comparison.figures import GroupFigures
from report.comparison.groups import Group
from report.comparison.records import Rank


@dataclass(frozen=True)
class Tried:
    """One strength of a defence.

    Attributes:
        accuracy: mean paired difference of accuracy from the undefended run; NaN: no seed in common.
        half_width: of its 95 % interval over the seeds (Student's t); infinite with one seed.
    """

    label: str
    accuracy: float
    half_width: float
    seeds: int

    @property
    def matched(self) -> bool:
        """Whether the mean accuracies are within one percentage point."""
        return abs(self.accuracy) <= MATCHED + 1e-9

    @property
    def surely(self) -> bool:
        """Whether the interval lies within one percentage point, too."""
        return abs(self.accuracy) + self.half_width <= MATCHED + 1e-9


@dataclass(frozen=True)
class Matched:
    """A defence against its undefended run.

    Attributes:
        defence: what the sweep calls it.
        undefended: label of what it is held against.
        tried: every strength with seeds in common, weakest first.
        chosen: the strongest one at matched accuracy; None: there is none.
        leakage: its difference of leakage, paired; why there is none otherwise.
        p_holm: adjusted over the defences that have one.
    """

    defence: str
    undefended: str
    tried: tuple[Tried, ...]
    chosen: Tried | None
    leakage: Estimate | Omitted
    p_holm: float | None = None

    @property
    def nearest(self) -> Tried | None:
        """The strength whose accuracy is nearest; None: nothing could be paired."""
        return min(self.tried, key=lambda each: abs(each.accuracy), default=None)


def matched(figures: Sequence[GroupFigures]) -> tuple[Matched, ...]:
    """Return every defence that a sweep searched over its strength, in the sweep's order; none: no such sweep."""
    by_label = {each.group.label: each for each in figures}
    defences: dict[tuple[str, str], list[tuple[int, GroupFigures]]] = {}
    for each in figures:
        rank = rank_of(each.group)
        if rank is not None and rank.undefended in by_label:
            defences.setdefault((rank.defence, rank.undefended), []).append((rank.strength, each))
    rows = [
        _matched(defence, by_label[undefended], [each for _, each in sorted(points, key=lambda pair: pair[0])])
        for (defence, undefended), points in defences.items()
    ]
    adjusted = adjusted_p([row.leakage for row in rows])
    return tuple(replace(row, p_holm=adjusted.get(number)) for number, row in enumerate(rows))


def rank_of(group: Group) -> Rank | None:
    """Return the rank that all runs of ``group`` share; None: they have none, or not the same."""
    ranks = {record.rank for record in group.records}
    return next(iter(ranks)) if len(ranks) == 1 else None


def _matched(defence: str, base: GroupFigures, points: Sequence[GroupFigures]) -> Matched:
    tried = [(_tried(each, base), each) for each in points]
    tried = [(each, figures) for each, figures in tried if each.seeds]
    equal = [(each, figures) for each, figures in tried if each.matched]
    undefended, gate, why = base.group.label, base.main.gate, ""
    if isinstance(gate, GateReport) and not gate.learned:  # two models that learned nothing are equal, too
        why = f"“{undefended}” has not learned the victim's classes"
    elif not equal:
        why = "no strength within one point of accuracy" if tried else f"no seed in common with “{undefended}”"
    chosen, figures = (None, None) if why else equal[-1]
    leakage = Omitted(why) if figures is None else difference_of(figures, base, ("A", "B2"))
    return Matched(defence, undefended, tuple(each for each, _ in tried), chosen, leakage)


def _tried(figures: GroupFigures, base: GroupFigures) -> Tried:
    apart = paired_accuracies(figures, base)
    label = figures.group.label
    if not apart:
        return Tried(label, math.nan, math.inf, 0)
    half = math.inf
    if len(apart) > 1:
        deviation = float(np.std(apart, ddof=1)) / math.sqrt(len(apart))
        half = float(special.stdtrit(len(apart) - 1, UPPER)) * deviation
    return Tried(label, float(np.mean(apart)), half, len(apart))


def front(figures: Sequence[GroupFigures], leakage: Sequence[float | None]) -> list[int]:
    """Return the Pareto front: numbers of the groups that no other beats in accuracy and leakage at once.

    Args:
        leakage: of each, as it is drawn; None: it has none, and is not on the front.

    Returns:
        Indices, by rising accuracy. Of groups with the same two figures all are on it.
    """
    here = [
        (number, each.accuracy.value, value)
        for number, (each, value) in enumerate(zip(figures, leakage, strict=True))
        if value is not None
    ]
    on = [
        (number, accuracy)
        for number, accuracy, value in here
        if not any(a >= accuracy and v <= value and (a > accuracy or v < value) for _, a, v in here)
    ]
    return [number for number, _ in sorted(on, key=lambda pair: pair[1])]
