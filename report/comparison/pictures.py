"""The pictures of a comparison: leakage against utility and against rounds, and the ladder of public sets."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from auditor.metrics.names import ACCURACY
from auditor.omitted import Omitted
from auditor.verdict import Interval, Missing
from report.comparison.figures import GroupFigures, Spread, score_of
from report.comparison.matched import front, rank_of

COLOURS = ("#2457a6", "#c22f2f", "#1d7a4f", "#8a4fb0", "#b06a00", "#00788a", "#555555", "#a8327d")
MARKERS = "osD^vPX*"
NARROWEST = 0.04  # width of the accuracy axis
DODGE = 0.06  # rounds that groups are drawn apart, so that none hides another
MOST_TICKS = 15
NUMBER, DISTANCE, MARGIN = 9.5, 5.0, 2.5  # points: size of a group's number, from its mark, from anything else
HEIGHTS = (9.0, -9.0, 21.0, -21.0, 33.0, -33.0)  # points above its mark at which a number may stand
SMALL = 12  # groups that a low picture holds
STYLES = ("-", "--", "-.", ":")
PUBLIC = "data.public"
RUNG = (
    ("A", "the attack", COLOURS[0]),
    ("B4", "public images alone, picked by the model", COLOURS[4]),
    ("B2", "the attack without the victim", "#999999"),
)
"""Bars of a rung: arm, what it is, colour."""


def plane_svg(figures: Sequence[GroupFigures]) -> str:
    """Draw every group at (accuracy, leakage), numbered, with 95 % intervals and the range of accuracy over seeds.

    The strengths of one defence have one colour and are joined; a dashed line joins the Pareto front. If any group has
    no leakage, all are drawn at their attack accuracy, and the axis says so.

    Returns:
        An ``<svg>`` element.
    """
    leakage = _all_have_leakage(figures)
    intervals = [each.main.leakage if leakage else each.main.arms["A"] for each in figures]
    heights = [None if isinstance(interval, Missing) else interval.value for interval in intervals]
    defences = [rank.defence if (rank := rank_of(each.group)) else each.group.label for each in figures]
    families = list(dict.fromkeys(defences))
    with _axes(4.6 if len(figures) <= SMALL else 6.0) as (axes, written):
        for family, name in enumerate(families):
            joined = [
                (each.accuracy.value, height)
                for each, height, defence in zip(figures, heights, defences, strict=True)
                if defence == name and height is not None
            ]
            axes.plot(*zip(*joined, strict=True), color=look_of(family)[0], lw=0.7, alpha=0.6) if joined else None
        best = [(figures[number].accuracy.value, heights[number]) for number in front(figures, heights)]
        if len(best) > 1:
            axes.plot(*zip(*best, strict=True), color="#333333", lw=1.4, ls="--", label="Pareto front", zorder=0)
        numbered: list[tuple[str, tuple[float, float], str]] = []
        for number, (each, interval) in enumerate(zip(figures, intervals, strict=True)):
            if isinstance(interval, Missing):
                continue
            x = each.accuracy
            colour, marker = look_of(families.index(defences[number]))
            axes.errorbar(
                x.value,
                interval.value,
                xerr=_whisker(x),
                yerr=_whisker(interval),
                color=colour,
                marker=marker,
                ms=7,
                lw=1.2,
                ls="none",
                capsize=3,
                label=f"{number + 1}  {each.group.label}",
            )
            numbered.append((str(number + 1), (x.value, interval.value), colour))
        left, right = axes.get_xlim()
        axes.set_xlim(min(left, (left + right) / 2 - NARROWEST / 2), max(right, (left + right) / 2 + NARROWEST / 2))
        axes.axhline(0, color="#999999", lw=0.8)
        axes.set(xlabel="accuracy of the global model on reserve images (utility)", ylabel=_name(leakage))
        axes.xaxis.set_major_formatter(_percent())
        _finish(axes)
        _write_numbers(axes, numbered)
    return written[0]


def _write_numbers(axes: Any, numbered: Sequence[tuple[str, tuple[float, float], str]]) -> None:
    """Write (text, point, colour) beside each point, where neither another point nor an earlier text stands.

    ``axes`` has its final limits. A crowded point takes the free place that is nearest, or the first if none is free.
    """
    unit = axes.figure.dpi / 72  # pixels per point
    taken = [tuple(each / unit for each in axes.transData.transform(point)) for _, point, _ in numbered]
    for text, point, colour in numbered:
        x, y = (each / unit for each in axes.transData.transform(point))
        wide = NUMBER * 0.6 * len(text)
        places = [(x + side * (DISTANCE + wide / 2), y + up) for up in HEIGHTS for side in (1, -1)]
        free = (
            place
            for place in places
            if all(abs(place[0] - a) > wide / 2 + MARGIN or abs(place[1] - b) > NUMBER / 2 + MARGIN for a, b in taken)
        )
        chosen = next(free, places[0])
        taken.append(chosen)
        offset = (chosen[0] - x, chosen[1] - y)
        axes.annotate(
            text, point, offset, textcoords="offset points", color=colour, size=NUMBER, ha="center", va="center"
        )


def attacked_rounds(figures: Sequence[GroupFigures]) -> tuple[int, ...]:
    """Return the rounds whose leakage is drawn: of one, there are bars instead of curves."""
    leakage = _all_have_leakage(figures)
    return tuple(sorted({at for each in figures for at, _ in _curve(each, leakage=leakage)}))


def curves_svg(figures: Sequence[GroupFigures]) -> str:
    """Draw every group's leakage against rounds, with 95 % bands; see ``plane_svg``; return an ``<svg>`` element."""
    leakage = _all_have_leakage(figures)
    if len(attacked_rounds(figures)) == 1:
        return _bars_svg(figures, leakage=leakage)
    attacked: set[int] = set()
    with _axes(4.0) as (axes, written):
        for number, each in enumerate(figures):
            line = list(_curve(each, leakage=leakage))
            if not line:
                continue
            attacked |= {at for at, _ in line}
            rounds = [at + DODGE * (number - (len(figures) - 1) / 2) for at, _ in line]
            colour, marker = look_of(number)
            axes.plot(
                rounds,
                [interval.value for _, interval in line],
                color=colour,
                marker=marker,
                ms=5,
                lw=1.8,
                ls=STYLES[number % len(STYLES)],
                label=f"{number + 1}  {each.group.label}",
            )
            low, high = [interval.low for _, interval in line], [interval.high for _, interval in line]
            if len(line) > 1:
                axes.fill_between(rounds, low, high, color=colour, alpha=0.12, lw=0)
            else:
                axes.vlines(rounds, low, high, color=colour, lw=1.2)
        axes.axhline(0, color="#999999", lw=0.8)
        axes.set(xlabel="federation round", ylabel=_name(leakage))
        if len(attacked) <= MOST_TICKS:
            axes.set_xticks(sorted(attacked))
        axes.margins(x=0.1)
        _finish(axes)
    return written[0]


