"""Figures as text; a missing one is a dash."""

from auditor.omitted import Omitted
from auditor.statistics import Estimate
from auditor.verdict import Interval, Missing
from report.comparison.figures import Spread

NONE = "–"


def percent(value: float | None) -> str:
    """Return a share as text."""
    return NONE if value is None else f"{100 * value:.1f} %"


def interval(found: Interval | Missing) -> str:
    """Return a share with its interval, in percent."""
    if isinstance(found, Missing):
        return NONE
    return f"{100 * found.value:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def points(found: Estimate | Omitted) -> str:
    """Return a difference of shares with its interval, in percentage points, signed."""
    if isinstance(found, Omitted):
        return NONE
    return f"{100 * found.value:+.0f} [{100 * found.low:+.0f}, {100 * found.high:+.0f}]"


def probability(p: float | None) -> str:
    """Return a p-value as text."""
    return NONE if p is None else "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def spread(found: Spread | Omitted, scale: float = 1.0, unit: str = "") -> str:
    """Return a figure of runs: mean (smallest to largest)."""
    if isinstance(found, Omitted):
        return NONE
    value, low, high = (scale * each for each in (found.value, found.low, found.high))
    return f"{value:.1f}{unit}" + (f" ({low:.1f} to {high:.1f})" if low < high else "")
