"""Fills the page's template. Everything it shows is computed before; it draws no conclusion of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from auditor.decision import Outcome
from auditor.nearest import KINDS
from auditor.questions import Answer
from report.run.copies import CopiesShown
from report.run.curve import Canvas, Chart
from report.run.gallery import Gallery, data_uri
from report.run.membership import LogCanvas, MembershipFigures
from report.run.partition import Partition
from report.table import Panel, Table
from report.template import filled, inline_json
from report.text import readable

WIDE, NARROW = (1032, 350), (358, 260)  # drawings of a chart for a desk and for a phone, in CSS pixels
PICTURED = 5  # classes under the verdict: what a phone shows side by side


@dataclass(frozen=True)
class Leakage:
    """What the page shows of a run that was attacked.

    Attributes:
        charts: one per attack, the primary one first.
        copies: training images that the primary attack gave back.
        whose: of a victim who shares their classes, whose images are shown; None: they are theirs alone.
        people: what people said of the primary attack's images; None: nobody's answers were read.
        sheets: (caption, alternative text, png) of some reconstructions and controls.
        controls: (arm, name, meaning, figure) of the primary attack and round.
        figures: (name, figure, meaning): the verdict's other figures.
        whole_set: the arms at the primary round, judged as sets.
        metrics: (metric, what it says).
        omitted: (metric, why it could not be had).
    """

    charts: list[Chart]
    galleries: list[Gallery]
    copies: CopiesShown
    whose: Table | None
    people: Panel | None
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
        outcome: the verdict's; empty: the run was not attacked.
        title: of the outcome, the first words of the page.
        plain: the rest of that sentence, in words that need no explanation.
        qualification: what must be read with it; empty: nothing.
        advice: what to do next, the most important first.
        provenance: (what, value) pairs: date, versions, data, hash.
        headline: the verdict's own sentence; empty: none.
        finding: the same in figures, with the controls; empty: none.
        marks: what must stand beside the verdict in any case (overlap allowed, say).
        facts: (figure, what it is, its interval or a remark): a handful.
        clients: what is known of every client.
        cohorts: the federation's defences; None: there are none.
        threat: (who, what) pairs.
        times: (stage, seconds as text) pairs.
        answers: the four questions and what this run says to each.
        membership: scores and ROC curves; None: not asked.
        canaries: what planted canaries show of epsilon; None: none were planted.
        updates: inverted updates; None: not asked.
        active: what an active participant won, and what the server could see; None: there was none.
    """

    name: str
    title: str
    plain: str
    provenance: list[tuple[str, str]]
    marks: list[str]
    utility: Table
    partition: Partition
    clients: Table
    cohorts: Table | None
    threat: list[tuple[str, str]]
    config: str
    outcome: Outcome | Literal[""] = ""
    qualification: str = ""
    advice: Sequence[str] = ()
    headline: str = ""
    finding: str = ""
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str, str]] = ()
    leakage: Leakage | None = None
    answers: Sequence[Answer] = ()
    membership: MembershipFigures | None = None
    canaries: Table | None = None
    updates: Panel | None = None
    active: Panel | None = None
    times: Sequence[tuple[str, str]] = ()


def render(figures: Figures) -> str:
    """Return the page as one HTML text with style, script and every picture inside it."""
    charts = figures.leakage.charts if figures.leakage else []
    return filled(
        Path(__file__).with_name("report.html"),
        {"data_uri": data_uri, "readable": readable},
        f=figures,
        pictured=_pictured(figures.leakage) if figures.leakage else [],
        canvases=[("wide", WIDE), ("narrow", NARROW)],
        canvas=Canvas,
        log_canvas=LogCanvas,
        data=inline_json([chart.figures() for chart in charts]),
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
