"""A comparison as tables of text: the page, the terminal and the Markdown file show the same ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from auditor.arms import CONTROLS
from auditor.metrics.names import COPY_GUARD, MEMBER, METRICS, RESEMBLANCE, VENDI
from auditor.omitted import Omitted
from auditor.statistics import Estimate
from auditor.verdict import Interval, Missing
from report.comparison.differences import Difference
from report.comparison.figures import GroupFigures, Spread, score_of, time_to_leak
from report.comparison.groups import overlap_marks
from report.comparison.matched import Matched, Tried
from report.table import Table
from report.text import NONE, interval, percent, points, probability


def tables_of(
    figures: Sequence[GroupFigures], differences: Sequence[Difference], baseline: str, equal: Sequence[Matched] = ()
) -> list[Table]:
    """Return all tables, the most telling first."""
    tables = [_overview(figures)]
    if equal:
        tables.append(_matched(equal))
    if differences:
        tables.append(_differences(differences, baseline))
    tables += [_controls(figures), _likeness(figures), _costs(figures)]
    marks = overlap_marks([each.group for each in figures])  # on every table: a document may take one of them alone
    return [replace(table, notes=[*marks, *table.notes]) for table in tables]


def _overview(figures: Sequence[GroupFigures]) -> Table:
    header = ["", "seeds", "accuracy", "victim's classes", "attack", "leakage [95 %]", "verdict", "time to leak"]
    rows = [
        [
            _numbered(number, each),
            str(len(each.group.seeds)),
            percent(each.accuracy.value),
            percent(each.victim_accuracy.value),
            percent(attack.value if isinstance(attack := each.main.arms["A"], Interval) else None),
            interval(each.main.leakage),
            each.verdict.outcome,
            NONE if isinstance(leaks := time_to_leak(each), Omitted) else f"round {leaks}",
        ]
        for number, each in enumerate(figures, 1)
    ]
    notes = _reasons({each.group.label: each.main.leakage for each in figures}, "leakage")
    leakages = [each.main.leakage for each in figures]
    marks = dict.fromkeys(mark for leakage in leakages if isinstance(leakage, Interval) for mark in leakage.marks)
    notes += [f"intervals: {mark}" for mark in marks]
    primary = {(p.attack, p.round) for p in (each.verdict.primary for each in figures)}
    spoken = " and ".join(f"{attack}, round {number}" for attack, number in sorted(primary))
    return Table(f"Utility and leakage ({spoken})", header, rows, notes=notes)


def _differences(differences: Sequence[Difference], baseline: str) -> Table:
    rows = [
        [
            each.group,
            each.quantity.replace("-", " "),
            points(each.estimate),
            probability(each.estimate.p if isinstance(each.estimate, Estimate) else None),
            probability(each.p_holm),
            f"{100 * each.accuracy:+.1f}",
            "matched" if each.matched else "not matched",
            str(each.estimate.seeds if isinstance(each.estimate, Estimate) else each.seeds),
        ]
        for each in differences
    ]
    header = ["", "quantity", "difference [95 %]", "p", "p (Holm)", "accuracy", "at matched accuracy", "paired seeds"]
    return Table(
        f"Paired differences from “{baseline}”, in percentage points",
        header,
        rows,
        notes=_reasons({f"{each.group}, {each.quantity}": each.estimate for each in differences}, "difference"),
    )


def _matched(rows: Sequence[Matched]) -> Table:
    header = ["", "held against", "strengths tried", "strongest at matched accuracy", "accuracy [95 %]"]
    header += ["leakage difference [95 %]", "p (Holm)", "paired seeds"]
    lines = [
        [
            row.defence,
            row.undefended,
            "; ".join(f"{each.label} ({100 * each.accuracy:+.1f})" for each in row.tried) or NONE,
            row.chosen.label if row.chosen else "none",
            _apart(row.chosen),
            points(row.leakage),
            probability(row.p_holm),
            str(row.chosen.seeds if row.chosen else max((each.seeds for each in row.tried), default=0)),
        ]
        for row in rows
    ]
    notes = [
        "of every defence the strongest tried whose mean accuracy is within one point of the undefended run's over the "
        "same seeds; leakage had no part in the choice",
        *_reasons({row.defence: row.leakage for row in rows}, "comparison"),
    ]
    return Table("Defences at matched accuracy, in percentage points", header, lines, notes=notes)


def _apart(tried: Tried | None) -> str:
    if tried is None:
        return NONE
    value, half = 100 * tried.accuracy, 100 * tried.half_width
    return f"{value:+.1f} " + (f"[{value - half:+.1f}, {value + half:+.1f}]" if tried.seeds > 1 else "(one seed)")


def _controls(figures: Sequence[GroupFigures]) -> Table:
    arms = [arm for arm in CONTROLS if any(isinstance(each.main.arms[arm], Interval) for each in figures)]
    rows = [
        [_numbered(number, each), *(interval(each.main.arms[arm]) for arm in ("A", *arms, "CEIL"))]
        for number, each in enumerate(figures, 1)
    ]
    header = ["", "attack (A)", *(f"{CONTROLS[arm]} ({arm})" for arm in arms), "real images (CEIL)"]
    return Table("The attack beside its controls [95 %]", header, rows)


def _likeness(figures: Sequence[GroupFigures]) -> Table:
    metrics = (RESEMBLANCE, MEMBER, COPY_GUARD, VENDI)
    rows = [
        [
            _numbered(number, each),
            *(
                spread(score_of(each, metric), 100, " %")
                if METRICS.get(metric).share
                else spread(score_of(each, metric))
                for metric in metrics
            ),
        ]
        for number, each in enumerate(figures, 1)
    ]
    header = ["", *(metric.replace("-", " ") for metric in metrics)]
    notes = [f"{metric.replace('-', ' ')}: {METRICS.get(metric).meaning}" for metric in metrics]
    return Table("What the attack's images are like, mean over seeds (smallest to largest)", header, rows, notes=notes)


def _costs(figures: Sequence[GroupFigures]) -> Table:
    canaries = any(not isinstance(each.bound, Omitted) for each in figures)
    rows = [
        [
            _numbered(number, each),
            spread(each.accuracy, 100, " %"),
            spread(each.victim_accuracy, 100, " %"),
            spread(each.seconds_per_round),
            spread(each.epsilon),
            spread(each.central_epsilon),
            *([spread(each.bound)] if canaries else []),
        ]
        for number, each in enumerate(figures, 1)
    ]
    notes = [
        "seconds are wall time beside whatever else the machine did",
        "epsilon: the largest that any client spent in all rounds, by its own noise or by the server's (central); "
        "dash: no such noise is accounted",
    ]
    header = ["", "accuracy", "victim's classes", "seconds per round", "epsilon", "central epsilon"]
    if canaries:
        header.append("epsilon at least")
        notes.append(
            "epsilon at least: by the canaries at the victim, 95 % sure as a rule; an alarm where it is above epsilon"
        )
    return Table("Cost of each group, mean over seeds (smallest to largest)", header, rows, notes=notes)


def _numbered(number: int, figures: GroupFigures) -> str:
    return f"{number}  {figures.group.label}"


def _reasons(values: dict[str, Any], what: str) -> list[str]:
    """Return why figures are missing, one line per reason."""
    missing: dict[str, list[str]] = {}
    for label, each in values.items():
        if isinstance(each, Omitted | Missing):
            missing.setdefault(each.reason if isinstance(each, Omitted) else each.omitted, []).append(label)
    return [f"no {what} of {'; '.join(labels)}: {reason}" for reason, labels in missing.items()]


def spread(estimate: Spread | Omitted, scale: float = 1.0, unit: str = "") -> str:
    """Return a figure of runs: mean (smallest to largest)."""
    if isinstance(estimate, Omitted):
        return NONE
    value, low, high = (scale * each for each in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f}{unit}" + (f" ({low:.1f} to {high:.1f})" if low < high else "")
