"""A comparison in sentences: one per group, each with its interval and what it was paid for."""

from collections.abc import Sequence

from auditor.omitted import Omitted
from auditor.statistics import LEVEL
from auditor.verdict import Missing
from report.comparison.differences import Difference
from report.comparison.figures import GroupFigures
from report.comparison.matched import Matched
from report.text import interval, percent, points, probability


def findings_of(
    figures: Sequence[GroupFigures], differences: Sequence[Difference], baseline: GroupFigures
) -> list[str]:
    """Return one sentence on the baseline, then one on every other group; "lower" only where Holm's p allows it."""
    return [_alone(baseline), *(_against(each, differences, baseline) for each in figures if each is not baseline)]


def _alone(figures: GroupFigures) -> str:
    main = figures.main
    accuracy = f"at {percent(figures.accuracy.value)} accuracy"
    if isinstance(main.leakage, Missing):
        attack = main.arms["A"]
        score = "–" if isinstance(attack, Missing) else interval(attack)
        return f"{_group(figures)}: attack accuracy {score} {accuracy}; leakage omitted: {main.leakage.omitted}."
    return f"{_group(figures)}: leakage {interval(main.leakage)} {accuracy}."


def _group(figures: GroupFigures) -> str:
    """Return the group's name in quotes: one may be called "none"."""
    return f"Group “{figures.group.label}”"


def _against(figures: GroupFigures, differences: Sequence[Difference], baseline: GroupFigures) -> str:
    mine = {each.quantity: each for each in differences if each.group == figures.group.label}
    difference = mine["leakage"] if not isinstance(mine["leakage"].estimate, Omitted) else mine["attack-accuracy"]
    what = difference.quantity.replace("-", " ")
    if isinstance(difference.estimate, Omitted):
        return f"{_alone(figures)[:-1]}; no difference from “{baseline.group.label}”: {difference.estimate.reason}."
    certain = difference.p_holm is not None and difference.p_holm < 1 - LEVEL
    state = "no difference shown" if not certain else "lower" if difference.estimate.value < 0 else "higher"
    value = points(difference.estimate)
    utility = "at matched accuracy" if difference.matched else "not at matched accuracy"
    return (
        f"{_alone(figures)[:-1]}; {what} against “{baseline.group.label}”: {state}, {value} points "
        f"(Holm p {probability(difference.p_holm)}), {utility} ({100 * difference.accuracy:+.1f} points)."
    )


def findings_of_matched(rows: Sequence[Matched]) -> list[str]:
    """Return one sentence on every defence that was searched over its strength."""
    return [_matched(each) for each in rows]


def _matched(row: Matched) -> str:
    who, against = f"Defence “{row.defence}” at matched accuracy", f"“{row.undefended}”"
    if row.chosen is None:
        near = row.nearest
        nearest = f"; the nearest is “{near.label}” ({100 * near.accuracy:+.1f} points)" if near else ""
        reason = row.leakage.reason if isinstance(row.leakage, Omitted) else ""
        return f"{who} (against {against}): nothing can be said: {reason}{nearest}."
    if isinstance(row.leakage, Omitted):
        return f"{who}: no difference of leakage from {against}: {row.leakage.reason}."
    certain = row.p_holm is not None and row.p_holm < 1 - LEVEL
    state = "no difference shown" if not certain else "lower" if row.leakage.value < 0 else "higher"
    sure = "" if row.chosen.surely else ", on average; its interval is wider than one point"
    return (
        f"{who} (“{row.chosen.label}”, {100 * row.chosen.accuracy:+.1f} points{sure}): leakage against {against}: "
        f"{state}, {points(row.leakage)} points (Holm p {probability(row.p_holm)})."
    )
