"""Fills the page's template. Everything it shows is computed before; it draws no conclusion of its own."""

import base64
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape


@dataclass(frozen=True)
class Figures:
    """What the page shows.

    Attributes:
        title: name of the run.
        headline: one sentence, the finding.
        finding: the same in figures, with the controls.
        notes: the verdict's reasons, and what else qualifies it (overlap allowed, say).
        curves: (attack, svg) of every attack.
        grids: (caption, alternative text, png bytes).
        leakage: table header and rows: per attack and round.
        classes: table header and rows: per class.
        utility: table header and rows: accuracy per round.
        threat: (who, what) pairs.
        cost: (what, how much) pairs.
        config: the resolved configuration as text.
    """

    title: str
    headline: str
    finding: str
    notes: list[str]
    curves: list[tuple[str, str]]
    grids: list[tuple[str, str, bytes]]
    leakage: tuple[list[str], list[list[str]]]
    classes: tuple[list[str], list[list[str]]]
    utility: tuple[list[str], list[list[str]]]
    threat: list[tuple[str, str]]
    cost: list[tuple[str, str]]
    config: str


def render(figures: Figures) -> str:
    """Return the page as one HTML text with every picture inside it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    style = (Path(__file__).parent / "report.css").read_text()
    return environment.get_template("report.html").render(f=figures, style=style)


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
