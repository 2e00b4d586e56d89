"""Fills the page's template. Everything it shows is computed before; it draws no conclusion of its own."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from auditor.decision import TITLES, Outcome
from report.run.curve import Canvas, Chart
from report.run.gallery import Gallery, data_uri
from report.run.partition import Partition
from report.run.tables import Table
from report.template import templates_in

WIDE, NARROW = (1032, 350), (358, 260)  # drawings of a chart for a desk and for a phone, in CSS pixels
NOT_ATTACKED = "Not attacked"


@dataclass(frozen=True)
class Leakage:
    """What the page shows of a run that was attacked.

    Attributes:
        charts: one per attack, the primary one first.
        galleries: likewise.
        sheets: (caption, alternative text, png) of some reconstructions and controls.
        controls: (arm, name, meaning, figure) of the primary attack and round.
        figures: (name, figure, meaning): the verdict's other figures.
        rounds: every attack and round.
        classes: every attacked class.
        whole_set: the arms at the primary round, judged as sets.
        metrics: (metric, what it says).
        omitted: (metric, why it could not be had).
        cost: every inversion.
    """

    charts: list[Chart]
    galleries: list[Gallery]
    sheets: list[tuple[str, str, bytes]]
    controls: list[tuple[str, str, str, str]]
    figures: list[tuple[str, str, str]]
    rounds: Table
    classes: Table
    whole_set: Table | None
    metrics: list[tuple[str, str]]
    omitted: list[tuple[str, str]]
    cost: Table


@dataclass(frozen=True)
class Figures:
    """What the page shows.

    Attributes:
        title: name of the run.
        outcome: the verdict's; empty: the run was not attacked.
        headline: one sentence, the finding.
        finding: the same in figures, with the controls; empty: none.
        marks: what must stand beside the verdict in any case (overlap allowed, say).
        notes: the verdict's reasons.
        settle: what would settle it; empty: it is settled.
        facts: (figure, what it is, its interval or a remark): a handful.
        leakage: of an attacked run.
        utility: accuracy per round.
        partition: who holds which class.
        clients: what is known of every client.
        cohorts: the federation's defences; None: there are none.
        threat: (who, what) pairs.
        times: (stage, seconds as text) pairs.
        config: the resolved configuration as text.
    """

    title: str
    outcome: Outcome | Literal[""]
    headline: str
    finding: str
    marks: list[str]
    notes: list[str]
    settle: list[str]
    facts: list[tuple[str, str, str]]
    leakage: Leakage | None
    utility: Table
    partition: Partition
    clients: Table
    cohorts: Table | None
    threat: list[tuple[str, str]]
    config: str
    times: list[tuple[str, str]] = field(default_factory=list)


def render(figures: Figures) -> str:
    """Return the page as one HTML text with style, script and every picture inside it."""
    here = Path(__file__).parent
    environment = templates_in(here)
    environment.filters["data_uri"] = data_uri
    charts = figures.leakage.charts if figures.leakage else []
    return environment.get_template("report.html").render(
        f=figures,
        outcome=TITLES[figures.outcome] if figures.outcome else NOT_ATTACKED,
        canvases=[("wide", WIDE), ("narrow", NARROW)],
        canvas=Canvas,
        style=(here / "report.css").read_text(),
        script=(here / "report.js").read_text(),
        data=_inline_json([chart.figures() for chart in charts]),
    )


def _inline_json(value: object) -> str:
    """Return ``value`` as JSON that cannot close the script element around it."""
    return json.dumps(value).replace("<", "\\u003c")
