"""The picture of a run: shares against rounds, of the attack, its controls and the model's own accuracy.

Only geometry and words; the template draws it as SVG, so that a reader can switch lines, print and zoom.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from auditor.verdict import Interval, Missing, Point

KNOWN = "known"
LINES: dict[str, str] = {
    "A": "Attack",
    KNOWN: "Model's own accuracy",
    "B2": "False positives, no victim",
    "B0": "Prior only",
    "B1": "Untrained model",
    "B3": "Attacker's own shard",
    "B4": "Public images",
    "B4W": "Public images, no victim",
    "B5": "Wrong labels",
    "T1": "No prior",
    "CEIL": "Real images",
}
"""Every line of the picture, in the order of its legend."""
FIRST_SHOWN = ("A", KNOWN, "B2")
MOST_TICKS = 10


@dataclass(frozen=True)
class At:
    """One figure of a line: a share at a round with its 95 % interval; without one, ``low = value = high``."""

    round: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        arm: key of ``LINES``.
        points: by round, ascending; empty: the line was not had.
    """

    arm: str
    points: tuple[At, ...]
    reason: str = ""

    @property
    def name(self) -> str:
        """What the legend calls it."""
        return LINES[self.arm]

    @property
    def checked(self) -> bool:
        """Whether it is drawn before the reader chooses."""
        return self.arm in FIRST_SHOWN and bool(self.points)

    def at(self, server_round: int) -> At | None:
        """Return the figure at a round."""
        return next((point for point in self.points if point.round == server_round), None)


@dataclass(frozen=True)
class Chart:
    """The picture of one attack.

    Attributes:
        round: whose figures the legend shows first.
        rounds: all rounds of the federation, ascending.
        unlearned: rounds whose model does not pass the gate.
        series: in the order of ``LINES``.
    """

    attack: str
    round: int
    rounds: tuple[int, ...]
    unlearned: tuple[int, ...]
    series: tuple[Series, ...]

    @property
    def attacked(self) -> list[int]:
        """The rounds at which the attack was run, ascending: those a reader may choose from."""
        return [point.round for line in self.series if line.arm == "A" for point in line.points]

    def figures(self) -> dict[str, Any]:
        """Return what the page's script shows on hover: arm -> round -> [value, low, high]."""
        return {
            line.arm: {str(point.round): [point.value, point.low, point.high] for point in line.points}
            for line in self.series
        }


def chart(points: Sequence[Point], attack: str, server_round: int, known: Mapping[int, float], gate: float) -> Chart:
    """Return the picture of ``attack``.

    Args:
        server_round: whose figures are shown first.
        known: the model's accuracy on the victim's classes by round, in [0, 1].
        gate: below this accuracy a round is marked "not learned yet".
    """
    mine = [point for point in points if point.attack == attack]
    lines = []
    for arm in LINES:
        if arm == KNOWN:
            lines.append(Series(arm, tuple(At(r, known[r], known[r], known[r]) for r in sorted(known))))
            continue
        had = tuple(
            At(point.round, score.value, score.low, score.high)
            for point in mine
            if isinstance(score := point.arms[arm], Interval)
        )
        reasons = [score.omitted for point in mine if isinstance(score := point.arms[arm], Missing)]
        lines.append(Series(arm, had, "" if had else reasons[0]))
    rounds = tuple(sorted(known))
    return Chart(attack, server_round, rounds, tuple(r for r in rounds if known[r] < gate), tuple(lines))


@dataclass(frozen=True)
class Canvas:
    """Where shares and rounds lie in a drawing of ``width`` x ``height`` units, with room for the axes' words."""

    width: int
    height: int
    rounds: tuple[int, ...]
    left: int = 48
    right: int = 12
    top: int = 10
    bottom: int = 40

    def x(self, server_round: float) -> float:
        """Return the abscissa of a round."""
        span = max(1, self.rounds[-1] - self.rounds[0])
        return round(self.left + (self.width - self.left - self.right) * (server_round - self.rounds[0]) / span, 1)

    def y(self, share: float) -> float:
        """Return the ordinate of a share in [0, 1]."""
        return round(self.top + (self.height - self.top - self.bottom) * (1 - share), 1)

    def line(self, points: Sequence[At]) -> str:
        """Return the SVG path through ``points``."""
        return "M" + "L".join(f"{self.x(point.round)} {self.y(point.value)}" for point in points)

    def band(self, points: Sequence[At]) -> str:
        """Return the SVG path around the intervals of ``points``; a lone one becomes a bar."""
        upper = [(self.x(point.round), self.y(point.high)) for point in points]
        lower = [(self.x(point.round), self.y(point.low)) for point in points]
        if len(points) == 1:
            (x, high), low = upper[0], lower[0][1]
            upper, lower = [(x - 4, high), (x + 4, high)], [(x - 4, low), (x + 4, low)]
        return "M" + "L".join(f"{x} {y}" for x, y in [*upper, *reversed(lower)]) + "Z"

    def ticks(self) -> list[int]:
        """Return at most eleven rounds to write below the axis, the last always among them."""
        first, last = self.rounds[0], self.rounds[-1]
        step = next(
            step
            for power in range(9)
            for base in (1, 2, 5)
            if (last - first) / (step := base * 10**power) <= min(MOST_TICKS, self.width / 50)
        )
        inner = [number for number in range(first, last, step) if last - number >= step * 0.7]
        return [*inner, last]

    def shade(self, server_round: int) -> tuple[float, float]:
        """Return (left, width) of the strip of one round, inside the axes."""
        low = max(self.x(server_round - 0.5), self.left)
        high = min(self.x(server_round + 0.5), self.width - self.right)
        return low, round(high - low, 1)