def _bars_svg(figures: Sequence[GroupFigures], *, leakage: bool) -> str:
    """Draw the one round that was attacked: a bar per group with its interval."""
    with _axes(0.6 + 0.45 * len(figures)) as (axes, written):
        for number, each in enumerate(figures):
            for at, interval in _curve(each, leakage=leakage):
                axes.barh(-number, interval.value, 0.62, color=look_of(number)[0])
                axes.errorbar(interval.value, -number, xerr=_whisker(interval), color="#222222", capsize=3, lw=1.2)
                axes.set(xlabel=f"{_name(leakage)}, round {at}")
        axes.axvline(0, color="#999999", lw=0.8)
        _name_rows(axes, figures)
    return written[0]


def ladder_svg(figures: Sequence[GroupFigures]) -> str:
    """Draw the ladder of public sets: per group the attack, the public images alone, and the attack without the victim.

    Returns:
        An ``<svg>`` element, the first group on top; empty: the groups have the same public images.
    """
    if len({json.dumps(each.group.values.get(PUBLIC)) for each in figures}) == 1:
        return ""
    metric = figures[0].verdict.primary.metric
    with _axes(0.8 + 0.75 * len(figures)) as (axes, written):
        for place, (arm, meaning, colour) in enumerate(RUNG):
            label: str | None = meaning  # the first bar of an arm names it
            for number, each in enumerate(figures):
                score = each.main.arms[arm]
                if isinstance(score, Missing):
                    continue
                at = -number + 0.26 * (1 - place)
                axes.barh(at, score.value, 0.24, color=colour, label=label)
                label = None
                axes.errorbar(score.value, at, xerr=_whisker(score), color="#222222", capsize=2, lw=1)
                closed = score_of(each, ACCURACY, arm)
                if metric != ACCURACY and not isinstance(closed, Omitted):
                    axes.plot(closed.value, at, "D", mfc="white", mec=colour, ms=6, mew=1.4)
        axes.set(xlabel=f"share of images ({metric})", xlim=(0, 1.03))
        _name_rows(axes, figures)
        axes.legend(frameon=False, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncol=3)
    return written[0]


def _curve(figures: GroupFigures, *, leakage: bool) -> Iterator[tuple[int, Interval]]:
    for point in figures.verdict.points:
        interval = point.leakage if leakage else point.arms["A"]
        if point.attack == figures.verdict.primary.attack and isinstance(interval, Interval):
            yield point.round, interval


def _all_have_leakage(figures: Sequence[GroupFigures]) -> bool:
    return all(isinstance(each.main.leakage, Interval) for each in figures)


def _name(leakage: bool) -> str:
    return "leakage: attack minus no victim" if leakage else "attack accuracy (no leakage: a world is missing)"


def look_of(number: int) -> tuple[str, str]:
    """Return colour and marker of a group; no two of the first 64 groups look alike."""
    cycle, place = divmod(number, len(COLOURS))
    return COLOURS[place], MARKERS[(place + cycle) % len(MARKERS)]


@contextmanager
def _axes(height: float) -> Iterator[tuple[Any, list[str]]]:
    """Yield axes and a list that afterwards holds the picture as SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style: Any = {"svg.fonttype": "none", "font.size": 10, "svg.hashsalt": "fedinverse", "font.family": "sans-serif"}
    written: list[str] = []
    with mpl.rc_context(style):
        figure, axes = plt.subplots(figsize=(7.6, height))
        try:
            yield axes, written
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
            text = buffer.getvalue()
            written.append(text[text.index("<svg") :])
        finally:
            plt.close(figure)


def _finish(axes: Any) -> None:
    axes.yaxis.set_major_formatter(_percent())
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2)


def _whisker(figure: Interval | Spread) -> list[list[float]]:
    return [[figure.value - figure.low], [figure.high - figure.value]]


def _name_rows(axes: Any, figures: Sequence[GroupFigures]) -> None:
    names = [f"{number}  {each.group.label}" for number, each in enumerate(figures, 1)]
    axes.set_yticks([-number for number in range(len(figures))], names)
    axes.xaxis.set_major_formatter(_percent())
    axes.spines[["top", "right"]].set_visible(False)


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0, decimals=0)
