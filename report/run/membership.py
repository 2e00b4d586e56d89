"""What the page says of membership: a table of scores beside their controls, and their ROC curves on log-log axes.

Both axes are logarithmic, because what matters is whether some members are found with hardly a false alarm; a score
that tells nothing lies on the dashed diagonal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from auditor.membership import MembershipReport, ScoreReport
from auditor.verdict import Missing
from report.table import Table
from report.text import NONE, percent, precise, probability

COLOURS = ("accent", "slate", "prior", "untrained", "own", "ink", "soft")
DASHES = ("", "7 4", "2 4")
COLUMNS = {
    "AUC": "chance that a member scores higher than a non-member: .5 tells nothing, 1 everything; 95 % interval over "
    "candidates",
    "no victim": "the same candidates and score in the federation without the victim: must cover .5",
    "permuted": "the same scores with memberships dealt at random, 95 % of the draws",
    "p": "share of those draws with an AUC at least as large",
    "balanced": "mean of the shares of members and non-members called right, the threshold learned on the other half",
    "TPR at 1 % FPR": "members found where one non-member in a hundred is called a member; needs 1,000 non-members",
    "TPR at 0.1 % FPR": "the same at one in a thousand; needs 10,000 non-members",
}


@dataclass(frozen=True)
class Curve:
    """One ROC curve of the picture.

    Attributes:
        points: (false-, true-positive rate), ascending.
        colour: name of the page's colour.
        dash: SVG dash pattern; empty: a solid line.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    colour: str
    dash: str


@dataclass(frozen=True)
class MembershipFigures:
    """What the page shows.

    Attributes:
        scores: one row per score.
        curves: the primary score's first.
        decades: how many powers of ten the axes span.
        omitted: (score, why it could not be had).
    """

    scores: Table
    curves: list[Curve]
    decades: int
    omitted: list[tuple[str, str]]
    primary: str


def membership_figures(report: MembershipReport) -> MembershipFigures:
    """Return what the page shows of ``report``."""
    lines = sorted(report.scores, key=lambda line: line.score != report.primary)
    curves = [
        Curve(_name(line), line.curve, COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)])
        for place, line in enumerate(lines)
    ]
    decades = max(1, math.floor(math.log10(max(10, min(report.members, report.others)))))
    return MembershipFigures(table_of(report), curves, decades, list(report.omitted.items()), report.primary)


def table_of(report: MembershipReport) -> Table:
    """Return the scores of ``report`` as a table, the primary one first."""
    rows = [
        [
            _name(line),
            precise(line.auc),
            precise(line.control),
            f"{line.permuted.low:.2f} to {line.permuted.high:.2f}",
            probability(line.p),
            percent(line.balanced_accuracy.value),
            *(NONE if isinstance(rate, Missing) else percent(rate.value) for rate in line.true_positive_rates.values()),
        ]
        for line in sorted(report.scores, key=lambda line: line.score != report.primary)
    ]
    rates = [f"TPR at {100 * float(rate):g} % FPR" for line in report.scores[:1] for rate in line.true_positive_rates]
    header = ["score", "AUC", "no victim", "permuted", "p", "balanced", *rates]
    caption = f"Membership scores, {report.members} members and {report.others} non-members"
    return Table(caption, header, rows, COLUMNS, report.notes)


def _name(line: ScoreReport) -> str:
    return line.score if line.by_attacker else f"{line.score} (auditor's bound)"


@dataclass(frozen=True)
class LogCanvas:
    """Where rates lie in a drawing of ``width`` x ``height`` units; smaller rates than the axes show lie on them."""

    width: int
    height: int
    decades: int
    left: int = 56
    right: int = 14
    top: int = 10
    bottom: int = 40

    def x(self, rate: float) -> float:
        """Return the abscissa of a false-positive rate."""
        return round(self.left + (self.width - self.left - self.right) * self._along(rate), 1)

    def y(self, rate: float) -> float:
        """Return the ordinate of a true-positive rate."""
        return round(self.top + (self.height - self.top - self.bottom) * (1 - self._along(rate)), 1)

    def line(self, points: Sequence[tuple[float, float]]) -> str:
        """Return the SVG path of a curve, without the points at no true positives at all."""
        return "M" + "L".join(f"{self.x(false)} {self.y(true)}" for false, true in points if true > 0)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the powers of ten on the axes as (rate, text)."""
        return [(10.0**-power, f"{100 * 10.0**-power:g} %") for power in range(self.decades, -1, -1)]

    def _along(self, rate: float) -> float:
        return max(0.0, 1 + math.log10(rate) / self.decades) if rate > 0 else 0.0
