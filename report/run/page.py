"""Fills the page's template. Everything it shows is computed before; it draws no conclusion of its own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from auditor.decision import Outcome
from auditor.nearest import KINDS
from auditor.questions import Answer
from report.run.active import ActiveFigures
from report.run.copies import CopiesShown
from report.run.curve import Canvas, Chart
from report.run.gallery import Gallery, data_uri
from report.run.membership import LogCanvas, MembershipFigures
from report.run.partition import Partition
from report.run.people import PeopleFigures
from report.run.updates import UpdateFigures
from report.table import Table
from report.template import templates_in
from report.text import readable

WIDE, NARROW = (1032, 350), (358, 260)  # drawings of a chart for a desk and for a phone, in CSS pixels
PICTURED = 5  # classes under the verdict: what a phone shows side by side


@dataclass(frozen=True)
class Leakage:
    """What the page shows of a run that was attacked.

    Attributes:
        charts: one per attack, the primary one first.
        galleries: likewise.
        copies: training images that the primary attack gave back.
        whose: of a victim who shares their classes, whose images are shown; None: they are theirs alone.
        people: what people said of the primary attack's images; None: nobody's answers were read.
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
    copies: CopiesShown
    whose: Table | None
    people: PeopleFigures | None
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
        name: of the run.
        outcome: the verdict's; empty: the run was not attacked.
        title: of the outcome, the first words of the page.
        plain: the rest of that sentence, in words that need no explanation.
        qualification: what must be read with it; empty: nothing.
        advice: what to do next, the most important first.
        provenance: (what, value) pairs: date, versions, data, hash.
        headline: the verdict's own sentence; empty: none.
        finding: the same in figures, with the controls; empty: none.
        marks: what must stand beside the verdict in any case (overlap allowed, say).
        notes: the verdict's reasons.
        facts: (figure, what it is, its interval or a remark): a handful.
        leakage: of an attacked run.
        utility: accuracy per round.
        partition: who holds which class.
        clients: what is known of every client.
        cohorts: the federation's defences; None: there are none.
        threat: (who, what) pairs.
        times: (stage, seconds as text) pairs.
        config: the resolved configuration as text.
        answers: the four questions and what this run says to each.
        membership: scores and ROC curves; None: not asked.
        canaries: what planted canaries show of epsilon; None: none were planted.
        updates: inverted updates; None: not asked.
        active: what an active participant won, and what the server could see; None: there was none.
    """

    name: str
    outcome: Outcome | Literal[""]
    title: str
    plain: str
    qualification: str
    advice: list[str]
    provenance: list[tuple[str, str]]
    headline: str
    finding: str
    marks: list[str]
    notes: list[str]
    facts: list[tuple[str, str, str]]
    leakage: Leakage | None
    utility: Table
    partition: Partition
    clients: Table
    cohorts: Table | None
    threat: list[tuple[str, str]]
    config: str
    answers: Sequence[Answer] = ()
    membership: MembershipFigures | None = None
    canaries: Table | None = None
    updates: UpdateFigures | None = None
    active: ActiveFigures | None = None
    times: list[tuple[str, str]] = field(default_factory=list)


def render(figures: Figures) -> str:
    """Return the page as one HTML text with style, script and every picture inside it."""
    here = Path(__file__).parent
    environment = templates_in(here)
    environment.filters["data_uri"] = data_uri
    environment.filters["readable"] = readable
    charts = figures.leakage.charts if figures.leakage else []
    return environment.get_template("report.html").render(
        f=figures,
        pictured=_pictured(figures.leakage) if figures.leakage else [],
        canvases=[("wide", WIDE), ("narrow", NARROW)],
        canvas=Canvas,
        log_canvas=LogCanvas,
        style=(here / "report.css").read_text(encoding="utf-8"),
        script=(here / "report.js").read_text(encoding="utf-8"),
        data=_inline_json([chart.figures() for chart in charts]),
    )


def _pictured(leakage: Leakage) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return the rows of pictures under the verdict: (caption, (class, alternative text, data URI) of some classes)."""
    cells = [cell for cell in leakage.galleries[0].victims if len(cell.pictures) == len(KINDS)][:PICTURED]
    rows = [("made from the model", 0), ("the victim's, nearest", 1), ("public, nearest", 3)]
    return [
        (caption, [(cell.name, alternative, uri) for cell in cells for _, alternative, uri, _ in [cell.pictures[kind]]])
        for caption, kind in rows
        if cells
    ]


def _inline_json(value: object) -> str:
    """Return ``value`` as JSON that cannot close the script element around it."""
    return json.dumps(value).replace("<", "\\u003c")
