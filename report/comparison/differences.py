"""Paired differences of groups from a baseline, each beside the accuracy it was paid with.

A difference is taken cell by cell over the seeds and classes that both groups hold; its unit is the seed. Of one seed
it carries the deviation between runs of every model in it. Holm's adjustment is over the groups that are held against
the baseline.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from auditor.omitted import Omitted
from auditor.statistics import BetweenRuns, Cells, Estimate, contrast, holm
from auditor.table import cells
from report.comparison.figures import GroupFigures, mean_of

MATCHED = 0.01  # accuracies this near count as equal utility (spec: audit)


@dataclass(frozen=True)
class Difference:
    """A group minus the baseline.

    Attributes:
        quantity: ``leakage`` or ``attack-accuracy`` (the primary score of arm A).
        estimate: the paired difference with its 95 % interval and unadjusted p.
        p_holm: p adjusted over the groups compared; None where there is none.
        accuracy: difference of the models' accuracies over the paired seeds; without any, over all.
    """

    group: str
    quantity: str
    estimate: Estimate | Omitted
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
    results: list[Difference] = []
    for quantity, arms in (("leakage", ("A", "B2")), ("attack-accuracy", ("A",))):
        estimates = [difference_of(each, baseline, arms) for each in others]
        adjusted = adjusted_p(estimates)
        for number, each in enumerate(others):
            apart = paired_accuracies(each, baseline)
            accuracy = mean_of(apart) if apart else each.accuracy.value - baseline.accuracy.value
            label = each.group.label
            results.append(Difference(label, quantity, estimates[number], adjusted.get(number), accuracy, len(apart)))
    return tuple(results)


def adjusted_p(estimates: Sequence[Estimate | Omitted]) -> dict[int, float]:
    """Return the p of every estimate that there is, adjusted by Holm over them, by its place."""
    p = {number: each.p for number, each in enumerate(estimates) if isinstance(each, Estimate)}
    return dict(zip(p, holm(list(p.values())), strict=True))


def difference_of(one: GroupFigures, base: GroupFigures, arms: tuple[str, ...]) -> Estimate | Omitted:
    """Return the difference of s(A), or of s(A) - s(B2), cell by cell."""
    held: list[Cells] = []
    for figures in (one, base):
        primary = figures.verdict.primary
        for arm in arms:
            arm_cells = cells(figures.scores, arm, primary.attack, primary.round, primary.metric)
            if isinstance(arm_cells, Omitted):
                return arm_cells
            held.append(arm_cells)
    weights = [1, -1] if len(arms) == 1 else [1, -1, -1, 1]
    deviation = one.group.records[0].primary.between_runs
    try:
        return contrast(held, weights, BetweenRuns(deviation).error(len(held)))
    except ValueError:
        return Omitted("no seed and class in common with the baseline")


def paired_accuracies(one: GroupFigures, base: GroupFigures) -> list[float]:
    """Return the difference of the models' accuracies at the primary round, for every seed that both have."""
    mine, theirs = _by_seed(one), _by_seed(base)
    return [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]


def _by_seed(figures: GroupFigures) -> dict[int, float]:
    records = figures.group.records
    return {record.seed: record.rounds[record.primary.round].accuracy for record in records}
