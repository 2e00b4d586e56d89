"""Fills the comparison's page and writes the same tables as Markdown; it draws no conclusion of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from report.table import Table
from report.template import templates_in


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
        title: what is compared.
        findings: one sentence per group.
        marks: what a reader must know before believing them.
        plane: leakage against utility, an ``<svg>`` element.
        rounds: those whose leakage is drawn.
        curves: leakage against these rounds, or bars if it is one; an ``<svg>`` element.
        ladder: the same attack with different public images, an ``<svg>`` element; empty: they are the same.
        tables: all figures.
        varying: (group, what it is configured with) pairs.
        runs: (group, paths of its run directories) pairs.
    """

    title: str
    findings: list[str]
    marks: list[str]
    plane: str
    rounds: tuple[int, ...]
    curves: str
    ladder: str
    tables: list[Table]
    varying: list[tuple[str, str]]
    runs: list[tuple[str, str]]


def render(page: Page) -> str:
    """Return the page as one HTML text with every picture inside it."""
    here = Path(__file__).parent
    environment = templates_in(here)
    return environment.get_template("compare.html").render(
        p=page, style=(here / "compare.css").read_text(encoding="utf-8")
    )


def markdown(page: Page) -> str:
    """Return findings and tables as Markdown, to be included in a document as they are."""
    parts = ["\n".join(f"- {finding}" for finding in page.findings)]
    for table in page.tables:
        parts += [f"**{_cell(table.caption)}**", _markdown(table.header, table.rows)]
        if table.notes:
            parts.append("\n".join(f"- {note}" for note in table.notes))
    if page.marks:
        parts.append("\n".join(f"- Note: {mark}" for mark in page.marks))
    return "\n\n".join(parts) + "\n"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in (header, ruler, *rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
