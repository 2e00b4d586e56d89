"""Figures as text, the same on every page and terminal; a missing one is a dash."""

import re

from auditor.arms import ARMS
from auditor.omitted import Omitted
from auditor.statistics import WithInterval
from auditor.verdict import Missing

NONE = "–"


def readable(text: str) -> str:
    """Return a sentence of the verdict with controls by name instead of code, and percentages as the page has them."""
    for key, arm in ARMS.items():
        if arm.role != "attack":
            text = re.sub(rf"\b{key}\b", f"“{arm.name}”", text)
    return re.sub(r"(?<=\d)%", "\N{NO-BREAK SPACE}%", text)


def as_sentence(clause: str) -> str:
    """Return a clause of the verdict as a sentence, readable."""
    return f"{clause[0].upper()}{readable(clause[1:])}."


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in [0, 1] as text, in percent."""
    return NONE if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def of_round(number: int, accuracy: float | None, victim_accuracy: float | None) -> str:
    """Return the terminal's line on a round that is over."""
    return f"  round {number:>3}   accuracy {percent(accuracy):>7}   victim's classes {percent(victim_accuracy):>7}"


def share(value: float | None) -> str:
    """Return a share in [0, 1] as text, in whole percent."""
    return percent(value, 0)


def whole(value: float | None) -> str:
    """Return a share in [0, 1] as text, in whole percent without the sign: for tables that say so in their title."""
    return NONE if value is None else f"{100 * value:.0f}"


def interval(figure: WithInterval | Missing | Omitted) -> str:
    """Return a share with its 95 % interval, in whole percent."""
    if isinstance(figure, Missing | Omitted):
        return NONE
    return f"{share(figure.value)} [{100 * figure.low:.0f}, {100 * figure.high:.0f}]"


def precise(figure: WithInterval | Missing) -> str:
    """Return a figure with its 95 % interval, to three places."""
    return NONE if isinstance(figure, Missing) else f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def points(figure: WithInterval | Omitted) -> str:
    """Return a difference of shares with its interval, in percentage points, signed."""
    if isinstance(figure, Omitted):
        return NONE
    value, low, high = (round(100 * each) for each in (figure.value, figure.low, figure.high))
    return f"{value:+d} [{low:+d}, {high:+d}]"


def probability(p: float | None) -> str:
    """Return a p-value as text."""
    return NONE if p is None else "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def span(least: int, most: int) -> str:
    """Return a range of whole numbers as text: 62 to 63, or 50."""
    return str(least) if least == most else f"{least} to {most}"


def counted(number: int, one: str, many: str = "") -> str:
    """Return ``number`` with its noun: 1 round, 2 rounds."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def in_time(seconds: float) -> str:
    """Return a duration as text, one or two units."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
